"""Pictures of trainings."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from raydml.report.contents import Comparison, RunContents
from raydml.report.drawing import COLOURS, FAINT, panels, style, svg


def learning_curves(runs: Sequence[RunContents], comparison: Comparison | None) -> str:
    """The metric and the loss of every training, epoch by epoch, in the colour of its group."""
    metric = "val/map@r" if comparison is None else comparison.metric
    names = [name for name in (metric, "train/loss") if any(name in run.curves.metrics for run in runs)]
    with style():
        figure, drawn = panels(max(1, len(names)))
        colours = _colours(comparison)
        order = {run: place for place, run in enumerate(colours)}
        for axes, name in zip(drawn, names, strict=False):
            labelled: set[str] = set()
            for run in sorted(runs, key=lambda run: order.get(run.name, len(order))):
                group, colour = colours.get(run.name, ("unfinished", FAINT))
                label = None if group in labelled else group
                if name in run.curves.metrics:
                    labelled.add(group)
                    axes.plot(run.curves.epochs, run.curves.metrics[name], color=colour, linewidth=1.1, label=label)
            axes.set(xlabel="epoch", ylabel=name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(runs) > 1 and names:
            drawn[0].legend()
        return svg(figure, "runs")


def _colours(comparison: Comparison | None) -> dict[str, tuple[str, str]]:
    groups = () if comparison is None else comparison.groups
    return {
        run: (group.name, COLOURS[place % len(COLOURS)]) for place, group in enumerate(groups) for run in group.runs
    }


def means(comparison: Comparison) -> str:
    """The mean of every group with its interval; a single seed has none."""
    with style():
        groups = [group for group in comparison.groups if comparison.metric in group.means]
        figure, (axes,) = panels(height=1.1 + 0.32 * len(groups))
        for place, group in enumerate(groups):
            found = group.means[comparison.metric]
            colour = COLOURS[comparison.groups.index(group) % len(COLOURS)]
            axes.errorbar([found.mean], [place], xerr=found.half_width, fmt="o", color=colour, capsize=4, markersize=6)
        axes.set(xlabel=comparison.metric, ylim=(len(groups) - 0.5, -0.5))
        axes.set_yticks(
            range(len(groups)), [f"{group.name}  (n = {group.means[comparison.metric].n})" for group in groups]
        )
        axes.grid(visible=False, axis="y")
        return svg(figure, "means")

"""Pictures of confirming and final runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from raydml.report.drawing import COLOURS, FAINT, panels, style, svg
from raydml.report.phases import Confirmation, Finalist, ReadOut
from raydml.report.study_plots import recalls

_BASE = "base"


def confirmed(found: Confirmation) -> str:
    """For every candidate the value of the search and the mean of fresh seeds with its interval."""
    with style():
        figure, (axes,) = panels(height=1.3 + 0.42 * len(found.candidates))
        for place, one in enumerate(found.candidates):
            colour = COLOURS[1] if one.name == _BASE else COLOURS[0]
            if one.search_value is not None:
                label = None if axes.get_legend_handles_labels()[0] else "search value"
                axes.plot([one.search_value], [place - 0.14], "D", color=FAINT, fillstyle="none", label=label)
            if one.mean is not None:
                width = one.mean.half_width
                axes.errorbar([one.mean.mean], [place + 0.1], xerr=width, fmt="o", color=colour, capsize=4)
                axes.plot(list(one.values.values()), [place + 0.26] * len(one.values), "|", color=colour, alpha=0.7)
        names = [_row(one.name, 0 if one.mean is None else one.mean.n) for one in found.candidates]
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel=found.metric, ylim=(len(names) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        return svg(figure, "confirmed")


def _row(name: str, seeds: int) -> str:
    return f"{name if name == _BASE else f'trial {int(name)}'}  (n = {seeds})"


def fold_curves(found: Confirmation) -> str:
    """The winner's metric on every fold, epoch by epoch."""
    with style():
        figure, (axes,) = panels(width=5.4, height=3.2)
        for place, (fold, curve) in enumerate(found.fold_curves.items()):
            epochs = range(1, len(curve) + 1)
            axes.plot(epochs, curve, marker=".", color=COLOURS[place % len(COLOURS)], label=f"fold {fold}")
        axes.set(xlabel="epoch", ylabel=found.metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return svg(figure, "folds")


def recall_on_test(columns: Sequence[tuple[Finalist, ReadOut]]) -> str:
    """recall@k on the test classes with intervals over seeds."""
    with style():
        figure, (axes,) = panels(width=5.4, height=3.2)
        read_outs = {read_out for _, read_out in columns}
        shown: list[int] = []
        for one, read_out in columns:
            ks = recalls({name: found.mean.mean for name, found in one.metrics[read_out].items()})
            widths = [one.metrics[read_out][f"recall@{k}"].mean.half_width or 0.0 for k in ks]
            axes.errorbar(
                list(ks),
                list(ks.values()),
                yerr=widths,
                capsize=3,
                marker="o",
                markersize=4,
                color=COLOURS[1] if one.name == _BASE else COLOURS[0],
                linestyle="--" if read_out == "concatenated" else "-",
                label=one.name if len(read_outs) == 1 else f"{one.name}, {read_out}",
            )
            shown = sorted({*shown, *ks})
        axes.set_xscale("log", base=2)
        axes.set_xticks(shown, [str(k) for k in shown])
        axes.minorticks_off()
        axes.set(xlabel="k", ylabel="recall@k", ylim=(0, 1.02))
        axes.legend(loc="lower right")
        return svg(figure, "test-recall")

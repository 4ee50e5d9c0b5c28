"""Pictures of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from raydml.config import Scalar
from raydml.report.contents import Best, Dimension, Metrics, StudyContents, Trial
from raydml.report.drawing import COLOURS, FAINT, panels, style, svg

_GOOD, _PRUNED, _FAILED = COLOURS[0], COLOURS[1], COLOURS[4]
# So few steps that its bar is drawn as paths: a page holds no pictures made of points.
_MAP = LinearSegmentedColormap.from_list("value", [COLOURS[5], COLOURS[0], COLOURS[2], "#c9b22b"], N=32)


def history(study: StudyContents) -> str:
    """Value of every trial in the order they were begun, with the best so far."""
    with style():
        figure, (axes,) = panels()
        trials = sorted(study.trials, key=lambda trial: trial.number)
        valued = [trial for trial in trials if trial.value is not None]
        for state, colour, marker in (("complete", _GOOD, "o"), ("pruned", _PRUNED, "v"), ("running", FAINT, ".")):
            chosen = [(t.number, t.value) for t in valued if t.state == state]
            if chosen:
                x, y = zip(*chosen, strict=True)
                axes.scatter(x, y, c=colour, marker=marker, s=32, label=state, zorder=3)
        failed = [t.number for t in trials if t.state == "failed"]
        if failed:
            # No value: at the foot of the picture.
            foot = axes.get_xaxis_transform()
            axes.scatter(failed, [0.02] * len(failed), c=_FAILED, marker="x", s=36, label="failed", transform=foot)
        _best_so_far(axes, [t for t in valued if t.state == "complete"])
        _raw_pixels(axes, study)
        axes.set(xlabel="trial", ylabel=study.metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return svg(figure, "history")


def _best_so_far(axes: Axes, complete: Sequence[Trial]) -> None:
    best, steps = -math.inf, []
    for trial in complete:
        best = max(best, trial.value or 0.0)
        steps.append((trial.number, best))
    if steps:
        x, y = zip(*steps, strict=True)
        axes.step(x, y, where="post", color=_GOOD, alpha=0.6, label="best so far")


def _raw_pixels(axes: Axes, study: StudyContents) -> None:
    value = study.baseline.get(study.metric.removeprefix("val/"))
    if value is not None:
        axes.axhline(value, color=FAINT, linestyle="--", label="raw pixels")


def importances(study: StudyContents) -> str:
    """Share of the variance that each dimension explains."""
    with style():
        shares = sorted(study.importance.shares.items(), key=lambda item: item[1])
        figure, (axes,) = panels(height=0.9 + 0.3 * len(shares))
        bars = axes.barh([path for path, _ in shares], [share for _, share in shares], color=_GOOD, height=0.6)
        axes.bar_label(bars, labels=[f"{share:.2f}" for _, share in shares], padding=4)
        axes.set(xlim=(0, 1.08), xlabel="share of the variance")
        axes.grid(visible=False, axis="y")
        return svg(figure, "importances")


def parallel_coordinates(study: StudyContents) -> str:
    """A line for every trial through its values; complete ones bear the colour of what they reached."""
    with style():
        paths = list(study.space)
        figure, (axes,) = panels(width=max(8.4, 1.5 * len(paths) + 1.5))
        values = [t.value for t in study.trials if t.state == "complete" and t.value is not None]
        scale = Normalize(min(values, default=0.0), max(values, default=1.0))
        for trial in reversed(study.trials):
            whole = all(path in trial.point for path in paths)
            heights = [_height(study.space[path], trial.point[path]) for path in paths] if whole else []
            if trial.state == "complete" and trial.value is not None:
                axes.plot(heights, color=_MAP(scale(trial.value)), alpha=0.9, zorder=3)
            else:
                axes.plot(heights, color=FAINT, alpha=0.45, linewidth=0.8, zorder=2)
        for place, path in enumerate(paths):
            _axis(axes, place, study.space[path])
        axes.set(xlim=(-0.15, len(paths) - 0.7), ylim=(-0.05, 1.05), yticks=[], xticks=range(len(paths)))
        axes.set_xticklabels(paths)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        if values:
            bar = figure.colorbar(ScalarMappable(scale, _MAP), ax=axes, label=study.metric, pad=0.02)
            bar.ax.grid(visible=False)
        return svg(figure, "parallel")


def _height(dimension: Dimension, value: Scalar) -> float:
    """Where a value lies between the ends of its axis, 0 to 1."""
    if dimension.choices:
        return dimension.choices.index(value) / max(1, len(dimension.choices) - 1)
    low, high = float(dimension.low or 0), float(dimension.high or 0)
    if dimension.log:
        return math.log(float(value) / low) / math.log(high / low)
    return (float(value) - low) / (high - low)


def _axis(axes: Axes, place: int, dimension: Dimension) -> None:
    """A vertical line with the names of its ends, or of every choice."""
    axes.axvline(place, color=FAINT, linewidth=0.8, zorder=1)
    ends = [dimension.low, dimension.high] if not dimension.choices else list(dimension.choices)
    for value in ends:
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            at = (place, _height(dimension, value))
            axes.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=8)


def learning_curves(study: StudyContents, best: Best) -> str:
    """The searched metric and the loss of the best trial, epoch by epoch, with every fold's."""
    with style():
        figure, (left, right) = panels(2)
        x = best.curves.epochs
        for axes, name in ((left, study.metric), (right, "train/loss")):
            for fold in best.folds:
                of_fold = best.curves.metrics.get(f"fold{fold}/{name}")
                if of_fold is not None:
                    axes.plot(x, of_fold, color=COLOURS[(fold + 1) % len(COLOURS)], linewidth=0.9, label=f"fold {fold}")
            if name in best.curves.metrics:
                label = "mean of folds" if best.folds else f"trial {best.number}"
                axes.plot(x, best.curves.metrics[name], color=_GOOD, label=label)
            axes.set(xlabel="epoch", ylabel=name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _raw_pixels(left, study)
        left.legend()
        return svg(figure, "curves")


def recall_curve(study: StudyContents, best: Best) -> str:
    """How often an image of the class is among the k nearest: the best trial beside raw pixels."""
    with style():
        figure, (axes,) = panels(width=5.4, height=3.2)
        ours, pixels = recalls(best.metrics), recalls(study.baseline)
        axes.plot(list(ours), list(ours.values()), marker="o", color=_GOOD, label=f"trial {best.number}")
        if pixels:
            axes.plot(list(pixels), list(pixels.values()), marker="o", color=FAINT, linestyle="--", label="raw pixels")
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(ours), [str(k) for k in ours])
        axes.minorticks_off()
        axes.set(xlabel="k", ylabel="recall@k", ylim=(0, 1.02))
        axes.legend(loc="lower right")
        return svg(figure, "recall")


def recalls(metrics: Metrics) -> dict[int, float]:
    """recall@k by k, of a split or of none."""
    found = {int(name.rpartition("@")[2]): value for name, value in metrics.items() if "recall@" in name}
    return dict(sorted(found.items()))

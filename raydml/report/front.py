"""Several objectives on a page: the trials that no other beats, as a table and against the metric as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes

from raydml import objectives
from raydml.report.blocks import Block, Heading, Paragraph, Picture, metric, shown, table
from raydml.report.contents import StudyContents, Trial
from raydml.report.drawing import COLOURS, FAINT, panels, style, svg

_FRONT = COLOURS[0]
# So many numbers of trials can be read beside their points.
_MOST_NAMED = 12


def front_blocks(study: StudyContents) -> Iterator[Block]:
    """The part of a search with several objectives. At least one trial is complete."""
    yield Heading("The Pareto front", 3)
    small = " and ".join(study.minimize)
    among = f"{len(study.front)} of {len(_complete(study))} complete trials"
    yield Paragraph(
        f"Large {study.metric} against small {small}: {among} are on the front, where no other trial is as good in "
        "every objective and better in one. Each was trained with one seed: neighbours on the front may change places."
    )
    if objectives.SECONDS in study.minimize:
        yield Paragraph(
            "Seconds are those of training and validation on the machines that ran the trials, beside whatever else "
            "ran there: compare them within this search only.",
            warning=True,
        )
    for place, name in enumerate(study.minimize):
        yield Picture(against(study, name, f"front{place}"), f"{study.metric} against {name}: {_line(study)}")
    yield _table(study)


def _line(study: StudyContents) -> str:
    """What the line of a picture is: of two objectives the front itself, of more its share of this plane."""
    if len(study.minimize) == 1:
        return "the line is the front"
    return "the line is the front of these two objectives alone, filled points are on that of all"


def _table(study: StudyContents) -> Block:
    by_number = {trial.number: trial for trial in study.trials}
    settings = [path for path in study.space if path not in study.minimize]
    header = ("trial", study.metric, *study.minimize, *settings)
    rows = [_row(by_number[number], study.minimize, settings) for number in study.front]
    words = [place for place, path in enumerate(header) if any(isinstance(c, str) for c in _choices(study, path))]
    return table("The front, best by the metric first", header, rows, words)


def _row(trial: Trial, minimize: Sequence[str], settings: Sequence[str]) -> tuple[str, ...]:
    further = (shown(trial.point.get(name, trial.further[name])) for name in minimize)
    return (str(trial.number), metric(trial.value), *further, *(shown(trial.point[path]) for path in settings))


def _choices(study: StudyContents, path: str) -> tuple[object, ...]:
    return study.space[path].choices if path in study.space else ()


def _complete(study: StudyContents) -> list[Trial]:
    return [trial for trial in study.trials if trial.state == "complete"]


def against(study: StudyContents, name: str, identifier: str) -> str:
    """The metric of every complete trial over one further objective, with the best that each value of it buys."""
    with style():
        figure, (axes,) = panels()
        points = {trial.number: (trial.further[name], trial.value or 0.0) for trial in _complete(study)}
        beaten = [at for number, at in points.items() if number not in study.front]
        axes.scatter(*_columns([points[n] for n in study.front]), c=_FRONT, s=40, zorder=4, label="on the front")
        if beaten:
            axes.scatter(*_columns(beaten), facecolors="none", edgecolors=FAINT, s=28, zorder=3, label="beaten")
        _step_line(axes, points)
        pixels = study.baseline.get(study.metric.removeprefix("val/"))
        if pixels is not None:
            axes.axhline(pixels, color=FAINT, linestyle="--", label="raw pixels")
        _scale(axes, study, name)
        axes.set(xlabel=name, ylabel=study.metric)
        axes.margins(y=0.1)
        figure.legend(loc="outside right upper")
        return svg(figure, identifier)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _step_line(axes: Axes, points: Mapping[int, tuple[float, float]]) -> None:
    """The best value that at most so much of the objective has bought, up to the most that any trial took."""
    numbers = list(points)
    places = objectives.front([(y, x) for x, y in points.values()])
    corners = {points[numbers[place]]: numbers[place] for place in reversed(places)}
    if len(corners) <= _MOST_NAMED:
        for at, number in corners.items():
            # To the upper left there is nothing: it would be better and smaller.
            axes.annotate(str(number), at, (-4, 4), textcoords="offset points", ha="right", fontsize=8)
    x, y = _columns(sorted(corners))
    most = max(x for x, _ in points.values())
    axes.step([*x, most], [*y, y[-1]], where="post", color=_FRONT, alpha=0.6, linewidth=1.2, zorder=2)


def _scale(axes: Axes, study: StudyContents, name: str) -> None:
    """As the space has the dimension."""
    dimension = study.space.get(name)
    if dimension is not None and dimension.log:
        axes.set_xscale("log")
    if dimension is not None and dimension.choices:
        axes.set_xticks([float(choice) for choice in dimension.choices], [str(choice) for choice in dimension.choices])

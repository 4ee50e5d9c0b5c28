"""The last words of a search on the terminal: the leaderboard, what was confirmed, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from raydml import budget
from raydml.display import leaderboard
from raydml.record import value_of
from raydml.report import report_here
from raydml.report.terminal import print_blocks, summary_blocks
from raydml.space import Study
from raydml.study_folder import StudyFolder
from raydml.tune import SearchResult


def conclude(study: Study, result: SearchResult, console: Console) -> None:
    """Prints it; where the protocol goes beyond the search, writes the report too."""
    console.print(leaderboard(study, result.trials))
    for line in (*_best(study, result), *_time_is_up(study, result)):
        console.print(line, highlight=False, soft_wrap=True)
    for failure in result.failures:
        console.print(f"failed, and would again: {failure}", highlight=False, soft_wrap=True)
    if result.winner is not None and _goes_on(study):
        _show_phases(result.folder, console)


def _best(study: Study, result: SearchResult) -> Iterator[str]:
    metric = study.search.metric
    raw = result.baseline[metric.removeprefix("val/")]
    if result.best is None:
        yield f"no trial completed; raw pixels: {metric} {raw:.4f}"
        return
    value = value_of(result.best) or 0.0
    ratio = f", {value / raw:.1f} x raw pixels ({raw:.4f})" if raw > 0 else ""
    yield f"best: trial {result.best.number}, {metric} {value:.4f}{ratio}"
    yield "a search reports its luckiest trial: expect less from a fresh seed"
    folder = result.folder
    yield f"study: {folder.place}"
    if study.protocol.final is None:
        # Else the model has met the test classes, and once is enough.
        yield f"  next: python -m raydml.evaluate {folder.argument_of('best.yaml')}"
    yield f"  report: python -m raydml.report {folder.argument}"
    yield f"  curves: {folder.curves}"


def _time_is_up(study: Study, result: SearchResult) -> Iterator[str]:
    lines = budget.closing_lines(
        seconds=result.seconds,
        max_hours=study.search.max_hours,
        ended=sum(trial.state.is_finished() for trial in result.trials),
        num_trials=study.search.num_trials,
        paused=sum(trial.state.name == "RUNNING" for trial in result.trials),
    )
    yield from lines
    if lines and _goes_on(study):
        yield "  nothing is confirmed and no test class is looked at before the search has ended"


def _goes_on(study: Study) -> bool:
    return study.protocol.confirm is not None or study.protocol.final is not None


def _show_phases(folder: StudyFolder, console: Console) -> None:
    found = report_here([folder.path], named=lambda path: folder.place if path == folder.path else str(path))
    folder.keep(found.directory)
    print_blocks(console, summary_blocks(found.contents.studies[0]))
    console.print(f"report: {folder.place}/report/report.html", highlight=False, soft_wrap=True)

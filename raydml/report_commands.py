"""`python -m raydml.report RUN [RUN ...] [--fetch DIR]`, from words to an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from raydml.config import ConfigError, ReportOptions
from raydml.report import report as report_on

_DONE = 0


def report(runs: Sequence[str], options: ReportOptions, console: Console) -> int:
    """Writes a report and says where it lies. Raises ConfigError for what cannot be reported on."""
    found = report_on(runs, **dict(options))
    for note in found.contents.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    for ending in ("html", "md", "tex", "json"):
        place = f"{found.place or found.directory}/report.{ending}"
        console.print(f"written: {place}", highlight=False, soft_wrap=True)
    return _DONE


def fetch(runs: Sequence[str], directory: str, options: ReportOptions, console: Console) -> int:
    """Brings a study or a run here, and says what can be done with it. Raises ConfigError for what cannot come."""
    if len(runs) > 1:
        raise ConfigError(f"--fetch: brings one study or run, but got {', '.join(runs)}")
    if options.model_fields_set:
        raise ConfigError(f"{min(options.model_fields_set)}: means nothing to --fetch, which writes no report")
    from raydml import fetching

    folder = Path(directory).expanduser()
    fetching.fetch(runs[0], folder)
    for line in (
        f"fetched: {folder}",
        f"  curves: tensorboard --logdir {folder}",
        *([f"  trials: optuna-dashboard {folder}/optuna.journal"] if (folder / "optuna.journal").exists() else ()),
        f"  report: python -m raydml.report {folder}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return _DONE

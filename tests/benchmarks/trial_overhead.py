"""Seconds that a single-worker trial costs beside its training: `python -m tests.benchmarks.trial_overhead`.

Runs a real search of one trial at a time and measures, for each trial after the first, the time from the end of the
trial before it to its own end, less the time inside its epochs. Wall time: it means something on a quiet machine only.
"""

from __future__ import annotations

import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from raydml import tune
from raydml.config.grammar import validate
from raydml.history import read_history
from raydml.record import trial_directory
from raydml.space import Study

_NUM_TRIALS = 12


def study_of(folder: Path) -> Study:
    """Short trials on small glyphs: the cheaper the training, the plainer what surrounds it."""
    raw: dict[str, Any] = {
        "name": "overhead",
        "base": {
            "data": {
                "kind": "glyphs",
                "num_classes": 24,
                "images_per_class": 8,
                "image_size": 16,
                "batch_size": 16,
                "cache": str(folder / "cache"),
            },
            "training": {"num_epochs": 2, "steps_per_epoch": 4},
        },
        "space": {"loss.margin": {"low": 0.0, "high": 0.5}},
        "search": {"num_trials": _NUM_TRIALS, "max_concurrent": 1, "early_stopping": None},
        "protocol": "quick",
        "storage": str(folder),
    }
    return validate(Study, raw)


def measure(folder: Path) -> list[tuple[int, float, float]]:
    """Trial, seconds of it, seconds of them inside training; without the first, which waits for its actor."""
    result = tune.search(study_of(folder), console=Console(quiet=True))
    ends = [trial.datetime_complete for trial in result.trials]
    rows = []
    for number, (before, end) in enumerate(pairwise(ends), start=1):
        assert before is not None
        assert end is not None
        inside = sum(row["seconds"] for row in read_history(trial_directory(result.directory, number)))
        rows.append((number, (end - before).total_seconds(), inside))
    return rows


def table_of(rows: list[tuple[int, float, float]]) -> Table:
    """One line a trial, then the median."""
    table = Table(title="single-worker trials, seconds", caption="target: overhead <= 1.0 s after the first trial")
    for heading in ("trial", "wall", "inside training", "overhead"):
        table.add_column(heading, justify="right")
    for number, wall, inside in rows:
        table.add_row(str(number), f"{wall:.2f}", f"{inside:.2f}", f"{wall - inside:.2f}")
    table.add_row("median", "", "", f"{statistics.median(wall - inside for _, wall, inside in rows):.2f}")
    return table


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        Console().print(table_of(measure(Path(folder))))


if __name__ == "__main__":
    main()

"""Every look at the test classes is written down: a number that was looked at often is a number that was tuned."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from raydml.config import ConfigError

_FILE = "test_looks.jsonl"
_TEST = "test"


def note_look(directory: Path, checkpoint: Path, metrics: Mapping[str, float], *, at: str = _TEST) -> None:
    """Appends a line to `<directory>/test_looks.jsonl`: time, checkpoint relative to the folder, metrics.

    For folds that are evaluated together `checkpoint` is the folder of their run. `at` tells test lists and protocols
    apart, where a model is looked at by several. On disk when this returns, so that no number exists whose look was
    lost in a crash.
    """
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "checkpoint": checkpoint.relative_to(directory).as_posix(),
        "at": at,
        "metrics": dict(metrics),
    }
    with (directory / _FILE).open("a", encoding="utf-8") as file:
        # In one piece: several evaluations may write at a time.
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def note_curve(directory: Path, checkpoint: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Notes the epochs of a curve on test classes that are not noted yet; of rows without `test/...` nothing."""
    noted = {_look(line, where) for line, where in _lines(directory)}
    for row in rows:
        seen = {name.removeprefix("test/"): value for name, value in row.items() if name.startswith("test/")}
        metrics = {"epoch": row["epoch"], **seen}
        relative = checkpoint.relative_to(directory).as_posix()
        line = json.dumps({"checkpoint": relative, "metrics": metrics})
        if seen and _look(line, relative) not in noted:
            note_look(directory, checkpoint, metrics)


def looks_of(directory: Path) -> dict[str, int]:
    """Looks at test classes by the run whose model looked, `final/winner-seed0`. Raises ConfigError naming the line.

    The same numbers of the same model again are no new look: a look that was interrupted is repeated.
    """
    looks = {_look(line, where) for line, where in _lines(directory)}
    return dict(sorted(Counter(run for run, _ in looks).items()))


def _lines(directory: Path) -> list[tuple[str, str]]:
    """Every line, and where it stands."""
    path = directory / _FILE
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return [(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def _look(line: str, where: str) -> tuple[str, str]:
    """The run, and what it saw."""
    try:
        look = json.loads(line)
        parts = PurePosixPath(look["checkpoint"]).parts
        # Lines of earlier versions do not say at what: there was only one thing to look at.
        saw = json.dumps([look["checkpoint"], look.get("at", _TEST), look["metrics"]], sort_keys=True)
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{where}: no note of a look at test classes: {error}") from None
    return "/".join(part for part in parts if part != "checkpoint" and not part.startswith("fold")) or ".", saw

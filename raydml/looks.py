"""Every look at the test classes is written down: a number that was looked at often is a number that was tuned."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from raydml.config import ConfigError

_FILE = "test_looks.jsonl"


def note_look(directory: Path, checkpoint: Path, metrics: Mapping[str, float]) -> None:
    """Appends a line to `<directory>/test_looks.jsonl`: time, checkpoint relative to the folder, metrics.

    For folds that are evaluated together `checkpoint` is the folder of their run. On disk when this returns, so that
    no number exists whose look was lost in a crash.
    """
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "checkpoint": checkpoint.relative_to(directory).as_posix(),
        "metrics": dict(metrics),
    }
    with (directory / _FILE).open("a", encoding="utf-8") as file:
        # In one piece: several evaluations may write at a time.
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def looked_at(directory: Path) -> list[str]:
    """What of a study, or of a run outside of one, was evaluated on test classes: each checkpoint once, in order.

    Relative to the folder. Raises ConfigError naming file and line where one is broken.
    """
    path = directory / _FILE
    if not path.exists():
        return []
    found: dict[str, None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found[str(json.loads(line)["checkpoint"])] = None
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}: line {number}: no note of a look at test classes") from None
    return list(found)

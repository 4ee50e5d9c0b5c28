"""What lies where in the folder of a study: pure functions of relative posix paths, `trials/0007/metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal

RUNS: Mapping[str, Literal["val", "test"]] = {"trials": "val", "confirm": "val", "final": "test", "train": "test"}
"""Folders of a study that hold runs, and the classes that those are looked at on."""

LOOKS, REPORT, EVALUATION = "test_looks", "report", "evaluation"
# What tells a run from what else has a file of its name.
RUN_FILE = "config.yaml"


def in_checkpoint(path: str) -> bool:
    """Whether a file of a run belongs to a checkpoint."""
    return "checkpoint" in PurePosixPath(path).parts[:-1]


def in_run(path: str) -> bool:
    """Whether a file of a study belongs to one of its runs."""
    parts = PurePosixPath(path).parts
    return parts[0] in RUNS and len(parts) > 2


def added_later(path: str) -> bool:
    """Whether a file of a run belongs to an evaluation or a report of it, which others than its trainer write."""
    parts = PurePosixPath(path).parts
    return EVALUATION in parts[:-2] or REPORT in parts[:-1]


def of_others(path: str) -> bool:
    """Whether a file of a study is not its driver's: of a run, of a report, or made of looks at the test classes."""
    return in_run(path) or PurePosixPath(path).parts[0] in (REPORT, LOOKS, f"{LOOKS}.jsonl")

"""The metrics that a run wrote down: one JSON object an epoch in `metrics.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from raydml.config import ConfigError

Row = dict[str, float]


def read_history(directory: Path) -> list[Row]:
    """The metrics of every epoch that a run finished; none where it has not finished one.

    Raises ConfigError naming file and line where one is broken.
    """
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return [numbers(row, f"{path}: line {number}") for number, row in enumerate(rows, start=1)]


def seconds_of(rows: Sequence[Row]) -> float:
    """Time that a run spent on its epochs."""
    return math.fsum(row.get("seconds", 0.0) for row in rows)


def numbers(row: object, where: str) -> Row:
    """Names and finite numbers. Raises ConfigError naming `where` for anything else."""
    if not isinstance(row, dict) or not all(_is_number(value) for value in row.values()):
        raise ConfigError(f"{where}: expected names and finite numbers")
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

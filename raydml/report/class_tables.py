"""Tables of classes that evaluations leave, `per_class.csv`: read, and checked against the metrics they lie beside."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from raydml.config import ConfigError
from raydml.config.wanted import OF_CLASSES
from raydml.report.estimates import ClassMeans

_REQUIRED = ("class", "num_queries")
# Nor a mean over queries, of which the metrics beside it are means in turn.
_NOT_METRICS = (*_REQUIRED, *OF_CLASSES)
# Digits that a table may have been rounded to.
_TOLERANCE = 1e-4


def read_class_means(evaluation: Path, metrics: Mapping[str, float]) -> ClassMeans | None:
    """The table of a folder with an evaluation; None where there is none.

    Raises ConfigError where it cannot be read, or is not the table of these metrics.
    """
    path = evaluation / "per_class.csv"
    if not path.exists():
        return None
    found = _parsed(path)
    for name, means in found.means.items():
        overall = float(np.average(means, weights=found.num_queries))
        if name in metrics and abs(overall - metrics[name]) > _TOLERANCE:
            raise ConfigError(
                f"{path}: not the table of metrics.json: {name} is {overall:.4f} here and {metrics[name]:.4f} there"
            )
    return found


def _parsed(path: Path) -> ClassMeans:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    # A class whose images are alone has no query, and no metric.
    rows = [row for row in rows if row.get("num_queries") != "0"]
    names = [name for name in (rows[0] if rows else {}) if name not in _NOT_METRICS]
    if not names or not all(key in rows[0] for key in _REQUIRED):
        raise ConfigError(f"{path}: expected the columns class, num_queries and metrics, and a line for each class")
    return ClassMeans(
        classes=tuple(row["class"] for row in rows),
        num_queries=tuple(int(_number(path, line, row, "num_queries")) for line, row in enumerate(rows, start=2)),
        means={name: tuple(_number(path, line, row, name) for line, row in enumerate(rows, start=2)) for name in names},
    )


def _number(path: Path, line: int, row: Mapping[str, str | None], name: str) -> float:
    try:
        value = float(row[name] or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (name == "num_queries" and (value < 1 or value != int(value))):
        raise ConfigError(f"{path}: line {line}: no number for {name}: {row[name]}")
    return value

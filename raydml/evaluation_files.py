"""The files of one evaluation: metrics.json, per_class.csv, protocol.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from raydml import atomic
from raydml.measurement import Measured
from raydml.per_query import QueryMetrics
from raydml.retrieval import RetrievalProtocol, described, facts_of
from raydml.splits import Indices

# A share of ties belongs to the whole gallery; of a class it would say little.
_NOT_BY_CLASS = "tied_queries"


def write_evaluation(
    directory: Path, measured: Measured, protocol: RetrievalProtocol, labels: Indices, name_of: Callable[[int], str]
) -> str:
    """Writes the files; `name_of` a label is its class. Returns the protocol in a line."""
    _write_per_class(directory, measured.queries, name_of)
    line = _write_protocol(directory, protocol, labels)
    atomic.write_json(directory / "metrics.json", measured.metrics())
    return line


def _write_protocol(directory: Path, protocol: RetrievalProtocol, labels: Indices) -> str:
    """protocol.json: what metrics.json, which holds numbers alone, is a result of. The same in a line."""
    line = described(protocol, labels)
    atomic.write_json(directory / "protocol.json", {**facts_of(protocol, labels), "description": line})
    return line


def _write_per_class(directory: Path, found: QueryMetrics, name_of: Callable[[int], str]) -> None:
    """per_class.csv: means over the queries of each class that has any; their weighted mean is metrics.json."""
    names = ["num_queries", *(name for name in found.values if name != _NOT_BY_CLASS)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", *names])
    for label, row in found.class_means().items():
        table.writerow([name_of(label), *(row[name] for name in names)])
    atomic.write_text(directory / "per_class.csv", text.getvalue())

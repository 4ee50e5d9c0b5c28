"""The files of one evaluation: metrics.json, per_class.csv, per_query.parquet, protocol.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raydml import atomic
from raydml.measurement import Measured
from raydml.retrieval import RetrievalProtocol, described, facts_of
from raydml.splits import Indices

# A share of ties belongs to the whole gallery; of a class it would say little.
_NOT_BY_CLASS = "tied_queries"


def write_evaluation(
    directory: Path, measured: Measured, protocol: RetrievalProtocol, labels: Indices, name_of: Callable[[int], str]
) -> str:
    """Writes all but per_query.parquet; `name_of` a label is its class. Returns the protocol in a line."""
    _write_per_class(directory, measured, name_of)
    line = _write_protocol(directory, protocol, labels, measured.engine)
    atomic.write_json(directory / "metrics.json", measured.metrics())
    return line


def _write_protocol(directory: Path, protocol: RetrievalProtocol, labels: Indices, engine: dict[str, int | str]) -> str:
    """protocol.json: what metrics.json, which holds numbers alone, is a result of. The same in a line."""
    line = described(protocol, labels)
    atomic.write_json(directory / "protocol.json", {**facts_of(protocol, labels), **engine, "description": line})
    return line


def _write_per_class(directory: Path, measured: Measured, name_of: Callable[[int], str]) -> None:
    """per_class.csv: a line for each class that has a query.

    Metrics of queries are means over those of the class, and their weighted mean is metrics.json. What a class has of
    the metrics of the whole set, `intra_distance` and `silhouette`, is of all its rows.
    """
    names = ["num_queries", *(name for name in measured.queries.values if name != _NOT_BY_CLASS)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", *names, *measured.by_class])
    for label, row in measured.queries.class_means().items():
        of_all = (values.get(label, "") for values in measured.by_class.values())
        table.writerow([name_of(label), *(row[name] for name in names), *of_all])
    atomic.write_text(directory / "per_class.csv", text.getvalue())


def write_per_query(directory: Path, measured: Measured, index: Indices, labels: Indices) -> None:
    """per_query.parquet: `index` and `label` int64 as embeddings.parquet has them, then a float64 column a metric.

    `index` and `labels` are (N,) of all rows of the split; a line is a query that has a positive. Where galleries are
    drawn, values are means over the draws in which it is a query. `silhouette` is there where it was asked for.
    """
    queries = measured.queries
    assert queries.place is not None
    place = queries.place.cpu()
    of_rows = {name: values.cpu()[place] for name, values in measured.by_row.items()}
    columns = {name: values.cpu().double().numpy() for name, values in {**queries.values, **of_rows}.items()}
    with atomic.replaced_file(directory / "per_query.parquet") as beside:
        pq.write_table(pa.table({"index": index[place.numpy()], "label": labels[place.numpy()], **columns}), beside)

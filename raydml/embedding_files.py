"""Embeddings as Parquet files: columns index, label and embedding, by raydml or by anything else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydml.config import ConfigError
from raydml.splits import Indices

Rows = npt.NDArray[np.float32]


def write_embeddings(path: Path, rows: Rows, labels: Indices, index: Indices) -> None:
    """Parquet that anything reads: index int64, label int64, embedding fixed_size_list<float32>."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    table = pa.table({"index": index, "label": labels, "embedding": as_column(rows)})
    pq.write_table(table, beside)
    beside.replace(path)


def read_embeddings(path: Path) -> tuple[Rows, Indices]:
    """Embeddings (N, D) and labels (N,) of a Parquet file. Raises ConfigError where the columns are not there."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: no readable Parquet file: {error}") from None
    missing = {"label", "embedding"} - set(table.column_names)
    if missing:
        raise ConfigError(f"{path}: needs the columns label and embedding, but has {', '.join(table.column_names)}")
    if not pa.types.is_integer(table.schema.field("label").type):
        raise ConfigError(f"{path}: label must be integers, but is {table.schema.field('label').type}")
    lengths = pc.unique(pc.list_value_length(table["embedding"])).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        raise ConfigError(f"{path}: embeddings must all have the same length, but have {sorted(map(str, lengths))}")
    return as_matrix(table["embedding"]), table["label"].to_numpy().astype(np.int64)


def as_column(rows: Rows) -> pa.FixedSizeListArray:
    """(N, D) as an Arrow column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def as_matrix(column: pa.ChunkedArray) -> Rows:
    """(N, D) of an Arrow column whose lists all have one length."""
    array = column.combine_chunks()
    flat = array.flatten().to_numpy(zero_copy_only=False)
    matrix: Rows = flat.reshape(len(array), -1).astype(np.float32)
    return matrix

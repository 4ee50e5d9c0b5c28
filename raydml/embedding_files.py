"""Embeddings as Parquet files: columns index, label, embedding and maybe role, by raydml or by anything else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydml.config import ConfigError
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY, Roles
from raydml.splits import Indices

Rows = npt.NDArray[np.float32]
ROLE_NAMES = {QUERY: "query", GALLERY: "gallery"}


def write_embeddings(
    path: Path,
    rows: Rows,
    labels: Indices,
    index: Indices,
    roles: Roles | None = None,
    groups: Indices | None = None,
) -> None:
    """Parquet that anything reads: index int64, label int64, embedding fixed_size_list<float32>.

    Where images have roles also role: `query`, `gallery`, or null for either; where they have groups, group int64.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    columns = {"index": index, "label": labels, "embedding": as_column(rows)}
    if roles is not None:
        columns["role"] = pa.array([ROLE_NAMES.get(role) for role in roles.tolist()], pa.string())
    if groups is not None:
        columns["group"] = groups
    pq.write_table(pa.table(columns), beside)
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


def read_roles(path: Path) -> Roles | None:
    """(N,) of a file that `read_embeddings` reads: what its column `role` says, None where it has none.

    Raises ConfigError for anything but `query`, `gallery` or nothing.
    """
    if "role" not in pq.read_schema(path).names:
        return None
    named = [value or None for value in pq.read_table(path, columns=["role"])["role"].to_pylist()]
    known: dict[object, int] = {None: ANY_ROLE, **{name: role for role, name in ROLE_NAMES.items()}}
    unknown = sorted({str(value) for value in named if value not in known})
    if unknown:
        raise ConfigError(f"{path}: role must be query, gallery or empty, but is also {', '.join(unknown[:3])}")
    return np.array([known[value] for value in named], dtype=np.int8)


def as_column(rows: Rows) -> pa.FixedSizeListArray:
    """(N, D) as an Arrow column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def as_matrix(column: pa.ChunkedArray) -> Rows:
    """(N, D) of an Arrow column whose lists all have one length."""
    array = column.combine_chunks()
    flat = array.flatten().to_numpy(zero_copy_only=False)
    matrix: Rows = flat.reshape(len(array), -1).astype(np.float32)
    return matrix

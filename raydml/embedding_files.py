"""Embeddings as Parquet files: columns index, label, embedding and maybe role; `raydml.stored` reads them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raydml.data.listing import ROLES, Roles
from raydml.splits import Indices

Rows = npt.NDArray[np.float32]
_NAMED = {role: name or None for name, role in ROLES.items()}


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
        columns["role"] = role_column(roles)
    if groups is not None:
        columns["group"] = groups
    pq.write_table(pa.table(columns), beside)
    beside.replace(path)


def role_column(roles: Roles) -> pa.StringArray:
    """(N,) as words; null for either."""
    return pa.array([_NAMED[role] for role in roles.tolist()], pa.string())


def as_column(rows: Rows) -> pa.FixedSizeListArray:
    """(N, D) as an Arrow column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def as_matrix(column: pa.ChunkedArray) -> Rows:
    """(N, D) of an Arrow column whose lists all have one length."""
    array = column.combine_chunks()
    flat = array.flatten().to_numpy(zero_copy_only=False)
    matrix: Rows = flat.reshape(len(array), -1).astype(np.float32)
    return matrix

"""Small galleries in Parquet, with everything that is hard about them: duplicates, ties, lone classes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raydml.data.listing import ANY_ROLE, GALLERY, QUERY, Roles
from raydml.embedding_files import Rows
from raydml.splits import Indices

_WORDS = {ANY_ROLE: None, QUERY: "query", GALLERY: "gallery"}


def tied_rows(num_rows: int, dim: int = 8, *, seed: int = 0) -> tuple[Rows, Indices]:
    """Unit rows of few coordinates, many of them equal: most queries are tied. Some classes have one image."""
    rng = np.random.default_rng(seed)
    codes = rng.choice([-1.0, 1.0], size=(num_rows, dim)).astype(np.float32)
    codes[::7] = codes[0]
    # A power of two: products are exact, ties are ties.
    labels = rng.integers(num_rows // 4, size=num_rows)
    labels[-3:] = num_rows + np.arange(3)
    rows: Rows = codes * np.float32(0.25)
    return rows, labels.astype(np.int64)


def plain_rows(num_rows: int, dim: int = 8, *, seed: int = 0) -> tuple[Rows, Indices]:
    """Rows of no particular length around the centres of their classes, some twice."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_rows // 5, size=num_rows)
    rows = rng.normal(size=(num_rows // 5, dim))[labels] + rng.normal(size=(num_rows, dim))
    rows[5:10] = rows[:5]
    return rows.astype(np.float32), labels.astype(np.int64)


def mixed_roles(num_rows: int) -> Roles:
    """A third queries, two thirds gallery, some of either."""
    roles = np.where(np.arange(num_rows) % 3 == 0, QUERY, GALLERY).astype(np.int8)
    roles[::5] = ANY_ROLE
    return roles


def write_parts(
    folder: Path,
    rows: npt.NDArray[np.floating],
    labels: Indices,
    roles: Roles | None = None,
    *,
    cuts: tuple[int, ...] = (),
    group: int = 16,
) -> Path:
    """A folder of files that end at `cuts`, with row groups of `group` rows."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [0, *cuts, len(labels)]
    for number, (low, high) in enumerate(pairwise(bounds)):
        columns: dict[str, pa.Array] = {"label": pa.array(labels[low:high]), "embedding": lists(rows[low:high])}
        if roles is not None:
            columns["role"] = pa.array([_WORDS[role] for role in roles[low:high].tolist()], pa.string())
        pq.write_table(pa.table(columns), folder / f"part-{number:06d}.parquet", row_group_size=group)
    return folder


def lists(rows: npt.NDArray[np.floating]) -> pa.Array:
    """(n, D) as lists of fixed length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])

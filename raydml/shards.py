"""Who is a query, who is in the gallery, and how both are cut: pure functions of labels and roles, without embeddings.

The process that cuts holds 9 bytes of each row, 17 with groups, and no row of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raydml.config import ConfigError
from raydml.data.listing import ANY_ROLE, ROLES, Roles, may_be
from raydml.splits import Indices
from raydml.stored import Stored, stream

# Rows of labels and roles that are decoded at a time.
_AT_A_TIME = 2**18
# A cut moves to the end of a row group that is nearer than this share of a shard: no group is decoded twice.
_SNAP = 0.05
# Queries of a block, and pairs of a query and a positive: a block, its thresholds and its counts stay below 100 MB.
_MOST_QUERIES = 8192
_MOST_POSITIVES = 2**22


class Columns(NamedTuple):
    """What is known of each of N rows beside its embedding."""

    labels: Indices
    """(N,)"""
    roles: Roles | None
    """(N,)"""
    groups: Indices | None = None
    """(N,) numbers of groups, such as cameras; a row without one has one of its own."""


class Shard(NamedTuple):
    """A part of the gallery: those of the rows start ... stop - 1 that are in it, in the order of their classes."""

    start: int
    stop: int
    identity: Indices
    """(n,) rows counted over all files."""
    labels: Indices
    """(n,), rising."""
    groups: Indices | None
    """(n,)"""


def read_columns(stored: Stored) -> Columns:
    """All rows, some at a time. Raises ConfigError where a label is null or too large, or a role no role."""
    labels = np.empty(stored.num_rows, dtype=np.int64)
    roles = np.empty(stored.num_rows, dtype=np.int8) if "role" in stored.names else None
    groups = np.empty(stored.num_rows, dtype=np.int64) if "group" in stored.names else None
    number_of: dict[object, int] = {}
    names: list[str] = [name for name in ("label", "role", "group") if name in stored.names]
    for part in stream(stored, names, 0, stored.num_rows, batch_size=_AT_A_TIME):
        columns = dict(zip(names, part.columns, strict=True))
        rows = slice(part.row, part.row + len(columns["label"]))
        labels[rows] = _labels(columns["label"], stored.named(part.path))
        if roles is not None:
            roles[rows] = _roles(columns["role"], stored.named(part.path))
        if groups is not None:
            groups[rows] = _groups(columns["group"], number_of, part.row)
    return Columns(labels, roles, groups)


def _labels(column: pa.Array, name: str) -> Indices:
    if column.null_count:
        raise ConfigError(f"{name}: label must not be null, but some are: only rows that have one can be evaluated")
    try:
        found: Indices = _decoded(column).cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{name}: label must be integers of 64 bits: {error}") from None
    return found


def _roles(column: pa.Array, name: str) -> Roles:
    encoded = _decoded(column).dictionary_encode()
    words = ["" if word is None else word for word in encoded.dictionary.to_pylist()]
    unknown = sorted({str(word) for word in words if word not in ROLES})
    if unknown:
        raise ConfigError(f"{name}: role must be query, gallery or empty, but is also {', '.join(unknown[:3])}")
    known = np.array([*(ROLES[word] for word in words), ANY_ROLE], dtype=np.int8)
    codes = encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
    found: Roles = known[codes]
    return found


def _groups(column: pa.Array, number_of: dict[object, int], row: int) -> Indices:
    """Numbers of equal groups are equal in all files. A row without a group has the negative of its own number."""
    encoded = _decoded(column).dictionary_encode()
    known = [number_of.setdefault(value, len(number_of)) for value in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)
    numbers = np.array([*known, -1], dtype=np.int64)[codes]
    return np.where(numbers < 0, -1 - row - np.arange(len(numbers)), numbers)


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def rows_of(columns: Columns, role: int) -> Indices:
    """Rows, rising, that are queries or that are the gallery; all where no row has a role."""
    if columns.roles is None:
        return np.arange(len(columns.labels), dtype=np.int64)
    return np.flatnonzero(may_be(columns.roles, role)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The rows of the gallery and where it is cut."""

    columns: Columns
    """Of all rows."""
    index: Indices
    """(M,) rows that are in the gallery, rising."""
    bounds: Indices
    """(S + 1,) rows of all files at which shards begin and end."""

    @property
    def num_shards(self) -> int:
        """S."""
        return len(self.bounds) - 1

    def num_rows(self, number: int) -> int:
        """Rows of the gallery in a shard."""
        low, high = np.searchsorted(self.index, self.bounds[number : number + 2])
        return int(high - low)

    def shard(self, number: int) -> Shard:
        """One of the S shards, without its embeddings."""
        start, stop = self.bounds[number : number + 2].tolist()
        low, high = np.searchsorted(self.index, [start, stop])
        index = self.index[low:high]
        labels, _, groups = self.columns
        index = index[np.argsort(labels[index], kind="stable")]
        return Shard(start, stop, index, labels[index], None if groups is None else groups[index])


def cut(columns: Columns, gallery: Indices, ends: Indices, num_shards: int) -> Gallery:
    """Shards of about equal numbers of rows of the gallery (M,), none empty: at most M of them.

    `ends` are rows at which row groups end: a cut moves there where that is near.
    """
    num_shards = min(num_shards, len(gallery))
    # Before which row of the gallery each cut is; the first of a shard is its own.
    places = np.arange(1, num_shards) * len(gallery) // num_shards
    reach = int(_SNAP * len(gallery) / num_shards)
    near = np.searchsorted(gallery, ends)
    if len(near):
        after = np.searchsorted(near, places).clip(1, len(near) - 1) if len(near) > 1 else np.zeros_like(places)
        before = np.maximum(after - 1, 0)
        best = np.where(abs(near[before] - places) <= abs(near[after] - places), near[before], near[after])
        places = np.where(abs(best - places) <= reach, best, places)
    bounds = np.concatenate([gallery[:1], gallery[places], gallery[-1:] + 1]).astype(np.int64)
    return Gallery(columns, gallery, bounds)


def query_blocks(labels: Indices, query: Indices, gallery: Indices) -> Iterator[slice]:
    """Cuts queries (Q,) so that a block, its thresholds and its counts need little memory, however large a class is."""
    classes, sizes = np.unique(labels[gallery], return_counts=True)
    place = np.searchsorted(classes, labels[query]).clip(max=len(classes) - 1)
    positives = np.where(classes[place] == labels[query], sizes[place], 0)
    total = np.cumsum(positives)
    start = 0
    while start < len(query):
        before = int(total[start - 1]) if start else 0
        stop = int(np.searchsorted(total, before + _MOST_POSITIVES, side="right"))
        stop = min(max(stop, start + 1), start + _MOST_QUERIES, len(query))
        yield slice(start, stop)
        start = stop

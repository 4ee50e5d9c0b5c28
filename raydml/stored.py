"""Embeddings in Parquet, by anyone, read in parts: of a gallery that no machine has the memory for.

A root is a file, a folder of files (in the order of their paths) or a URI of either. Rows are counted over all files.
What is read stays near the size of the rows that are asked for, however large the row groups are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from raydml.block_folder import ABOUT
from raydml.config import ConfigError
from raydml.config.places import refused_credentials
from raydml.data.files import Files
from raydml.embedding_files import Rows
from raydml.splits import Indices

FIELD = "embeddings"
# Values decoded at a time: 2 MiB of float32, and the same for Arrow's lists.
_VALUES = 2**19
_BUFFER_BYTES = 2**20
# Files whose footers are read at the same time.
_REQUESTS = 16
# Rows that a message names.
_EXAMPLES = 5


class _Footer(NamedTuple):
    group_rows: tuple[int, ...]
    names: tuple[str, ...]
    embedding: pa.DataType


@dataclass(frozen=True)
class Stored:
    """Where embeddings lie. Plain data: other processes open the place themselves."""

    files: Files
    paths: tuple[str, ...]
    """Relative to the root, in the order of the rows."""
    groups: tuple[tuple[int, ...], ...]
    """Rows of each row group of each file."""
    names: tuple[str, ...]
    """Columns that all files have."""
    dim: int
    scaled: bool
    """Rows are unit rows as they are; else they are scaled when they are read."""

    @property
    def starts(self) -> Indices:
        """(F + 1,) int64: the first row of each file, and at the end the number of rows."""
        return np.concatenate([[0], np.cumsum([sum(rows) for rows in self.groups])]).astype(np.int64)

    @property
    def num_rows(self) -> int:
        """Of all files."""
        return int(self.starts[-1])

    @property
    def ends(self) -> Indices:
        """Rows at which a row group ends, rising."""
        return np.cumsum([rows for groups in self.groups for rows in groups], dtype=np.int64)

    def named(self, path: str = "") -> str:
        """The root or one of its files, for a message."""
        return self.files.named(path)


class Part(NamedTuple):
    """Some rows of one file."""

    path: str
    row: int
    """The first, counted over all files."""
    columns: list[pa.Array]


def open_stored(root: str | os.PathLike[str], *, scaled: bool = False) -> Stored:
    """Looks at the footers alone. Raises ConfigError where no readable Parquet files with embeddings lie there."""
    if (refused := refused_credentials(os.fspath(root))) is not None:
        raise ConfigError(f"{FIELD}: {refused}")
    files = Files(os.fspath(root), field=FIELD)
    match files.kind():
        case "file":
            paths: tuple[str, ...] = ("",)
        case "folder":
            listed = files.listed()
            _require_complete(files, listed)
            paths = tuple(path for path in listed if path.endswith(".parquet"))
        case _:
            raise ConfigError(f"{FIELD}: no such file or folder: {files.named()}")
    if not paths:
        raise ConfigError(f"{files.named()}: holds no file *.parquet")
    with ThreadPoolExecutor(_REQUESTS) as pool:
        footers = list(pool.map(lambda path: _footer(files, path), paths))
    groups = tuple(footer.group_rows for footer in footers)
    if not any(map(any, groups)):
        raise ConfigError(f"{files.named()}: holds no embeddings")
    return Stored(files, paths, groups, _common(files, paths, footers), _dimension(files, paths, footers), scaled)


def fingerprint(stored: Stored) -> str:
    """Eight hexadecimal digits of the content of a file on this machine; elsewhere of names, sizes and times."""
    if stored.files.is_local and stored.paths == ("",):
        with stored.files.opened() as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=4)).hexdigest()
    stamps = stored.files.stamps(stored.paths)
    told = json.dumps([(path, *stamps[path]) for path in stored.paths])
    return hashlib.blake2b(told.encode(), digest_size=4).hexdigest()


def _require_complete(files: Files, listed: Container[str]) -> None:
    """Raises ConfigError for a folder that `raydml.embed` has not finished."""
    if ABOUT not in listed:
        return
    try:
        unfinished = json.loads(files.text(ABOUT))["complete"] is False
    except (ValueError, LookupError, TypeError):
        # A file of somebody else.
        unfinished = False
    if unfinished:
        raise ConfigError(f"{files.named()}: is not all there yet: the same raydml.embed goes on with it")


def _footer(files: Files, path: str) -> _Footer:
    try:
        with files.opened(path) as file, pq.ParquetFile(file) as parquet:
            schema, meta = parquet.schema_arrow, parquet.metadata
            rows = tuple(meta.row_group(group).num_rows for group in range(meta.num_row_groups))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(files.named(path), error) from None
    missing = {"label", "embedding"} - set(schema.names)
    if missing == {"label"}:
        raise ConfigError(
            f"{files.named(path)}: has no column label, and metrics need the class of every image: embed images in "
            "class folders, or listed in a table with a column label"
        )
    if missing:
        raise ConfigError(
            f"{files.named(path)}: needs the columns label and embedding, but has {', '.join(schema.names)}"
        )
    label = _plain(schema.field("label").type)
    if not pa.types.is_integer(label):
        raise ConfigError(f"{files.named(path)}: label must be integers, a number for each class, but is {label}")
    return _Footer(rows, tuple(schema.names), schema.field("embedding").type)


def _unreadable(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{name}: no readable Parquet file: {' '.join(str(error).split())}")


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _common(files: Files, paths: Sequence[str], footers: Sequence[_Footer]) -> tuple[str, ...]:
    """Columns of all files. Raises ConfigError where only some say what their rows are for."""
    for name in ("role", "group"):
        having = [path for path, footer in zip(paths, footers, strict=True) if name in footer.names]
        if having and len(having) < len(paths):
            lacking = next(path for path in paths if path not in having)
            raise ConfigError(
                f"{files.named(lacking)}: {name} must be a column of all files or of none, "
                f"but {files.named(having[0])} has it"
            )
    return tuple(name for name in footers[0].names if all(name in footer.names for footer in footers))


def _dimension(files: Files, paths: Sequence[str], footers: Sequence[_Footer]) -> int:
    """That of all files where the types tell it, else of the first row; others are checked when they are read."""
    known: dict[int, str] = {}
    for path, footer in zip(paths, footers, strict=True):
        kind = footer.embedding
        values = kind.value_type if _is_list(kind) else kind
        if not _is_list(kind) or not (pa.types.is_floating(values) or pa.types.is_integer(values)):
            raise ConfigError(f"{files.named(path)}: embedding must be lists of numbers, but is {kind}")
        if pa.types.is_fixed_size_list(kind):
            known.setdefault(kind.list_size, path)
        elif not known and any(footer.group_rows):
            first = next(_record_batches(files, path, ["embedding"], footer.group_rows, 0, 1, batch_size=1))[1][0]
            known.setdefault(len(first[0].as_py() or ()), path)
    if len(known) > 1:
        (one, path), (other, another) = list(known.items())[:2]
        raise ConfigError(
            f"{files.named(another)}: embeddings must all have the same length, but have {other}, "
            f"and those of {files.named(path)} have {one}"
        )
    if (dim := next(iter(known))) < 1:
        raise ConfigError(f"{files.named(known[dim])}: embeddings must have at least one number")
    return dim


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _record_batches(
    files: Files, path: str, columns: list[str], group_rows: Sequence[int], start: int, stop: int, *, batch_size: int
) -> Iterator[tuple[int, list[pa.Array]]]:
    """Columns of the rows start ... stop - 1 of a file, some at a time, each time with the first of these rows."""
    ends = np.cumsum(group_rows)
    wanted = [g for g in range(len(ends)) if ends[g] > start and ends[g] - group_rows[g] < stop and group_rows[g]]
    if not wanted:
        return
    position = int(ends[wanted[0]] - group_rows[wanted[0]])
    try:
        # A buffer: without one a row group is in memory before its first row is.
        with files.opened(path) as file, pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size, wanted, columns, use_threads=False):
                low, high = max(start, position), min(stop, position + len(batch))
                if low < high:
                    part = batch.slice(low - position, high - low)
                    yield low, [part.column(name) for name in columns]
                position += len(batch)
                if position >= stop:
                    return
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(files.named(path), error) from None


def stream(stored: Stored, columns: list[str], start: int, stop: int, *, batch_size: int) -> Iterator[Part]:
    """Columns of the rows start ... stop - 1, in order, some at a time."""
    for path, first, groups in zip(stored.paths, stored.starts.tolist(), stored.groups, strict=False):
        low, high = max(start - first, 0), min(stop - first, sum(groups))
        if low < high:
            for row, arrays in _record_batches(stored.files, path, columns, groups, low, high, batch_size=batch_size):
                yield Part(path, first + row, arrays)


def read_rows(stored: Stored, index: Indices, place: Indices | None = None) -> Rows:
    """Unit rows (n, D) float32 of the rows `index` (n,), rising; row `index[i]` goes to `place[i]`, to i where None.

    Memory is that of the result and some megabytes. Raises ConfigError that names rows which are not finite, and a file
    of another dimension.
    """
    rows = np.empty((len(index), stored.dim), dtype=np.float32)
    done = 0
    batch_size = max(1, _VALUES // stored.dim)
    for part in stream(stored, ["embedding"], int(index[0]), int(index[-1]) + 1, batch_size=batch_size):
        [column] = part.columns
        until = int(np.searchsorted(index, part.row + len(column)))
        taken = index[done:until] - part.row
        found = _matrix(column.take(pa.array(taken)) if len(taken) < len(column) else column, stored, part)
        _require_finite(found, index[done:until], stored, part)
        # As an evaluation in one process does, row by row the same bits.
        unit = found if stored.scaled else torch.nn.functional.normalize(torch.from_numpy(found), dim=1).numpy()
        rows[slice(done, until) if place is None else place[done:until]] = unit
        done = until
    assert done == len(index), "the footers count the rows"
    return rows


def _matrix(column: pa.Array, stored: Stored, part: Part) -> Rows:
    """(n, D) of Arrow lists. Raises ConfigError for nulls and other lengths."""
    name = stored.named(part.path)
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    values = column.flatten()
    if None in lengths or values.null_count:
        raise ConfigError(f"{name}: embeddings must not be null, but some from row {part.row:,} on are")
    if lengths and lengths != [stored.dim]:
        raise ConfigError(
            f"{name}: embeddings must all have the same length, but have {sorted(map(int, lengths))}, "
            f"and the first of {stored.named()} has {stored.dim}"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused as that
        rows: Rows = values.to_numpy(zero_copy_only=False).reshape(-1, stored.dim).astype(np.float32)
    return rows


def _require_finite(rows: Rows, index: Indices, stored: Stored, part: Part) -> None:
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        bad = index[~finite]
        more = ", ..." if len(bad) > _EXAMPLES else ""
        raise ConfigError(
            f"{stored.named(part.path)}: embeddings must be finite, but some are NaN or infinite: "
            f"rows {', '.join(map(str, bad[:_EXAMPLES]))}{more} (counted from 0 over all files)"
        )

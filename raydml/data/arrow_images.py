"""Encoded images in the rows of Parquet and Arrow files, read a group of rows at a time or mapped into memory.

A place is `file#row`. A group is a row group of Parquet or a record batch of Arrow.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import PurePosixPath
from weakref import WeakValueDictionary

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydml.data.files import Files

IMAGE = "image"
PARQUET = frozenset({".parquet", ".pq"})
ARROW = frozenset({".arrow", ".feather", ".ipc"})

# A group is in memory as a whole while its images are decoded.
_LARGEST_GROUP = 2 << 30
# What a thread keeps open.
_OPEN_FILES = 32
# An Arrow file begins with it. A stream, as Hugging Face's save_to_disk writes it, does not.
_FILE_MAGIC = b"ARROW1"


class ParquetRows:
    """A Parquet file."""

    def __init__(self, files: Files, path: str) -> None:
        """Reads the footer. Raises OSError and ValueError where it is no such file."""
        self._file = pq.ParquetFile(files.opened(path), pre_buffer=True)
        self.schema: pa.Schema = self._file.schema_arrow
        self.num_rows: int = self._file.metadata.num_rows

    def read(self, names: Sequence[str]) -> tuple[pa.Table, tuple[int, ...]]:
        """Some columns of all rows, reading nothing else, and the first row of each group.

        Raises ValueError where a group has more images than fit.
        """
        groups = [self._file.metadata.row_group(number) for number in range(self._file.num_row_groups)]
        for number, group in enumerate(groups):
            columns = (group.column(column) for column in range(group.num_columns))
            size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.partition(".")[0] == IMAGE)
            if IMAGE not in names and size > _LARGEST_GROUP:
                raise ValueError(
                    f"row group {number} holds {size / 2**30:.1f} GiB of images and at most {_LARGEST_GROUP >> 30} GiB "
                    "are kept in memory: write it with smaller groups, such as row_group_size=100"
                )
        starts = accumulate((group.num_rows for group in groups[:-1]), initial=0)
        return self._file.read(columns=list(names), use_threads=False), tuple(starts)

    def images(self, group: int) -> pa.ChunkedArray:
        """The images of a group."""
        return _bytes_of(self._file.read_row_group(group, columns=[IMAGE], use_threads=False).column(IMAGE))

    def slow_rows(self) -> str | None:
        """Why a single row is slow to read."""
        return "a row of Parquet is read with its whole row group"


class ArrowRows:
    """An Arrow file or stream. Of one on a local disk only the images that are looked at are read."""

    def __init__(self, files: Files, path: str) -> None:
        """Reads the footer. Raises OSError and ValueError where it is no such file."""
        self._mapped = files.mapped(path) if files.is_local else None
        self._source = files.opened(path) if self._mapped is None else self._mapped
        self._stream: list[pa.RecordBatch] = []
        if self._mapped is not None and self._mapped[: len(_FILE_MAGIC)].to_pybytes() != _FILE_MAGIC:
            reader = pa.ipc.open_stream(self._mapped)
            self._stream = list(reader)
        else:
            reader = pa.ipc.open_file(self._source)
        self.schema: pa.Schema = reader.schema
        self._image_of = self._batches([IMAGE])[0] if IMAGE in self.schema.names else None

    @property
    def num_rows(self) -> int:
        """Of all groups together."""
        batch_of, count = self._batches([])
        return sum(batch_of(number).num_rows for number in range(count))

    def _batches(self, names: Sequence[str]) -> tuple[Callable[[int], pa.RecordBatch], int]:
        """How to get some columns of a batch, and the number of batches."""
        if self._stream:
            return lambda number: self._stream[number].select(list(names)), len(self._stream)
        options = pa.ipc.IpcReadOptions(included_fields=[self.schema.get_field_index(name) for name in names])
        if self._mapped is not None and IMAGE in names:
            # Choosing columns copies them, which images are too large for; whole batches are views of the file.
            options = pa.ipc.IpcReadOptions()
        reader = pa.ipc.open_file(self._source, options=options)
        return reader.get_batch, reader.num_record_batches

    def read(self, names: Sequence[str]) -> tuple[pa.Table, tuple[int, ...]]:
        """Some columns of all rows, reading nothing else, and the first row of each group."""
        batch_of, count = self._batches(names)
        batches = [batch_of(number) for number in range(count)]
        starts = accumulate((batch.num_rows for batch in batches[:-1]), initial=0)
        fields = pa.schema([field for field in self.schema if field.name in names])
        return pa.Table.from_batches([batch.select(fields.names) for batch in batches], fields), tuple(starts)

    def images(self, group: int) -> pa.ChunkedArray:
        """The images of a group."""
        assert self._image_of is not None
        return _bytes_of(pa.chunked_array([self._image_of(group).column(IMAGE)]))

    def slow_rows(self) -> str | None:
        """Why a single row is slow to read; None where it is not."""
        if self._mapped is None:
            return "a row of Arrow in a bucket is read with its whole record batch"
        data = self.images(0).chunk(0).buffers()[-1]
        if not self._mapped.address <= data.address < self._mapped.address + self._mapped.size:
            return "a row of compressed Arrow is read with its whole record batch"
        return None


def _bytes_of(images: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images


def is_images(kind: pa.DataType) -> bool:
    """Whether a column holds encoded images: bytes, or a struct of bytes and path as Hugging Face writes it."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and is_images(kind.field(index).type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in binary)


def open_rows(files: Files, path: str) -> ParquetRows | ArrowRows:
    """A file of rows, by its name. Raises OSError and ValueError where it is not what its name says."""
    if PurePosixPath(path).suffix.lower() in PARQUET:
        return ParquetRows(files, path)
    return ArrowRows(files, path)


class _Group:
    """Images of a group; in memory as long as a thread needs one of them."""

    def __init__(self, images: pa.ChunkedArray) -> None:
        self.images = images


class _Mine(threading.local):
    """What a thread keeps: the group it read last, and the files it opened last."""

    def __init__(self) -> None:
        self.group: _Group | None = None
        self.opened: dict[str, ParquetRows | ArrowRows] = {}


class ImageRows:
    """Encoded images at places `file#row`. Plain data when pickled.

    Rows are read in their order, mostly: each thread keeps the group it read last, and threads within the same group
    share it. So a process holds at most one group a thread, and reads a group once where rows come in order.
    """

    def __init__(self, files: Files, starts: Mapping[str, tuple[int, ...]]) -> None:
        """`starts` are the first rows of the groups of each file."""
        self._files, self._starts = files, dict(starts)
        self._guard = threading.Lock()
        self._loading: dict[tuple[str, int], threading.Lock] = {}
        self._groups: WeakValueDictionary[tuple[str, int], _Group] = WeakValueDictionary()
        self._mine = _Mine()

    def __reduce__(self) -> tuple[type[ImageRows], tuple[Files, dict[str, tuple[int, ...]]]]:
        return type(self), (self._files, self._starts)

    def read(self, place: str) -> bytes:
        """The encoded image of a row. Raises OSError."""
        path, _, row = place.rpartition("#")
        starts = self._starts[path]
        number = bisect_right(starts, int(row)) - 1
        try:
            value = self._group(path, number).images[int(row) - starts[number]].as_py()
        except pa.ArrowException as error:
            raise OSError(str(error)) from None
        if value is None:
            raise OSError("the row holds no bytes")
        image: bytes = value
        return image

    def named(self, place: str) -> str:
        """The file and the row, for a message."""
        path, _, row = place.rpartition("#")
        return f"row {row} of {self._files.named(path)}"

    def _group(self, path: str, number: int) -> _Group:
        key = (path, number)
        with self._guard:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            group = self._groups.get(key)
            if group is None:
                # The one before goes first: two of them might not fit.
                self._mine.group = None
                group = self._groups[key] = _Group(self._opened(path).images(number))
        self._mine.group = group
        return group

    def _opened(self, path: str) -> ParquetRows | ArrowRows:
        opened = self._mine.opened
        if path not in opened:
            while len(opened) >= _OPEN_FILES:
                del opened[next(iter(opened))]
            opened[path] = open_rows(self._files, path)
        return opened[path]

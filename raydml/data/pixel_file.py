"""The file of pixels: Arrow IPC of one record batch, its place on the disk taken before the first image is decoded.

Rows are written with pwrite and never through a memory map, where a full disk would kill the process.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydml.data.decoding import Pixels
from raydml.data.disk import reserve
from raydml.splits import Indices

Checksums = npt.NDArray[np.uint32]


class Layout(NamedTuple):
    """Where everything lies in a file of pixels."""

    start: int
    """Offset of the first pixel in bytes."""
    num_bytes: int
    """Of the whole file."""
    frame: tuple[tuple[int, bytes], ...]
    """Offset and content of everything that is no pixel."""


class _Frame:
    """A file that keeps what is written around one buffer, and skips the buffer itself."""

    closed = False

    def __init__(self, skipped: pa.Buffer) -> None:
        self._skipped, self._position = skipped, 0
        self.start = 0
        self.parts: list[tuple[int, bytes]] = []

    def write(self, data: bytes | pa.Buffer) -> int:
        if isinstance(data, pa.Buffer) and data.address == self._skipped.address:
            self.start = self._position
        else:
            self.parts.append((self._position, bytes(memoryview(data))))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self.closed = True


def layout_of(shape: tuple[int, ...]) -> Layout:
    """The file of (N, H, W, C) pixels: Arrow itself writes it, around pixels that are not there yet."""
    num_images, width = shape[0], math.prod(shape[1:])
    # Address space that is never touched: it takes no memory, however large.
    nothing = mmap.mmap(
        -1, max(1, num_images * width), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ
    )
    pixels = pa.py_buffer(nothing)
    rows = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), num_images, [None, pixels])
    # One record batch: all pixels are one contiguous buffer of the file, hence one NumPy view.
    batch = pa.record_batch([rows], names=["image"])
    frame = _Frame(pixels)
    with pa.ipc.new_file(pa.PythonFile(frame, mode="w"), batch.schema) as writer:
        writer.write_batch(batch)
    return Layout(frame.start, frame.tell(), tuple(frame.parts))


class PixelFile:
    """A file of pixels that is being filled. Its whole place on the disk is taken at the start."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """Opens what an earlier process left, or makes the file anew. Raises OSError where the disk has no place."""
        self.shape, self._layout = shape, layout_of(shape)
        self._width = math.prod(shape[1:])
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(self._file).st_size > self._layout.num_bytes:
                os.ftruncate(self._file, 0)
            reserve(self._file, self._layout.num_bytes)
            for offset, content in self._layout.frame:
                write_all(self._file, memoryview(content), offset)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PixelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)

    def write(self, positions: Indices, pixels: Pixels) -> None:
        """Rows (n, H, W, C) to their places (n,). Raises OSError."""
        rows = np.ascontiguousarray(pixels).data.cast("B")
        for first, last in _runs(positions):
            offset = self._layout.start + int(positions[first]) * self._width
            write_all(self._file, rows[first * self._width : last * self._width], offset)

    def checksums(self, positions: Indices) -> Checksums:
        """(n,) those of the rows as they lie in the file; rows behind its end are other than any row."""
        return np.fromiter(
            (_checksum_at(self._file, self._layout.start + int(p) * self._width, self._width) for p in positions),
            dtype=np.uint32,
            count=len(positions),
        )

    def sync(self) -> None:
        """Returns when the disk has everything."""
        os.fsync(self._file)


def checksums_of(pixels: Pixels) -> Checksums:
    """(N,) CRC-32 of every image."""
    return np.fromiter((zlib.crc32(np.ascontiguousarray(row).data) for row in pixels), np.uint32, len(pixels))


def block_checksums(checksums: Checksums, images_per_block: int) -> list[int]:
    """One number for every so many images in the order of the file: the CRC-32 of their own."""
    little = checksums.astype("<u4")
    starts = range(0, len(little), images_per_block)
    return [zlib.crc32(little[start : start + images_per_block].tobytes()) for start in starts]


def read_checksums(path: Path, shape: tuple[int, ...], *, start: int) -> Checksums:
    """(N,) of the rows of a finished file whose pixels begin at `start`. Raises OSError."""
    width = math.prod(shape[1:])
    file = os.open(path, os.O_RDONLY)
    try:
        rows = (_checksum_at(file, start + row * width, width) for row in range(shape[0]))
        return np.fromiter(rows, np.uint32, shape[0])
    finally:
        os.close(file)


def _checksum_at(file: int, offset: int, num_bytes: int) -> int:
    # Read, not mapped: what somebody cuts off meanwhile is missing, and does not kill the process.
    content = os.pread(file, num_bytes, offset)
    return zlib.crc32(content) if len(content) == num_bytes else zlib.crc32(content) ^ 0xFFFFFFFF


def write_all(file: int, content: memoryview, offset: int) -> None:
    """All of it, though the system may write less at a time. Raises OSError."""
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written


def _runs(positions: Indices) -> Iterator[tuple[int, int]]:
    """First and behind the last index of each run of neighbours."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    edges = [0, *breaks.tolist(), len(positions)]
    return itertools.pairwise(edges)

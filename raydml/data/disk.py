"""The disk of a cache: whether what is to be written fits, and what to tell its user where it does not."""

from __future__ import annotations

import errno
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raydml.config import ConfigError

# What index.parquet, meta.json and the journal need beside the pixels, at most: per image, and in any case.
_BESIDE_PER_IMAGE, _BESIDE = 512, 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def num_bytes_of(shape: tuple[int, ...]) -> int:
    """What an entry of (N, H, W, C) pixels takes on the disk, at most."""
    return math.prod(shape) + _BESIDE_PER_IMAGE * shape[0] + _BESIDE


def require_room(folder: Path, num_bytes: int) -> None:
    """Raises ConfigError where the disk of a cache has less room than that."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ConfigError(no_room(folder, num_bytes, free))


def no_room(folder: Path, num_bytes: int, free: int) -> str:
    """What to tell whose disk is too small, and the ways out."""
    return (
        f"data.cache: the decoded images need {num_bytes / 1e9:.3g} GB, but {folder} has {free / 1e9:.3g} GB free; "
        "give it another place with data.cache=..., take a smaller data.image_size=..., "
        "or decode for every batch with data.decode=always"
    )


@contextmanager
def writable(folder: Path, num_bytes: int) -> Iterator[None]:
    """A disk that fills up, or a folder that takes no files: ConfigError instead of OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in _CLOSED:
            raise ConfigError(
                f"data.cache: {folder} cannot be written: {error.strerror}; give data.cache=... a folder of your own"
            ) from None
        if error.errno not in _FULL:
            raise
        raise ConfigError(no_room(folder, num_bytes, shutil.disk_usage(folder).free)) from None


def reserve(file: int, num_bytes: int) -> None:
    """Takes the place of an open file on the disk, zeros where it holds nothing. Raises OSError where there is none."""
    if sys.platform == "linux":
        os.posix_fallocate(file, 0, num_bytes)
    else:
        # Others have no such call: there a disk that fills up meanwhile is told by the write that finds no place.
        os.ftruncate(file, max(num_bytes, os.fstat(file).st_size))

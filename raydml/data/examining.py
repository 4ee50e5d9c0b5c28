"""Every image of a listing read and decoded in threads, to learn what is wrong with it; nothing is kept."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from raydml.data.building import Progress
from raydml.data.decoding import FORMATS, UnreadableImageError, decode_image
from raydml.data.listing import Listing
from raydml.splits import Indices

_BLOCK = 32


class Examined(NamedTuple):
    """What one image is."""

    digest: bytes
    """BLAKE2b of the encoded bytes; empty where they cannot be read."""
    short_side: int
    """Pixels; 0 where unknown."""
    mode: str
    """Pillow's name of the pixel format; empty where unknown."""
    missing: bool
    problem: str
    """Why it cannot be used; empty where it can."""


@dataclass(frozen=True)
class Examination:
    """What all images of a listing are, (N,) each in its order."""

    images: list[Examined]
    num_bytes: int
    """Of all encoded images."""


def examine(listing: Listing, image_size: int, *, progress: Progress | None = None) -> Examination:
    """Reads and decodes everything, as it will be decoded for the cache; `progress` is told after every block."""
    count = len(listing.places)
    found: list[Examined | None] = [None] * count
    num_bytes = done = 0
    for positions, examined, size in _in_threads(listing, image_size):
        for position, image in zip(positions, examined, strict=True):
            found[position] = image
        num_bytes += size
        done += len(positions)
        if progress is not None:
            progress(done, count)
    return Examination([image for image in found if image is not None], num_bytes)


def _in_threads(listing: Listing, image_size: int) -> Iterator[tuple[Indices, list[Examined], int]]:
    order = np.arange(len(listing.places)) if listing.reading_order is None else listing.reading_order
    blocks = np.array_split(order, max(1, -(-len(order) // _BLOCK)))
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        yield from pool.map(lambda positions: _examine_block(listing, image_size, positions), blocks)
    finally:
        # An interrupted check ends now, not after all images.
        pool.shutdown(cancel_futures=True)


def _examine_block(listing: Listing, image_size: int, positions: Indices) -> tuple[Indices, list[Examined], int]:
    found, num_bytes = [], 0
    for position in positions:
        try:
            data = listing.encoded.read(listing.places[position])
        except FileNotFoundError:
            found.append(Examined(b"", 0, "", missing=True, problem="there is no such file"))
        except OSError as error:
            found.append(Examined(b"", 0, "", missing=False, problem=error.strerror or _short(error)))
        else:
            found.append(examine_bytes(data, image_size))
            num_bytes += len(data)
    return positions, found, num_bytes


def examine_bytes(data: bytes, image_size: int) -> Examined:
    """One encoded image."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    short_side, mode = _header(data)
    try:
        decode_image(data, image_size)
    except UnreadableImageError as error:
        return Examined(digest, short_side, mode, missing=False, problem=str(error))
    return Examined(digest, short_side, mode, missing=False, problem="")


def _header(data: bytes) -> tuple[int, str]:
    """Short side and mode. What is wrong with bytes that have none, decoding says in better words."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return min(image.size), image.mode
    except Exception:
        return 0, ""


def _short(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

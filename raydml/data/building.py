"""Photographs decoded into the cache: block by block, in threads or wherever else a decoder runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raydml.config import ConfigError
from raydml.data.cache import Decoded, ImageSet, open_or_build
from raydml.data.decoding import Pixels, UnreadableImageError, decode_image, decoder
from raydml.data.listing import Listing
from raydml.splits import Indices

_BLOCK = 256


class DecodedBlock(NamedTuple):
    """Some images of a listing."""

    positions: Indices
    """(n,) places in the listing."""
    pixels: Pixels
    """(n, size, size, 3)."""
    digests: list[bytes]
    """BLAKE2b of each image's encoded bytes."""


Decode = Callable[[Listing, int, Sequence[Indices]], Iterator[DecodedBlock]]
"""Listing, image size and blocks of positions to the same blocks decoded, in any order."""


def decode_block(listing: Listing, image_size: int, positions: Indices) -> DecodedBlock:
    """One block. Raises ConfigError naming the first image that cannot be read."""
    pixels: Pixels = np.empty((len(positions), image_size, image_size, 3), dtype=np.uint8)
    digests = []
    for row, position in enumerate(positions):
        place = listing.places[position]
        try:
            data = listing.encoded.read(place)
            pixels[row] = decode_image(data, image_size)
        except (OSError, UnreadableImageError) as error:
            raise ConfigError(f"data.root: {listing.encoded.named(place)} is no readable image: {error}") from None
        digests.append(hashlib.blake2b(data, digest_size=16).digest())
    return DecodedBlock(positions, pixels, digests)


def decode_in_threads(listing: Listing, image_size: int, blocks: Sequence[Indices]) -> Iterator[DecodedBlock]:
    """On the cores of this machine: Pillow lets other threads run while it decodes."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(lambda positions: decode_block(listing, image_size, positions), blocks)


def open_photos(
    cache: Path,
    list_images: Callable[[], Listing],
    *,
    name: str,
    image_size: int,
    known: str | None,
    decode: Decode,
) -> ImageSet:
    """The decoded images of a listing, whose fingerprint is that of their content, the size and the decoder."""
    listing = list_images()

    def build() -> Decoded:
        order = np.arange(len(listing.places)) if listing.reading_order is None else listing.reading_order
        pixels: Pixels = np.empty((len(order), image_size, image_size, 3), dtype=np.uint8)
        for block in decode(listing, image_size, np.array_split(order, -(-len(order) // _BLOCK))):
            pixels[block.positions] = block.pixels
        return Decoded(pixels, listing.labels, listing.classes, list(listing.places))

    del known
    digest = hashlib.sha256(f"{listing.version} {image_size} {decoder()}".encode()).hexdigest()[:20]
    return open_or_build(cache, digest, name=name, synthetic=False, build=build)

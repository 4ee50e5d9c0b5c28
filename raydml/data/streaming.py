"""Photographs decoded whenever they are needed, for data larger than the disk; indexed like the cached array."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import overload

import numpy as np

from raydml.config import ConfigError
from raydml.data.decoding import Pixels, UnreadableImageError, decode_image
from raydml.data.listing import Listing
from raydml.splits import Indices

# Beyond the cores, because some of the threads wait for a disk or a bucket.
MOST_THREADS = min(32, (os.cpu_count() or 1) + 4)


class StreamedPixels:
    """(N, H, W, 3) uint8 of a listing, the very pixels its cache would hold. Keeps none; plain data when pickled."""

    def __init__(self, listing: Listing, image_size: int) -> None:
        """`image_size` is H and W in pixels."""
        self._encoded, self._places, self._size = listing.encoded, listing.places, image_size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3)."""
        return (len(self._places), self._size, self._size, 3)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: slice) -> StreamedPixels: ...

    @overload
    def __getitem__(self, index: Indices | int) -> Pixels: ...

    def __getitem__(self, index: slice | Indices | int) -> StreamedPixels | Pixels:
        """A part that knows no other images (slice), images decoded now (n, H, W, 3), or one image (H, W, 3).

        Indices mean what they do for an array. Raises ConfigError naming an image that cannot be read.
        """
        if isinstance(index, slice):
            part = copy(self)
            part._places = self._places[index]
            return part
        if isinstance(index, int | np.integer):
            return self._decoded(self._places[index])
        return self._gathered([self._places[position] for position in np.arange(len(self))[index]])

    def _gathered(self, places: list[str]) -> Pixels:
        pixels: Pixels = np.empty((len(places), *self.shape[1:]), dtype=np.uint8)
        with ThreadPoolExecutor(min(MOST_THREADS, max(1, len(places)))) as pool:
            try:
                for row, image in enumerate(pool.map(self._decoded, places)):
                    pixels[row] = image
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return pixels

    def _decoded(self, place: str) -> Pixels:
        try:
            return decode_image(self._encoded.read(place), self._size)
        except (OSError, UnreadableImageError) as error:
            raise ConfigError(f"data.root: {self._encoded.named(place)} is no readable image: {error}") from None

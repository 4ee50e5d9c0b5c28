"""Where an embedding actor takes pixels from: a split as evaluation sees it, or images that are decoded now.

What is said here travels to the actors; each opens it there. Reading may be done by several threads at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydml.config import DataConfig
from raydml.data.decoding import Pixels, UnreadableImageError, decode_image, in_grey
from raydml.data.listing import Encoded
from raydml.data.opening import open_images
from raydml.data.pixels import PixelSource
from raydml.data.streaming import MOST_THREADS
from raydml.data.subsets import Split, split_subset
from raydml.splits import Indices


class Read(NamedTuple):
    """Some images on the host, on their way to the device."""

    pixels: Tensor
    source: PixelSource
    """Delivers the pixels."""
    readable: Indices
    """(n,) which of the images that were asked for these are."""
    problems: dict[int, str]
    """What the others are: where each is, and what it is instead."""


Reader = Callable[[Indices, Sequence[str]], Read]
"""Positions (n,) and, for images that are named rather than numbered, their places."""


@dataclass(frozen=True)
class SplitImages:
    """The images of a split, decoded already or not: as `data.decode` has it."""

    data: DataConfig
    split: Split
    fingerprint: str
    """Of the images that the model was trained on."""
    fold: int | None
    """The one that the model left out."""

    def opened(self, device: torch.device, *, input_size: int, in_channels: int) -> Reader:
        """On this node. Raises ConfigError where the images are others."""
        images = open_images(self.data, with_test=self.split == "test", known=self.fingerprint)
        assert images.images.shape[3] == in_channels, "the model was trained on these"
        subset = split_subset(images, self.data, self.split, self.fold)
        source = PixelSource(images.images, subset.index, device=device, input_size=input_size, taken_once=True)

        def read(positions: Indices, _: Sequence[str]) -> Read:
            return Read(source.read(positions), source, np.arange(len(positions)), {})

        return read


@dataclass(frozen=True)
class EncodedImages:
    """Images that are decoded as they are embedded, and kept nowhere."""

    encoded: Encoded
    image_size: int
    """Height and width in pixels that they are decoded to: that of the model's training."""

    def opened(self, device: torch.device, *, input_size: int, in_channels: int) -> Reader:
        """On this node. Colours become grey where the model sees one channel."""
        pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="decode")
        size = self.image_size

        def decoded(place: str) -> Pixels | str:
            try:
                pixels = decode_image(self.encoded.read(place), size)
            except (OSError, UnreadableImageError) as error:
                return f"{self.encoded.named(place)} is no readable image: {error}"
            return in_grey(pixels) if in_channels == 1 else pixels

        def read(_: Indices, places: Sequence[str]) -> Read:
            images: Pixels = np.empty((len(places), size, size, in_channels), dtype=np.uint8)
            problems = {}
            for row, found in enumerate(pool.map(decoded, places)):
                if isinstance(found, str):
                    problems[row] = found
                else:
                    images[row] = found
            readable = np.array([row for row in range(len(places)) if row not in problems], dtype=np.int64)
            source = PixelSource(images, readable, device=device, input_size=input_size, taken_once=True)
            return Read(source.read(np.arange(len(readable))), source, readable, problems)

        return read

"""That a model in another format is still the model: what it is run on, and what images it expects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raydml.config import DataConfig, DigitsConfig, GlyphsConfig
from raydml.objective import DataShape

Embed = Callable[[Tensor], Tensor]

TOLERANCE = 1e-5
"""Largest difference of a number of a unit embedding; float32 in another order of sums is a hundredth of it."""
_BATCH_SIZES = (1, 2, 5)


def check_batches(shape: DataShape) -> list[Tensor]:
    """Batches (B, C_in, H, W) uint8 of 1, 2 and 5 images: of noise, and of photographs."""
    noise = torch.randint(
        256, (max(_BATCH_SIZES), *_image(shape)), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    photographs = _photographs(shape)
    return [images[:size] for size in _BATCH_SIZES for images in (noise, photographs)]


def largest_difference(model: Embed, other: Embed, batches: list[Tensor]) -> float:
    """Of any number of an embedding of any image; NaN where one of them is."""
    with torch.no_grad():
        differences = [(model(images) - other(images)).abs().max() for images in batches]
    return float(torch.stack(differences).max())


def preprocessing(data: DataConfig, shape: DataShape) -> list[str]:
    """The steps from an image file to the pixels that evaluation feeds, in order."""
    size = shape.image_size
    match data:
        case GlyphsConfig() | DigitsConfig():
            return [f"one grey channel of {size} x {size} pixels, as raydml renders {data.kind}"]
        case _:
            square = f"{data.image_size} x {data.image_size} pixels (Pillow, bilinear with antialiasing)"
            return [
                "decode to RGB with eight bits a channel, upright by its EXIF orientation, transparent parts white",
                f"crop the square of the short side in the centre and resize it to {square}",
                *([] if size == data.image_size else [f"crop the centre of {size} x {size} pixels"]),
            ]


def _image(shape: DataShape) -> tuple[int, int, int]:
    return shape.in_channels, shape.image_size, shape.image_size


def _photographs(shape: DataShape) -> Tensor:
    """(6, C_in, H, W) uint8: squares of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    pixels = torch.from_numpy(np.stack(load_sample_images().images))
    whole = pixels.permute(0, 3, 1, 2).float()
    side = whole.shape[2]
    squares = torch.cat([whole[:, :, :, left : left + side] for left in (0, 100, 200)])
    if shape.in_channels == 1:
        squares = squares.mean(1, keepdim=True)
    size = [shape.image_size, shape.image_size]
    return F.interpolate(squares, size, mode="bilinear", antialias=True).round().byte()

"""Random resized crops and flips of a whole batch in one operation on the device."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from raydml.config import AugmentConfig

# Proposals of area and aspect per image; where none fits the image, the widest centre crop is taken.
_PROPOSALS = 10


def draw_crops(config: AugmentConfig, count: int, rng: np.random.Generator) -> npt.NDArray[np.float32] | None:
    """Crops (count, 5) as shares of the image: left, top, width, height, and 1 where flipped, else 0.

    Area is uniform, aspect log-uniform, the corner uniform, as torchvision's RandomResizedCrop for square images.
    None where nothing is random.
    """
    if config.smallest_crop == 1.0 and config.flip == 0.0:
        return None
    area = rng.uniform(config.smallest_crop, 1.0, (count, _PROPOSALS))
    limit = math.log(config.widest_aspect)
    aspect = np.exp(rng.uniform(-limit, limit, (count, _PROPOSALS)))
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = (width <= 1.0) & (height <= 1.0)
    chosen = fits.argmax(axis=1)[:, None]
    any_fits = fits.any(axis=1)
    w = np.where(any_fits, np.take_along_axis(width, chosen, 1)[:, 0], 1.0)
    h = np.where(any_fits, np.take_along_axis(height, chosen, 1)[:, 0], 1.0)
    left, top = rng.random(count) * (1.0 - w), rng.random(count) * (1.0 - h)
    flipped = rng.random(count) < config.flip
    return np.stack([left, top, w, h, flipped], axis=1).astype(np.float32)


def crop(images: Tensor, crops: Tensor, size: int) -> Tensor:
    """(B, C_in, H, W) uint8, (B, 5) -> (B, C_in, size, size) float32 in [0, 1]; bilinear, within each crop."""
    left, top, width, height, flipped = crops.unbind(1)
    # Output pixel centres (i + 1/2) / size of the crop, as a share of the image, in the reading direction.
    centre = (torch.arange(size, device=images.device, dtype=torch.float32) + 0.5) / size
    across = torch.where(flipped[:, None] > 0, 1.0 - centre, centre)
    x = left[:, None] + width[:, None] * across
    y = top[:, None] + height[:, None] * centre
    x = _inside(x, left, width, images.shape[3])
    y = _inside(y, top, height, images.shape[2])
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=3) * 2.0 - 1.0
    return F.grid_sample(images.float() / 255.0, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _inside(place: Tensor, start: Tensor, extent: Tensor, pixels: int) -> Tensor:
    """Sampling points at least half a pixel inside the crop, as cropping before resizing would have it."""
    half = 0.5 / pixels
    low = (start + half)[:, None]
    return place.maximum(low).minimum((start + extent - half)[:, None].maximum(low))


def centre_crop(images: Tensor, size: int) -> Tensor:
    """(B, C_in, H, W) uint8 -> (B, C_in, size, size) float32 in [0, 1]."""
    top, left = (images.shape[2] - size) // 2, (images.shape[3] - size) // 2
    return images[:, :, top : top + size, left : left + size].float() / 255.0

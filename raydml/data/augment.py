"""Random resized crops and flips: their parameters, and a whole batch of them in one operation on the device."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from raydml import seeds
from raydml.config import AugmentConfig

# Proposals of area and aspect per image; where none fits the image, the whole image is taken.
_PROPOSALS = 10
# Of a draw: areas, aspects, two for the corner, the flip, four colours; whole blocks of the stream.
_CORNER, _FLIP, _COLOURS = 2 * _PROPOSALS, 2 * _PROPOSALS + 2, slice(2 * _PROPOSALS + 3, 2 * _PROPOSALS + 7)
_NUMBERS = 28
_NUMBERS_PER_BLOCK = 4

Crops = npt.NDArray[np.float32]
Colours = npt.NDArray[np.float32]
Uniforms = npt.NDArray[np.float64]


def uniforms(first: int, count: int, *, seed: int, epoch: int) -> Uniforms:
    """The random numbers in [0, 1) of draws `first`, `first` + 1, ... of an epoch: (count, numbers of a draw).

    A draw is a place in the epoch, not an image: an image that is drawn twice is augmented in two ways. Any part of an
    epoch can be had without the others, so that it does not matter which worker or thread makes which batch.
    """
    rng = seeds.stream_at(first * (_NUMBERS // _NUMBERS_PER_BLOCK), seeds.Purpose.CROPS, seed, epoch)
    return rng.random((count, _NUMBERS))


def draw_crops(config: AugmentConfig, numbers: Uniforms, *, height: int, width: int) -> Crops | None:
    """Crops (count, 5) as shares of the image: left, top, width, height, and 1 where flipped, else 0.

    Area is uniform, aspect log-uniform, the corner uniform, all in whole pixels of an image of this height and width:
    torchvision's RandomResizedCrop for square images. None where nothing is random.
    """
    if config.smallest_crop == 1.0 and config.flip == 0.0:
        return None
    area = config.smallest_crop + (1.0 - config.smallest_crop) * numbers[:, :_PROPOSALS]
    limit = math.log(config.widest_aspect)
    aspect = np.exp(limit * (2.0 * numbers[:, _PROPOSALS:_CORNER] - 1.0))
    widths, heights = np.rint(np.sqrt(area * aspect) * width), np.rint(np.sqrt(area / aspect) * height)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    chosen = fits.argmax(axis=1)[:, None]
    any_fits = fits.any(axis=1)
    w = np.where(any_fits, np.take_along_axis(widths, chosen, 1)[:, 0], width)
    h = np.where(any_fits, np.take_along_axis(heights, chosen, 1)[:, 0], height)
    left = np.floor(numbers[:, _CORNER] * (width - w + 1))
    top = np.floor(numbers[:, _CORNER + 1] * (height - h + 1))
    flipped = numbers[:, _FLIP] < config.flip
    return np.stack([left / width, top / height, w / width, h / height, flipped], axis=1).astype(np.float32)


def draw_colours(config: AugmentConfig, numbers: Uniforms) -> Colours | None:
    """Factors (count, 4) of brightness, contrast and saturation, and the turn of the hue as a share of the circle.

    Uniform, as torchvision's ColorJitter. None where nothing is random.
    """
    reach = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    if not reach.any():
        return None
    colours: Colours = (reach * (2.0 * numbers[:, _COLOURS] - 1.0) + [1.0, 1.0, 1.0, 0.0]).astype(np.float32)
    return colours


def crop(images: Tensor, crops: Tensor, size: int) -> Tensor:
    """(B, C_in, H, W) uint8, (B, 5) -> (B, C_in, size, size) float32 in [0, 1]; bilinear, within each crop.

    No pixels are averaged beyond that: a crop of much more than `size` pixels aliases.
    """
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

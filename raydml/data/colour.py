"""Brightness, contrast, saturation and hue of a whole batch on its device, each image by its own factors."""

from __future__ import annotations

import torch
from torch import Tensor

# Luma of ITU-R 601, as torchvision and Pillow round it.
_RED, _GREEN, _BLUE = 0.2989, 0.587, 0.114


def jitter(images: Tensor, colours: Tensor) -> Tensor:
    """(B, C_in, H, W) float32 in [0, 1] and (B, 4) of `augment.draw_colours` -> the same shape, in [0, 1].

    Always in the order brightness, contrast, saturation, hue; torchvision's ColorJitter shuffles it for every image.
    Grey images of one channel have neither saturation nor hue.
    """
    brightness, contrast, saturation, hue = colours[:, :, None, None, None].unbind(1)
    x = (images * brightness).clamp(0.0, 1.0)
    x = _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), contrast)
    if images.shape[1] == 1:
        return x
    return _turn(_blend(x, _grey(x), saturation), hue)


def _grey(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    grey: Tensor = _RED * red + _GREEN * green + _BLUE * blue
    return grey


def _blend(x: Tensor, base: Tensor, factor: Tensor) -> Tensor:
    """`base` where the factor is 0, `x` where it is 1, and beyond."""
    return (factor * x + (1.0 - factor) * base).clamp(0.0, 1.0)


def _turn(x: Tensor, turn: Tensor) -> Tensor:
    """Hues turned by a share of the circle, at the same value (largest channel) and chroma (largest - smallest)."""
    red, green, blue = x.split(1, dim=1)
    value, chroma = x.amax(1, keepdim=True), x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    # Grey pixels have no hue: whatever is divided by, their chroma of 0 takes it away again.
    safe = chroma.where(chroma > 0.0, 1.0)
    of_largest = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    sixths = of_largest + 6.0 * turn
    # Each channel falls from the largest to the smallest value with the distance from its own hue (Smith 1978).
    places = [(own + sixths).remainder(6.0) for own in (5.0, 3.0, 1.0)]
    return torch.cat([value - chroma * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0) for place in places], dim=1)

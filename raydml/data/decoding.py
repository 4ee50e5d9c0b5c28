"""From encoded bytes to pixels: upright, RGB, eight bits, one size."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError, features

Pixels = npt.NDArray[np.uint8]

# Part of every fingerprint: raise it when the same bytes become other pixels.
_RECIPE = "photos-2"


class UnreadableImageError(ValueError):
    """Bytes that are no image, or only a part of one."""


def decoder() -> str:
    """Names what decides the pixels of the same bytes."""
    return f"{_RECIPE}, libjpeg-turbo {features.version('libjpeg_turbo')}"


def decode_image(data: bytes, size: int) -> Pixels:
    """(size, size, 3): short side resized to `size`, centre cropped, RGB, upright. Raises UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            # JPEGs are decoded at the next larger power-of-two fraction: much faster, and the resize hides it.
            image.draft("RGB", (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(_in_eight_bits(image)).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(str(error)) from None


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit: Pillow's own conversion clips, and all but the darkest pixels would be white."""
    if not image.mode.startswith("I;16"):
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range")
        return image
    narrow = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    narrow.info = image.info
    return narrow

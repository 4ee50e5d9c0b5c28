"""From encoded bytes to pixels: upright, RGB, eight bits, one size.

What is transparent becomes white, whatever colour is hidden there. Colour profiles are not applied. Of an animation or
a document, the first picture is taken.
"""

from __future__ import annotations

import io
import math
import re

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError, features

Pixels = npt.NDArray[np.uint8]

# Part of every fingerprint: raise it when the same bytes become other pixels.
_RECIPE = "photos-3"

# Pillow reads some forty formats by what a file begins with, whatever it is called: of PostScript it makes pixels with
# another program. These are what photographs come in.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_WHITE = (255, 255, 255, 255)
# What turns a stored image upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What often lies where an image should: how its first bytes look in lower case, and what to call it.
_OTHERS = (
    (rb"\s*<(!doctype html|html|head|body)\b", "it is an HTML page"),
    (rb"version https://git-lfs", "it is a pointer of Git LFS to the image: run git lfs pull"),
    (rb"\s*(<\?xml.*)?<svg\b", "it is an SVG drawing, which has no pixels"),
    (rb"\s*<\?xml", "it is an XML page"),
    (rb"\s*[{\[]\s*[\"{}\]]", "it is JSON"),
    (rb"%pdf", "it is a PDF"),
    (rb"%!ps|\xc5\xd0\xd3\xc6", "it is PostScript, which is a program"),
    (rb"pk\x03\x04|\x1f\x8b", "it is an archive"),
    (rb"....ftyp(heic|heix|mif1|hevc)", "it is a HEIC image, which Pillow does not read"),
    (rb"\x00+$", "it holds nothing but zeros"),
    (rb"[\t\n\r -~]+$", "it is text"),
)


# How files of common formats begin.
_KNOWN_BEGINNINGS = re.compile(rb"\xff\xd8|\x89PNG|GIF8|RIFF....WEBP|BM|II\*\x00|MM\x00\*", re.DOTALL)


class UnreadableImageError(ValueError):
    """Bytes that are no image, or only a part of one."""


def decoder() -> str:
    """Names what decides the pixels of the same bytes."""
    return f"{_RECIPE}, libjpeg-turbo {features.version('libjpeg_turbo')}"


def decode_image(data: bytes, size: int) -> Pixels:
    """(size, size, 3): short side resized to `size`, centre cropped, RGB, upright.

    Raises UnreadableImageError, which says in a few words what the bytes are instead.
    """
    image, turn = _loaded(data, size)
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    box = (left, top, left + short, top + short)
    square = _in_rgb(image).resize((size, size), Image.Resampling.BILINEAR, box)
    # A square in the centre may be turned last, when it is small.
    upright = square if turn is None else square.transpose(turn)
    return np.asarray(upright, dtype=np.uint8)


def in_grey(pixels: Pixels) -> Pixels:
    """(H, W, 3) RGB -> (H, W, 1): luma of ITU-R BT.601, exact where the three are equal."""
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.uint8)[:, :, None]


def _loaded(data: bytes, size: int) -> tuple[Image.Image, Image.Transpose | None]:
    """The whole image, and how it is to be turned."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        # A JPEG of both sides at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 of its size: much
        # faster, and the resize hides it. Pillow chooses so that neither side becomes smaller than asked for.
        image.draft("RGB", (2 * size, 2 * size))
        image.load()
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(_too_large(str(error))) from None
    except MemoryError:
        raise
    # The readers of some forty formats fail with whatever broken bytes lead them to: struct.error, IndexError, ...
    except Exception as error:
        raise UnreadableImageError(_instead(data, error)) from None
    return image, _turn(image)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Broken notes about an image are no reason to lose it.
        return None


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    image = _in_eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit: Pillow's own conversion clips, and all but the darkest pixels would be white."""
    if image.mode in ("I", "F"):
        raise UnreadableImageError(f"its pixels of mode {image.mode} have no known range")
    if not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _too_large(error: str) -> str:
    pixels = max((int(number) for number in re.findall(r"\d+", error)), default=0)
    return f"it has {math.ceil(pixels / 1e6)} million pixels, more than Pillow decodes"


def _instead(data: bytes, error: Exception) -> str:
    """What bytes are that could not be read."""
    if not data:
        return "it is empty"
    start = data[:512].lower()
    for pattern, name in _OTHERS:
        if re.match(pattern, start, re.DOTALL):
            return name
    said = " ".join(str(error).split())
    if re.search(r"truncated|not enough", said, re.IGNORECASE):
        return "it ends too early"
    if isinstance(error, UnidentifiedImageError) and not _KNOWN_BEGINNINGS.match(data):
        return "it is no image that Pillow knows"
    if isinstance(error, UnidentifiedImageError) or "decoder" in said:
        return "it ends too early, or is damaged"
    return f"it is damaged: {said[:80] or type(error).__name__}"

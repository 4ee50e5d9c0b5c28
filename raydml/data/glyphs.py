"""Synthetic images: characters rendered from the fonts that ship with matplotlib and Pillow. A character is a class.

Every typeface, weight and slant that has the character renders it; a random affine map and noise make an instance.
Characters that look alike (Latin A, Greek Alpha, Cyrillic A) are one class, found by comparing their bitmaps.
Everything follows from the configuration and the installed fonts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor
from torch.nn import functional as F

from raydml.config import ConfigError, GlyphsConfig
from raydml.data.cache import Decoded
from raydml.data.decoding import Pixels

_STYLES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
_FACES = tuple(f"{family}{style}.ttf" for family, styles in _STYLES.items() for style in styles)
_REFERENCE = "DejaVuSans.ttf"
_PILLOW_FACE = "Pillow's default"

# Letters and digits; composed characters (e with an accent) would be near-copies of their base.
_CATEGORIES = ("Lu", "Ll", "Lo", "Lt", "Nd")
_FEWEST_FACES = 8
# Two characters are one class where their bitmaps, cropped and scaled to one size, share this much of their ink.
_ALIKE = 0.95

_FONT_PIXELS = 40
_CANVAS = 64
_ROTATION_DEG = 15.0
_ZOOM = (0.8, 1.2)
_SHEAR = 0.2
_SHIFT = 0.1


def glyph_fingerprint(config: GlyphsConfig) -> dict[str, object]:
    """What decides the pixels: the recipe, its parameters, the fonts and the rasteriser."""
    fonts = hashlib.sha256()
    for face in _FACES:
        fonts.update(_font_path(face).read_bytes())
    return {
        "recipe": "glyphs-1",
        "num_classes": config.num_classes,
        "images_per_class": config.images_per_class,
        "image_size": config.image_size,
        "noise": config.noise,
        "render_seed": config.render_seed,
        "fonts": fonts.hexdigest(),
        "freetype": features.version("freetype2"),
    }


def render_glyphs(config: GlyphsConfig) -> Decoded:
    """All instances of all classes. Raises ConfigError where the fonts have fewer distinct characters than asked."""
    groups = distinct_characters()
    if len(groups) < config.num_classes:
        raise ConfigError(
            f"data.num_classes: the installed fonts have {len(groups)} distinct characters, "
            f"but got num_classes={config.num_classes}"
        )
    generator = torch.Generator().manual_seed(config.render_seed)
    # A random order of classes, so that a split by class mixes alphabets.
    order = torch.randperm(config.num_classes, generator=generator).tolist()
    chosen = [groups[position] for position in order]
    clean: list[Pixels] = []
    sources: list[str] = []
    for group in chosen:
        faces = _faces_of(group[0])
        for instance in range(config.images_per_class):
            face = faces[instance % len(faces)]
            clean.append(_render(group[0], face))
            sources.append(f"U+{ord(group[0]):04X} {face}")
    images = _distort(torch.from_numpy(np.stack(clean)), config, generator)
    labels = np.repeat(np.arange(config.num_classes, dtype=np.int64), config.images_per_class)
    return Decoded(images, labels, tuple("".join(group) for group in chosen), sources)


def distinct_characters() -> list[str]:
    """Groups of characters that look alike, those with the most typefaces first; a group is named by its first."""
    characters = sorted(_candidates(), key=lambda c: (-len(_faces_of(c)), ord(c)))
    shapes = np.stack([_normalised_shape(c).ravel() for c in characters])
    leader = list(range(len(characters)))
    for position in range(1, len(characters)):
        shared = np.minimum(shapes[position], shapes[:position]).sum(1)
        alike = shared / np.maximum(shapes[position], shapes[:position]).sum(1)
        best = int(alike.argmax())
        if alike[best] > _ALIKE:
            leader[position] = leader[best]
    groups: dict[int, str] = {}
    for position, character in enumerate(characters):
        groups[leader[position]] = groups.get(leader[position], "") + character
    return list(groups.values())


def _candidates() -> list[str]:
    characters = map(chr, sorted(_characters_of(_REFERENCE)))
    letters = (c for c in characters if unicodedata.category(c) in _CATEGORIES and not unicodedata.decomposition(c))
    return [c for c in letters if len(_faces_of(c)) >= _FEWEST_FACES]


@cache
def _font_path(face: str) -> Path:
    # Found without importing matplotlib, which the core does not load.
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("data.kind: glyphs needs the fonts of matplotlib, which is not installed")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / face


@cache
def _font(face: str, pixels: int) -> ImageFont.FreeTypeFont:
    if face == _PILLOW_FACE:
        font = ImageFont.load_default(pixels)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    return ImageFont.truetype(str(_font_path(face)), pixels, layout_engine=ImageFont.Layout.BASIC)


@cache
def _characters_of(face: str) -> frozenset[int]:
    """Code points a face has a glyph for."""
    with TTFont(_font_path(face), lazy=True) as font:
        return frozenset(font.getBestCmap())


def _faces_of(character: str) -> tuple[str, ...]:
    """The faces that have a glyph for a character."""
    faces = tuple(face for face in _FACES if ord(character) in _characters_of(face))
    return (*faces, _PILLOW_FACE) if character.isascii() else faces


def _render(character: str, face: str) -> Pixels:
    """White on black, centred by its bounding box on a canvas of _CANVAS pixels."""
    font = _font(face, _FONT_PIXELS)
    left, top, right, bottom = font.getbbox(character)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(canvas).text(
        ((_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2), character, font=font, fill=255
    )
    return np.asarray(canvas, dtype=np.uint8)


def _normalised_shape(character: str, size: int = 24) -> npt.NDArray[np.float32]:
    """The ink of a character in the reference face, cropped and scaled until it touches a frame of `size` pixels."""
    ink = Image.fromarray(_render(character, _REFERENCE))
    ink = ink.crop(ink.getbbox())
    scale = size / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.BOX)
    frame = Image.new("L", (size, size))
    frame.paste(ink, ((size - ink.width) // 2, (size - ink.height) // 2))
    return np.asarray(frame, dtype=np.float32) / 255.0


def _distort(clean: Tensor, config: GlyphsConfig, generator: torch.Generator) -> Pixels:
    """Random affine maps and noise: (N, canvas, canvas) uint8 -> (N, H, W, 1) uint8."""
    maps = _random_maps(len(clean), generator)
    size = config.image_size
    parts: list[Tensor] = []
    for rows in torch.arange(len(clean)).split(1024):
        grid = F.affine_grid(maps[rows], [len(rows), 1, size, size], align_corners=False)
        parts.append(F.grid_sample(clean[rows, None].float() / 255.0, grid, align_corners=False))
    images = torch.cat(parts)
    images += config.noise * torch.randn(images.shape, generator=generator)
    pixels: Pixels = (images.clamp(0.0, 1.0) * 255.0).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def _random_maps(count: int, generator: torch.Generator) -> Tensor:
    """(N, 2, 3) maps from output to input coordinates: rotation, zoom, shear and shift, all uniform."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle = torch.deg2rad(uniform(-_ROTATION_DEG, _ROTATION_DEG))
    zoom, shear = 1.0 / uniform(*_ZOOM), uniform(-_SHEAR, _SHEAR)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([cos * zoom, (shear - sin) * zoom, 2.0 * uniform(-_SHIFT, _SHIFT)], dim=1)
    second = torch.stack([sin * zoom, cos * zoom, 2.0 * uniform(-_SHIFT, _SHIFT)], dim=1)
    return torch.stack([first, second], dim=1)

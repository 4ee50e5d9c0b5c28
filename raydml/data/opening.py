"""From a data configuration to its images on this node: listed, decoded on first use, opened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from raydml.config import DataConfig, DigitsConfig, GlyphsConfig, PhotosConfig
from raydml.data.building import Decode, decode_in_threads, open_photos
from raydml.data.cache import ImageSet, default_cache, open_or_build
from raydml.data.catalog import list_photos
from raydml.data.digits import digits_fingerprint, read_digits
from raydml.data.glyphs import glyph_fingerprint, render_glyphs
from raydml.data.subsets import check_splits, training_classes


def fingerprint(config: DataConfig) -> str:
    """Names the pixels and labels a configuration means; the address of its cache entry.

    Photographs are decoded for it on first use. Raises ConfigError where the data cannot be found or read.
    """
    match config:
        case GlyphsConfig():
            return _hashed(glyph_fingerprint(config))
        case DigitsConfig():
            return _hashed(digits_fingerprint(config))
        case _:
            return open_images(config).fingerprint


def _hashed(recipe: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:20]


def open_images(
    config: DataConfig, *, with_test: bool = False, known: str | None = None, decode: Decode = decode_in_threads
) -> ImageSet:
    """The images of the training classes, decoded on first use on this node; of all classes `with_test`.

    Only a final evaluation opens them with test: what a search, a training or a baseline gets holds no pixel and no
    label of a test class. With `known`, the fingerprint that another process found, nothing is listed where this node
    has the entry. Raises ConfigError for bad data.
    """
    images = _open(config, known, decode)
    check_splits(images, config)
    return images if with_test else images.of_first(len(training_classes(images, config)))


def _open(config: DataConfig, known: str | None, decode: Decode) -> ImageSet:
    cache = Path(config.cache).expanduser() if config.cache else default_cache()
    match config:
        case GlyphsConfig():
            recipe = _hashed(glyph_fingerprint(config))
            return open_or_build(cache, recipe, name=config.kind, synthetic=True, build=lambda: render_glyphs(config))
        case DigitsConfig():
            recipe = _hashed(digits_fingerprint(config))
            return open_or_build(cache, recipe, name=config.kind, synthetic=False, build=lambda: read_digits(config))
        case _:
            return _open_photos(config, cache, known, decode)


def _open_photos(config: PhotosConfig, cache: Path, known: str | None, decode: Decode) -> ImageSet:
    return open_photos(
        cache,
        lambda: list_photos(config),
        name=config.kind,
        image_size=config.image_size,
        known=known,
        decode=decode,
    )

"""From a data configuration to its images on this node: listed, decoded on first use, opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from raydml.config import DataConfig, DigitsConfig, FreeSplit, GlyphsConfig
from raydml.config.places import absolute
from raydml.data.building import Decode, Progress, decode_in_threads
from raydml.data.cache import Decoded, ImageSet, default_cache, open_or_build
from raydml.data.catalog import list_photos
from raydml.data.photos import open_photos, require_unchanged, streamed
from raydml.data.remote_cache import RemoteCache, is_remote
from raydml.data.subsets import check_splits, training_classes

# Fields that say nothing of the images themselves.
_NO_IMAGES = frozenset({*FreeSplit.model_fields, "input_size"})


def fingerprint(config: DataConfig, *, progress: Progress | None = None) -> str:
    """Names the pixels and labels a configuration means; the address of its cache entry.

    Photographs are decoded for it on first use, which `progress` is told of. Raises ConfigError where the data cannot
    be found or read.
    """
    match config:
        case GlyphsConfig():
            # Here, because torch takes longer to load than photographs that are in the cache.
            from raydml.data.glyphs import glyph_fingerprint

            return _hashed(glyph_fingerprint(config))
        case DigitsConfig():
            from raydml.data.digits import digits_fingerprint

            return _hashed(digits_fingerprint(config))
        case _:
            return open_images(config, progress=progress).fingerprint


def _hashed(recipe: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:20]


def open_images(
    config: DataConfig,
    *,
    with_test: bool = False,
    known: str | None = None,
    decode: Decode = decode_in_threads,
    progress: Progress | None = None,
) -> ImageSet:
    """The images of the training classes, decoded on first use on this node; of all classes `with_test`.

    Only a final evaluation opens them with test: what a search, a training or a baseline gets holds no pixel and no
    label of a test class. With `known`, the fingerprint that another process found, nothing is listed where this node
    has the entry. `progress` is told of every block that is decoded. With `decode: always` nothing is cached: pixels
    are decoded when they are asked for, and the fingerprint is that of places and sizes.

    Raises ConfigError for bad data, or where they are no longer those of `known`.
    """
    images = _open(config, known, decode, progress)
    check_splits(images, config)
    return images if with_test else images.of_first(len(training_classes(images, config)))


def cache_folder(config: DataConfig) -> Path:
    """Where this node keeps decoded images: entries are `<folder>/<fingerprint>`."""
    if not config.cache or is_remote(config.cache):
        return default_cache()
    return Path(absolute(config.cache))


def known_for(data: DataConfig, base: DataConfig, fingerprint: str | None) -> str | None:
    """The fingerprint of `base`, where `data` surely means the same images; None where that has to be found out."""
    same = [
        {key: value for key, value in config.model_dump().items() if key not in _NO_IMAGES} for config in (data, base)
    ]
    return fingerprint if same[0] == same[1] else None


def _open(config: DataConfig, known: str | None, decode: Decode, progress: Progress | None) -> ImageSet:
    match config:
        case GlyphsConfig():
            from raydml.data.glyphs import glyph_fingerprint, render_glyphs

            return _open_rendered(config, glyph_fingerprint(config), known, lambda: render_glyphs(config))
        case DigitsConfig():
            from raydml.data.digits import digits_fingerprint, read_digits

            return _open_rendered(config, digits_fingerprint(config), known, lambda: read_digits(config))
        case _ if config.decode == "always":
            images = streamed(list_photos(config), name=config.kind, image_size=config.image_size)
            require_unchanged(images.fingerprint, known)
            return images
        case _:
            return open_photos(
                cache_folder(config),
                lambda: list_photos(config),
                name=config.kind,
                image_size=config.image_size,
                known=known,
                decode=decode,
                progress=progress,
                remote=RemoteCache(config.cache) if config.cache and is_remote(config.cache) else None,
            )


def _open_rendered(
    config: GlyphsConfig | DigitsConfig, recipe: dict[str, object], known: str | None, build: Callable[[], Decoded]
) -> ImageSet:
    address, synthetic = _hashed(recipe), isinstance(config, GlyphsConfig)
    require_unchanged(address, known)
    return open_or_build(cache_folder(config), address, name=config.kind, synthetic=synthetic, build=build)

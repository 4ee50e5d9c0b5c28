"""From a data configuration to its images: fingerprint, cache and class-disjoint splits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import numpy as np

from raydml.config import ConfigError, DataConfig, DigitsConfig, FolderConfig, GlyphsConfig
from raydml.data.cache import Decoded, ImageSet, default_cache, open_or_build
from raydml.data.digits import digits_fingerprint, read_digits
from raydml.data.folder import folder_fingerprint, read_folder
from raydml.data.glyphs import glyph_fingerprint, render_glyphs
from raydml.splits import ClassSplit, Indices, fold_split, images_of, require_disjoint, test_split

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Subset:
    """Some images of a set: positions in the set and labels 0 ... C - 1 in the order of the subset's classes."""

    index: Indices
    labels: Indices
    classes: Indices
    """Class ids of the whole set; `classes[label]` undoes the relabelling."""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)


def fingerprint(config: DataConfig) -> str:
    """Names the pixels and labels a configuration means; the address of its cache entry.

    Raises ConfigError where the data cannot be found.
    """
    match config:
        case GlyphsConfig():
            parts = glyph_fingerprint(config)
        case DigitsConfig():
            parts = digits_fingerprint(config)
        case FolderConfig():
            parts = folder_fingerprint(config)
        case _:
            assert_never(config)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def open_images(config: DataConfig, *, with_test: bool = False) -> ImageSet:
    """The images of the training classes, decoded on first use on this node; of all classes `with_test`.

    Only a final evaluation opens them with test: what a search, a training or a baseline gets holds no pixel and no
    label of a test class. Raises ConfigError for bad data.
    """
    cache = Path(config.cache).expanduser() if config.cache else default_cache()
    images = open_or_build(
        cache,
        fingerprint(config),
        name=config.kind,
        synthetic=isinstance(config, GlyphsConfig),
        build=lambda scratch: _decode(config, scratch),
    )
    _check_splits(images, config)
    return images if with_test else images.of_first(len(_training_and_test(images, config).train))


def _decode(config: DataConfig, scratch: Path) -> Decoded:
    match config:
        case GlyphsConfig():
            return render_glyphs(config)
        case DigitsConfig():
            return read_digits(config)
        case FolderConfig():
            return read_folder(config, scratch)
        case _:
            assert_never(config)


def fold_subsets(images: ImageSet, config: DataConfig, fold: int) -> tuple[Subset, Subset]:
    """Training images without a fold, and the images of the fold. Never touches a test class."""
    split = _fold_classes(images, config, fold)
    return _subset(images, split.train), _subset(images, split.held_out)


def trainval_subset(images: ImageSet, config: DataConfig) -> Subset:
    """All images of the training classes."""
    return _subset(images, _training_and_test(images, config).train)


def test_subset(images: ImageSet, config: DataConfig) -> Subset:
    """Images of the test classes. Only a final evaluation may ask for them.

    Raises ValueError for images that were opened without them.
    """
    if len(images.sizes) < len(images.classes):
        raise ValueError(f"the test classes of {images.name} are not open: that takes open_images(..., with_test=True)")
    return _subset(images, _training_and_test(images, config).held_out)


def split_subset(images: ImageSet, config: DataConfig, split: Split, fold: int | None) -> Subset:
    """The images of a split, as a model that left out `fold` has them; None: all training classes trained it.

    Raises ConfigError for the validation images of a model that has none.
    """
    if split == "test":
        return test_subset(images, config)
    if fold is None:
        if split == "val":
            raise ConfigError("split=val: this model was trained on all training classes: nothing was left to validate")
        return trainval_subset(images, config)
    train, val = fold_subsets(images, config, fold)
    return val if split == "val" else train


def _training_and_test(images: ImageSet, config: DataConfig) -> ClassSplit:
    split = test_split(len(images.classes), config.test_fraction)
    require_disjoint(split, images.classes)
    return split


def _fold_classes(images: ImageSet, config: DataConfig, fold: int) -> ClassSplit:
    split = fold_split(_training_and_test(images, config).train, config.num_folds, fold)
    require_disjoint(split, images.classes)
    return split


def _subset(images: ImageSet, classes: Indices) -> Subset:
    index = images_of(images.labels, classes)
    return Subset(index, np.searchsorted(classes, images.labels[index]).astype(np.int64), classes)


def _check_splits(images: ImageSet, config: DataConfig) -> None:
    try:
        for fold in range(config.num_folds):
            _fold_classes(images, config, fold)
    except ValueError as error:
        raise ConfigError(f"data: {images.name} has {len(images.classes)} classes: {error}") from None

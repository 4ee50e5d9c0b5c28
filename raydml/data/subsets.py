"""Subsets of images by class: folds, training and test classes. No class is on two sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from raydml.config import ConfigError, DataConfig, FreeSplit, VehicleIdConfig
from raydml.data.cache import ImageSet
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


def fold_subsets(images: ImageSet, config: DataConfig, fold: int) -> tuple[Subset, Subset]:
    """Training images without a fold, and the images of the fold. Never touches a test class."""
    split = _fold_classes(images, config, fold)
    return _subset(images, split.train), _subset(images, split.held_out)


def trainval_subset(images: ImageSet, config: DataConfig) -> Subset:
    """All images of the training classes."""
    return _subset(images, _training_and_test(images, config).train)


def test_subset(images: ImageSet, config: DataConfig) -> Subset:
    """Images of the test classes, or of the test list that the configuration names. Only a final evaluation may ask.

    Raises ValueError for images that were opened without them, ConfigError where there is no such list.
    """
    if len(images.sizes) < len(images.classes):
        raise ValueError(f"the test classes of {images.name} are not open: that takes open_images(..., with_test=True)")
    whole = _subset(images, _training_and_test(images, config).held_out)
    return _of_list(images, whole, config.test_list) if isinstance(config, VehicleIdConfig) else whole


def _of_list(images: ImageSet, test: Subset, name: str) -> Subset:
    """The images of a test list, and its classes alone."""
    if name not in images.test_lists:
        known = ", ".join(images.test_lists) or "none"
        raise ConfigError(f"data.test_list: this {images.name} has the lists {known}, but got {name}")
    index = test.index[images.test_lists[name][test.index]]
    classes, labels = np.unique(images.labels[index], return_inverse=True)
    return Subset(index, labels.astype(np.int64), classes)


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


def training_classes(images: ImageSet, config: DataConfig) -> Indices:
    """Ids of the classes that no final evaluation is about."""
    return _training_and_test(images, config).train


def _training_and_test(images: ImageSet, config: DataConfig) -> ClassSplit:
    if images.num_training is not None:
        classes = np.arange(len(images.classes), dtype=np.int64)
        split = ClassSplit(classes[: images.num_training], classes[images.num_training :])
    else:
        assert isinstance(config, FreeSplit), "data without a split of their own"
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


def check_splits(images: ImageSet, config: DataConfig) -> None:
    """Raises ConfigError where there are too few classes for the folds."""
    try:
        for fold in range(config.num_folds):
            _fold_classes(images, config, fold)
    except ValueError as error:
        raise ConfigError(f"data: {images.name} has {len(images.classes)} classes: {error}") from None

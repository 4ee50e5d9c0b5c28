"""From a configuration to images: addresses that say what decides the pixels, and subsets without a common class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raydml.config import ConfigError, DataConfig, DigitsConfig, ExperimentConfig, GlyphsConfig, replace_at
from raydml.data import glyphs, opening, subsets
from raydml.data.cache import Decoded, ImageSet

GLYPHS = GlyphsConfig(kind="glyphs", num_classes=20, images_per_class=4, image_size=16)


def changed(config: DataConfig, **fields: object) -> DataConfig:
    return type(config).model_validate(config.model_dump() | fields)


@pytest.mark.parametrize(
    "fields",
    [{"num_classes": 21}, {"images_per_class": 5}, {"image_size": 17}, {"noise": 0.2}, {"render_seed": 1}],
    ids=str,
)
def test_what_changes_the_pixels_changes_the_address(fields: dict[str, object]) -> None:
    assert opening.fingerprint(changed(GLYPHS, **fields)) != opening.fingerprint(GLYPHS)


@pytest.mark.parametrize(
    "fields",
    [
        {"cache": "/elsewhere"},
        {"batch_size": 40},
        {"samples_per_class": 2},
        {"num_folds": 2},
        {"test_fraction": 0.4},
        {"augment": {"flip": 0.5}},
    ],
    ids=str,
)
def test_what_leaves_the_pixels_alone_leaves_the_address_alone(fields: dict[str, object]) -> None:
    assert opening.fingerprint(changed(GLYPHS, **fields)) == opening.fingerprint(GLYPHS)


def test_every_kind_of_data_has_an_address_of_its_own() -> None:
    digits = DigitsConfig(kind="digits", image_size=16)
    addresses = {opening.fingerprint(config) for config in (GLYPHS, digits, changed(digits, image_size=8))}
    assert len(addresses) == 3


@pytest.fixture
def images(tiny: ExperimentConfig) -> ImageSet:
    return opening.open_images(tiny.data, with_test=True)


def test_test_classes_are_opened_only_on_request(tiny: ExperimentConfig, images: ImageSet) -> None:
    opened = opening.open_images(tiny.data)
    training = subsets.trainval_subset(images, tiny.data)
    assert opened.classes == images.classes, "folds are cut as before"
    assert len(opened.images) == len(opened.labels) == len(opened.sources) == len(training.index)
    assert set(opened.labels) == set(training.classes)
    assert np.array_equal(opened.images, images.images[training.index])
    with pytest.raises(ValueError, match=r"test classes of glyphs are not open: .*with_test=True"):
        subsets.test_subset(opened, tiny.data)


@pytest.mark.parametrize("fold", range(4))
def test_subsets_do_not_depend_on_what_else_is_open(tiny: ExperimentConfig, images: ImageSet, fold: int) -> None:
    opened = opening.open_images(tiny.data)
    pairs = zip(
        (*subsets.fold_subsets(opened, tiny.data, fold), subsets.trainval_subset(opened, tiny.data)),
        (*subsets.fold_subsets(images, tiny.data, fold), subsets.trainval_subset(images, tiny.data)),
        strict=True,
    )
    for found, expected in pairs:
        assert all(np.array_equal(*sides) for sides in zip(vars(found).values(), vars(expected).values(), strict=True))


def test_other_rendered_images_than_the_known_ones_are_refused(tiny: ExperimentConfig) -> None:
    """A node with other fonts would train on other pixels."""
    known = opening.fingerprint(tiny.data)
    assert opening.open_images(tiny.data, known=known).fingerprint == known
    with pytest.raises(ConfigError, match=rf"^data: the images changed .* were another and are {known} now"):
        opening.open_images(tiny.data, known="another")


def test_a_class_on_both_sides_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders of the same name in two sources would train on what they test."""

    def twice(config: GlyphsConfig) -> Decoded:
        names = ("owl", "cat", *map(str, range(2, 16)), "cat", "owl", "18", "19")
        pixels = np.zeros((40, 4, 4, 1), dtype=np.uint8)
        return Decoded(pixels, np.arange(40) // 2, names, [""] * 40)

    monkeypatch.setattr(glyphs, "render_glyphs", twice)
    config = changed(GLYPHS, render_seed=99, cache=str(cache))
    with pytest.raises(ConfigError, match=r"data: glyphs has 20 classes: overlapping .* between splits: cat, owl$"):
        opening.open_images(config)


def test_folds_and_test_classes_have_no_class_in_common(tiny: ExperimentConfig, images: ImageSet) -> None:
    test = subsets.test_subset(images, tiny.data)
    trainval = subsets.trainval_subset(images, tiny.data)
    assert not set(test.classes) & set(trainval.classes)
    assert sorted([*test.index, *trainval.index]) == list(range(len(images.labels)))
    validated: list[int] = []
    for fold in range(tiny.data.num_folds):
        train, val = subsets.fold_subsets(images, tiny.data, fold)
        assert sorted([*train.classes, *val.classes]) == trainval.classes.tolist()
        assert sorted([*train.index, *val.index]) == trainval.index.tolist()
        validated += val.classes.tolist()
    assert validated == trainval.classes.tolist()


def test_labels_of_a_subset_count_its_classes(tiny: ExperimentConfig, images: ImageSet) -> None:
    for subset in (*subsets.fold_subsets(images, tiny.data, 2), subsets.test_subset(images, tiny.data)):
        assert np.unique(subset.labels).tolist() == list(range(subset.num_classes))
        assert np.array_equal(subset.classes[subset.labels], images.labels[subset.index])


def test_too_few_classes_for_the_folds_are_a_clear_error(cache: Path) -> None:
    config = changed(GLYPHS, num_classes=8, num_folds=4, cache=str(cache))
    with pytest.raises(ConfigError, match=r"data: glyphs has 8 classes: .*num_folds=4"):
        opening.open_images(config)


def test_one_change_of_photographs_leaves_the_others_as_they_are() -> None:
    """A single setting of a section must not undo the defaults of its neighbours."""
    config = replace_at(ExperimentConfig(), "data", {"kind": "folder", "root": "x", "augment": {"hue": 0.1}})
    assert (config.data.augment.smallest_crop, config.data.augment.flip, config.data.augment.hue) == (0.16, 0.5, 0.1)

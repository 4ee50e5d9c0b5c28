"""Photographs that are never cached, and what a configuration says of the images it means."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from raydml.config import ConfigError
from raydml.data.cache import ImageSet
from raydml.data.opening import known_for, open_images
from tests.photo_cases import SIZE, config_of, make_folder, photos

N = 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


def test_open_images_hands_out_no_test_class(root: Path, cache: Path) -> None:
    opened = open_images(config_of(root, cache))
    assert np.array_equal(opened.images, photos()[: N // 2])
    assert opened.labels.max() == 4


def streamed(root: Path, **fields: object) -> ImageSet:
    return open_images(config_of(root, root.parent / "unused", decode="always", **fields), with_test=True)


def test_images_that_are_decoded_always_are_never_cached(root: Path) -> None:
    images = streamed(root)
    assert images.images.shape == (N, SIZE, SIZE, 3)
    assert np.array_equal(images.images[np.arange(N)], photos())
    assert (images.sizes, images.num_training, len(images.labels)) == ((4,) * 10, None, N)
    assert not (root.parent / "unused").exists()
    opened = open_images(config_of(root, root.parent / "unused", decode="always"))
    assert len(opened.images) == len(opened.labels) == N // 2
    assert np.array_equal(opened.images[np.arange(N // 2)], photos()[: N // 2])


def test_streamed_images_are_named_by_places_and_sizes(root: Path) -> None:
    address = streamed(root).fingerprint
    copied = shutil.copytree(root, root.parent / "copy")
    for path in copied.glob("*/*.png"):
        os.utime(path, (1, 1))
    assert streamed(copied).fingerprint == address
    assert streamed(copied, image_size=17).fingerprint != address
    with (copied / "class0" / "0.png").open("ab") as file:
        file.write(b"\0")
    changed = streamed(copied).fingerprint
    assert changed != address
    with pytest.raises(ConfigError, match="the images changed since"):
        open_images(config_of(copied, "unused", decode="always"), known=address)


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"batch_size": 40}, True),
        ({"prefetch_threads": 3}, True),
        ({"test_fraction": 0.3}, True),
        ({"cache": "there"}, True),
        ({"input_size": 17, "image_size": 17}, False),
        ({"decode": "always"}, False),
        ({"root": "elsewhere"}, False),
    ],
    ids=str,
)
def test_what_surely_means_the_same_images(fields: dict[str, object], same: bool) -> None:
    base = config_of(Path("root"), "here")
    config = type(base).model_validate(base.model_dump() | fields)
    assert known_for(config, base, "f") == ("f" if same else None)
    assert known_for(config, base, None) is None

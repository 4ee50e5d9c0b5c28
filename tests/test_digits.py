"""The scans inside scikit-learn, enlarged and otherwise untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from raydml.config import DigitsConfig
from raydml.data.digits import read_digits
from raydml.data.opening import open_images


def test_all_scans_are_there_with_their_labels() -> None:
    decoded = read_digits(DigitsConfig(kind="digits"))
    assert decoded.images.shape == (1797, 32, 32, 1)
    assert decoded.labels.tolist() == load_digits().target.tolist()
    assert decoded.classes == tuple("0123456789")
    assert 174 <= np.bincount(decoded.labels).min() <= np.bincount(decoded.labels).max() <= 183
    assert len(set(decoded.sources)) == 1797


def test_at_their_own_size_scans_only_change_their_scale() -> None:
    pixels = read_digits(DigitsConfig(kind="digits", image_size=8)).images[..., 0]
    assert np.array_equal(pixels, np.round(load_digits().images * 255 / 16))


@pytest.mark.parametrize("size", [16, 33])
def test_enlarged_scans_keep_their_brightness(size: int) -> None:
    small = read_digits(DigitsConfig(kind="digits", image_size=8)).images
    large = read_digits(DigitsConfig(kind="digits", image_size=size)).images
    assert large.shape[1:] == (size, size, 1)
    assert large.mean(axis=(1, 2, 3)) == pytest.approx(small.mean(axis=(1, 2, 3)), abs=6)


def test_digits_are_photographed_not_rendered(cache: Path) -> None:
    images = open_images(DigitsConfig(kind="digits", cache=str(cache)))
    assert images.name == "digits"
    assert not images.synthetic


def test_digits_are_opened_class_by_class(cache: Path) -> None:
    """scikit-learn has them in the order in which they were written."""
    images = open_images(DigitsConfig(kind="digits", image_size=8, cache=str(cache)), with_test=True)
    order = np.argsort(load_digits().target, kind="stable")
    assert images.labels.tolist() == load_digits().target[order].tolist()
    assert np.array_equal(images.images[..., 0], np.round(load_digits().images[order] * 255 / 16))
    assert images.sources == tuple(f"scikit-learn digits {number}" for number in order)
    assert images.sizes == tuple(np.bincount(load_digits().target))

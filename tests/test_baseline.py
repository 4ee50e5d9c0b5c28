"""Retrieval by raw pixels: a fixed rule, good on easy images, bounded in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydml.baseline import raw_pixel_metrics
from raydml.config import DigitsConfig, Wanted
from raydml.data.cache import ImageSet
from raydml.data.decoding import Pixels
from raydml.data.listing import GALLERY, QUERY
from raydml.data.opening import open_images
from raydml.data.subsets import Subset, trainval_subset
from raydml.metrics import retrieval_metrics
from raydml.retrieval import QueryGallery, RandomGallery, protocol_metrics


def image_set(pixels: Pixels) -> ImageSet:
    """Images with two per class."""
    labels = np.arange(len(pixels)) // 2
    names = tuple(str(label) for label in range(labels.max() + 1))
    sizes = tuple(np.bincount(labels).tolist())
    return ImageSet("test", pixels, labels, names, ("",) * len(pixels), sizes, "test", True)


def all_of(images: ImageSet) -> Subset:
    return Subset(np.arange(len(images.labels)), images.labels, np.arange(len(images.classes)))


def random_pixels(count: int, size: int, channels: int = 1) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def metrics_of(images: ImageSet) -> dict[str, float]:
    """The rule, in float64."""
    rows = torch.from_numpy(images.images.reshape(len(images.images), -1)).double()
    rows = rows - rows.mean(0)
    return retrieval_metrics(rows / rows.norm(dim=1, keepdim=True), images.labels)


def test_pixels_are_compared_by_the_cosine_of_their_deviation_from_the_mean() -> None:
    images = image_set(random_pixels(60, 8, channels=3))
    assert raw_pixel_metrics(images, all_of(images)) == pytest.approx(metrics_of(images), abs=1e-6)


def test_only_the_images_of_the_subset_count() -> None:
    images = image_set(random_pixels(40, 8))
    part = Subset(np.arange(10, 30), images.labels[10:30] - 5, np.arange(5, 15))
    alone = image_set(images.images[10:30])
    assert raw_pixel_metrics(images, part) == raw_pixel_metrics(alone, all_of(alone))


def test_large_images_are_averaged_down_to_32_pixels() -> None:
    small = image_set(random_pixels(30, 32))
    large = image_set(small.images.repeat(4, axis=1).repeat(4, axis=2))
    assert raw_pixel_metrics(large, all_of(large)) == pytest.approx(metrics_of(small), abs=1e-6)


def test_the_ranks_asked_for_are_reported() -> None:
    images = image_set(random_pixels(30, 8))
    found = raw_pixel_metrics(images, all_of(images), wanted=Wanted((1, 3)))
    assert {name for name in found if name.startswith("recall")} == {"recall@1", "recall@3"}


def test_digits_are_nearly_solved_without_training(cache: Path) -> None:
    config = DigitsConfig(kind="digits", cache=str(cache))
    images = open_images(config)
    assert raw_pixel_metrics(images, trainval_subset(images, config))["recall@1"] > 0.97


class _Counting(np.ndarray[Any, np.dtype[np.uint8]]):
    """Pixels that note how many images were copied at a time."""

    most = 0

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401
        part = super().__getitem__(key)
        if getattr(part, "ndim", 0) == self.ndim:
            _Counting.most = max(_Counting.most, len(part))
        return np.asarray(part)


def test_large_images_are_not_all_in_memory_at_once() -> None:
    # 5,000 images of 256 x 256 in colour are 1 GB, and 4 GB as floats: a few at a time will do.
    images = image_set(random_pixels(600, 64).view(_Counting))
    raw_pixel_metrics(images, all_of(images))
    assert 0 < _Counting.most < 600


def test_raw_pixels_have_the_protocol_of_the_embeddings() -> None:
    images = image_set(random_pixels(40, 8))
    subset = all_of(images)
    rows = images.images.reshape(40, -1).astype(np.float64)
    unit = torch.nn.functional.normalize(torch.from_numpy(rows - rows.mean(0)), dim=1)
    roles = np.tile(np.array([QUERY, GALLERY, GALLERY, QUERY], dtype=np.int8), 10)
    for protocol in (QueryGallery(roles), RandomGallery(4)):
        found = raw_pixel_metrics(images, subset, protocol=protocol)
        assert found == pytest.approx(protocol_metrics(protocol, unit, subset.labels).means(), abs=1e-6)
        assert found["num_queries"] == 20
        assert found != raw_pixel_metrics(images, subset)

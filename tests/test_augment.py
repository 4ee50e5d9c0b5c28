"""Random crops on the device: the distribution of torchvision's parameters, and the pixels of its resize (goal D4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from raydml.config import AugmentConfig
from raydml.data.augment import centre_crop, crop, draw_crops

WIDE = AugmentConfig(smallest_crop=0.16, widest_aspect=2.0, flip=0.3)


def drawn(config: AugmentConfig, count: int, *, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    crops = draw_crops(config, count, np.random.default_rng(seed))
    assert crops is not None
    assert crops.shape == (count, 5)
    assert crops.dtype == np.float32
    return crops.astype(np.float64)


def smooth_images(count: int, size: int, channels: int = 3, *, seed: int = 0) -> Tensor:
    """Random images without detail finer than 16 pixels, as photographs mostly are; uint8."""
    coarse = torch.rand(count, channels, size // 16, size // 16, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255).round().byte()


def whole(count: int, *, flipped: bool = False) -> Tensor:
    return torch.tensor([[0.0, 0.0, 1.0, 1.0, float(flipped)]]).expand(count, 5)


def test_crops_differ_little_from_torchvision_on_the_same_parameters(device: torch.device) -> None:
    images, rng = smooth_images(24, 256), np.random.default_rng(1)
    boxes: list[list[float]] = []
    references: list[Tensor] = []
    for image in images:
        # Whole pixels, as torchvision crops; from the smallest share of the Reality Check to the whole image.
        width, height = rng.integers(103, 257, 2)
        left, top = rng.integers(0, 257 - width), rng.integers(0, 257 - height)
        flipped = rng.random() < 0.5
        boxes.append([left / 256, top / 256, width / 256, height / 256, float(flipped)])
        resized = v2.functional.resized_crop(
            image, int(top), int(left), int(height), int(width), [224, 224], antialias=True
        )
        references.append(v2.functional.horizontal_flip(resized) if flipped else resized)
    ours = crop(images.to(device), torch.tensor(boxes, dtype=torch.float32).to(device), 224).cpu() * 255
    difference = (ours - torch.stack(references)).abs()
    assert float(difference.mean()) <= 0.5
    assert float(difference.quantile(0.999)) <= 3.0


@pytest.mark.parametrize("size", [8, 32, 224])
def test_the_whole_image_at_its_own_size_is_the_image(size: int, device: torch.device) -> None:
    images = torch.randint(0, 256, (3, 2, size, size), generator=torch.Generator().manual_seed(0)).byte().to(device)
    plain = crop(images, whole(3).to(device), size)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain, images / 255, rtol=0, atol=1e-4)
    flipped = crop(images, whole(3, flipped=True).to(device), size)
    torch.testing.assert_close(flipped, images.flip(3) / 255, rtol=0, atol=1e-4)


def test_a_quarter_of_the_image_is_that_quarter(device: torch.device) -> None:
    images = torch.randint(0, 256, (2, 1, 64, 64), generator=torch.Generator().manual_seed(1)).byte().to(device)
    # left, top, width, height: the first image's upper right, the second's lower left quarter.
    boxes = torch.tensor([[0.5, 0.0, 0.5, 0.5, 0.0], [0.0, 0.5, 0.5, 0.5, 1.0]], device=device)
    cropped = crop(images, boxes, 32)
    torch.testing.assert_close(cropped[0], images[0, :, :32, 32:] / 255, rtol=0, atol=1e-4)
    torch.testing.assert_close(cropped[1], images[1, :, 32:, :32].flip(2) / 255, rtol=0, atol=1e-4)


def test_nothing_outside_a_crop_bleeds_into_it(device: torch.device) -> None:
    images = torch.zeros(1, 1, 16, 16, dtype=torch.uint8, device=device)
    images[:, :, 4:12, 4:12] = 200
    enlarged = crop(images, torch.tensor([[0.25, 0.25, 0.5, 0.5, 0.0]], device=device), 64)
    torch.testing.assert_close(enlarged, torch.full_like(enlarged, 200 / 255))


def test_drawn_crops_lie_inside_the_image() -> None:
    left, top, width, height, flipped = drawn(WIDE, 5000).T
    assert min(left.min(), top.min()) >= 0
    assert max((left + width).max(), (top + height).max()) <= 1 + 1e-6
    assert set(flipped) == {0.0, 1.0}
    assert flipped.mean() == pytest.approx(0.3, abs=0.02)


def test_areas_are_uniform() -> None:
    # Square crops always fit, so that no proposal is rejected.
    _, _, width, height, _ = drawn(AugmentConfig(smallest_crop=0.16, widest_aspect=1.0), 20_000).T
    assert (width == height).all()
    assert (width * height).min() >= 0.16 - 1e-6
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(width * height, share) == pytest.approx(0.16 + share * 0.84, abs=0.01)


def test_aspects_are_log_uniform_within_their_limits() -> None:
    # Hardly any crop is rejected: only large ones are, and large ones are rare.
    _, _, width, height, _ = drawn(AugmentConfig(smallest_crop=0.01, widest_aspect=1.05), 20_000).T
    aspect = np.log(width / height) / math.log(1.05)
    assert -1 - 1e-4 <= aspect.min() < -0.99
    assert 0.99 < aspect.max() <= 1 + 1e-4
    assert aspect.std() == pytest.approx(1 / math.sqrt(3), abs=0.02)
    assert aspect.mean() == pytest.approx(0, abs=0.02)


def test_parameters_have_the_distribution_of_torchvision() -> None:
    torch.manual_seed(0)
    image = torch.empty(1, 1000, 1000)
    reference = v2.RandomResizedCrop(8, scale=(0.16, 1.0), ratio=(0.5, 2.0))
    theirs = np.array(
        [[p["width"], p["height"], p["left"]] for p in (reference.make_params([image]) for _ in range(4000))]
    )
    left, _, width, height, _ = drawn(WIDE, 4000).T
    for ours, other in ((width, theirs[:, 0]), (height, theirs[:, 1]), (left, theirs[:, 2])):
        for share in (0.1, 0.5, 0.9):
            assert np.quantile(ours, share) == pytest.approx(np.quantile(other, share) / 1000, abs=0.025)


def test_corners_are_uniform_over_where_a_crop_fits() -> None:
    left, top, width, height, _ = drawn(WIDE, 20_000).T
    for start, extent in ((left, width), (top, height)):
        loose = extent < 0.9
        place = start[loose] / (1 - extent[loose])
        assert place.mean() == pytest.approx(0.5, abs=0.01)
        assert place.std() == pytest.approx(1 / math.sqrt(12), abs=0.01)


def test_where_no_proposal_fits_the_whole_image_is_taken() -> None:
    full = AugmentConfig(smallest_crop=1.0, widest_aspect=4.0, flip=0.5)
    assert (drawn(full, 200)[:, :4] == [0.0, 0.0, 1.0, 1.0]).all()


def test_nothing_is_drawn_where_nothing_is_random() -> None:
    assert draw_crops(AugmentConfig(), 7, np.random.default_rng(0)) is None


def test_crops_follow_from_the_generator() -> None:
    assert (drawn(WIDE, 9, seed=4) == drawn(WIDE, 9, seed=4)).all()
    assert (drawn(WIDE, 9, seed=4) != drawn(WIDE, 9, seed=5)).any()


@pytest.mark.parametrize("size", [1, 5, 8])
def test_the_centre_crop_is_in_the_centre(size: int, device: torch.device) -> None:
    images = torch.arange(64, dtype=torch.uint8, device=device).view(1, 1, 8, 8)
    start = (8 - size) // 2
    expected = images[:, :, start : start + size, start : start + size] / 255
    assert torch.equal(centre_crop(images, size), expected)

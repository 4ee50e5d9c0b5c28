"""Random crops: the distribution of torchvision's parameters, and the pixels of its resize (goal D4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from raydml.config import AugmentConfig
from raydml.data.augment import centre_crop, crop, draw_colours, draw_crops, uniforms

WIDE = AugmentConfig(smallest_crop=0.16, widest_aspect=2.0, flip=0.3)


SIDE = 1000
COLOURED = AugmentConfig(brightness=0.4, contrast=0.3, saturation=1.0, hue=0.1)


def drawn(
    config: AugmentConfig, count: int, *, first: int = 0, seed: int = 0, epoch: int = 0, side: int = SIDE
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    crops = draw_crops(config, uniforms(first, count, seed=seed, epoch=epoch), height=side, width=side)
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
    assert (width * height).min() >= 0.16 - 1e-3
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(width * height, share) == pytest.approx(0.16 + share * 0.84, abs=0.01)


def test_aspects_are_log_uniform_within_their_limits() -> None:
    # Hardly any crop is rejected: only large ones are, and large ones are rare.
    _, _, width, height, _ = drawn(AugmentConfig(smallest_crop=0.01, widest_aspect=1.05), 20_000, side=10**6).T
    aspect = np.log(width / height) / math.log(1.05)
    assert -1.01 <= aspect.min() < -0.99
    assert 0.99 < aspect.max() <= 1.01
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
    loose = (width < 0.9) & (height < 0.9)
    places = [start[loose] / (1 - extent[loose]) for start, extent in ((left, width), (top, height))]
    assert abs(np.asarray(np.corrcoef(places))[0, 1]) < 0.04, "across has nothing to do with down"


def test_where_no_proposal_fits_the_whole_image_is_taken() -> None:
    full = AugmentConfig(smallest_crop=1.0, widest_aspect=4.0, flip=0.5)
    assert (drawn(full, 200)[:, :4] == [0.0, 0.0, 1.0, 1.0]).all()


def test_crops_are_whole_pixels_and_reach_every_edge() -> None:
    side, flips = 12, AugmentConfig(smallest_crop=0.3, flip=0.5)
    boxes = drawn(flips, 3000, side=side)[:, :4] * side
    assert np.abs(boxes - np.rint(boxes)).max() < 1e-5
    left, top, width, height = np.rint(boxes).astype(int).T
    for start, extent in ((left, width), (top, height)):
        assert start.min() == 0
        for size in (8, 10):
            # As many places as there are, each as often as another.
            counts = np.bincount(start[extent == size], minlength=side - size + 1)
            assert len(counts) == side - size + 1
            assert counts.min() > 0.6 * counts.mean()


def test_tiny_images_keep_a_pixel() -> None:
    boxes = drawn(AugmentConfig(smallest_crop=0.01, widest_aspect=4.0), 2000, side=3)[:, :4] * 3
    assert boxes[:, 2:].min() >= 1 - 1e-6
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 3 + 1e-6


def test_heights_and_widths_have_their_own_pixels() -> None:
    crops = draw_crops(WIDE, uniforms(0, 500, seed=0, epoch=0), height=10, width=40)
    assert crops is not None
    boxes = crops[:, :4] * np.array([40, 10, 40, 10])
    assert np.abs(boxes - np.rint(boxes)).max() < 1e-5
    assert len(np.unique(np.rint(boxes[:, 2]))) > 10 >= len(np.unique(np.rint(boxes[:, 3])))


def test_nothing_is_drawn_where_nothing_is_random() -> None:
    numbers = uniforms(0, 7, seed=0, epoch=0)
    assert draw_crops(AugmentConfig(), numbers, height=8, width=8) is None
    assert draw_colours(AugmentConfig(flip=0.5, smallest_crop=0.2), numbers) is None
    for field in ("flip", "smallest_crop"):
        assert draw_crops(AugmentConfig(**{field: 0.5}), numbers, height=8, width=8) is not None
    for field in ("brightness", "contrast", "saturation", "hue"):
        assert draw_colours(AugmentConfig(**{field: 0.5}), numbers) is not None


@pytest.mark.parametrize(("first", "count"), [(0, 40), (0, 1), (7, 5), (39, 1), (13, 27)])
def test_any_part_of_an_epoch_is_that_part(first: int, count: int) -> None:
    whole_epoch = uniforms(0, 40, seed=3, epoch=5)
    assert np.array_equal(uniforms(first, count, seed=3, epoch=5), whole_epoch[first : first + count])
    assert np.array_equal(
        drawn(WIDE, count, first=first, seed=3, epoch=5), drawn(WIDE, 40, seed=3, epoch=5)[first : first + count]
    )


def test_draws_follow_from_seed_epoch_and_place_and_nothing_else() -> None:
    tables = [
        uniforms(first, 9, seed=seed, epoch=epoch)
        for first, seed, epoch in ((0, 1, 2), (9, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1))
    ]
    numbers = np.concatenate([table.ravel() for table in tables])
    assert len(np.unique(numbers)) == len(numbers), "none is used twice"
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    np.random.default_rng(0).random(100)
    assert np.array_equal(uniforms(0, 9, seed=1, epoch=2), tables[0])


def test_numbers_of_a_draw_have_nothing_to_do_with_each_other() -> None:
    numbers = uniforms(0, 20_000, seed=0, epoch=0)
    correlation = np.corrcoef(numbers.T) - np.eye(numbers.shape[1])
    assert np.abs(correlation).max() < 0.04
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.01


def test_one_knob_does_not_move_another() -> None:
    """Flips are those of the same places whatever is cropped, and crops those without colours."""
    both = COLOURED.model_copy(update={"smallest_crop": 0.16, "flip": 0.3, "widest_aspect": 2.0})
    assert np.array_equal(drawn(both, 50), drawn(WIDE, 50))
    only_flips = drawn(AugmentConfig(flip=0.3), 50)
    assert np.array_equal(only_flips[:, 4], drawn(WIDE, 50)[:, 4])
    assert (only_flips[:, :4] == [0.0, 0.0, 1.0, 1.0]).all()


def test_colours_are_uniform_within_their_limits() -> None:
    colours = draw_colours(COLOURED, uniforms(0, 20_000, seed=0, epoch=0))
    assert colours is not None
    assert colours.shape == (20_000, 4)
    assert colours.dtype == np.float32
    limits = ((0.6, 1.4), (0.7, 1.3), (0.0, 2.0), (-0.1, 0.1))
    for column, (low, high) in zip(colours.T.astype(np.float64), limits, strict=True):
        place = (column - low) / (high - low)
        assert 0 - 1e-6 <= place.min() < 0.001
        assert 0.999 < place.max() <= 1 + 1e-6
        assert place.mean() == pytest.approx(0.5, abs=0.01)
        assert place.std() == pytest.approx(1 / math.sqrt(12), abs=0.01)
    assert np.abs(np.corrcoef(colours.T) - np.eye(4)).max() < 0.04


def test_a_colour_that_is_not_random_stays() -> None:
    colours = draw_colours(AugmentConfig(contrast=0.5), uniforms(0, 100, seed=0, epoch=0))
    assert colours is not None
    assert (colours[:, [0, 2, 3]] == [1.0, 1.0, 0.0]).all()
    assert len(np.unique(colours[:, 1])) == 100


@pytest.mark.parametrize("size", [1, 5, 8])
def test_the_centre_crop_is_in_the_centre(size: int, device: torch.device) -> None:
    images = torch.arange(64, dtype=torch.uint8, device=device).view(1, 1, 8, 8)
    start = (8 - size) // 2
    expected = images[:, :, start : start + size, start : start + size] / 255
    assert torch.equal(centre_crop(images, size), expected)

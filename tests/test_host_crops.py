"""Crops on the host: the pixels of torchvision's, and of the device's, from the same parameters (goal D4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from raydml.config import AugmentConfig, Cub200Config
from raydml.data.augment import Crops, centre_crop, crop, draw_crops, uniforms
from raydml.data.decoding import Pixels
from raydml.data.host_crops import centre_rows, crop_rows

PHOTOS = Cub200Config(kind="cub200", root="photos")
SIDE, SIZE = PHOTOS.image_size, PHOTOS.input_size


def photographs(count: int, side: int, channels: int = 3) -> Pixels:
    """Without detail finer than 8 pixels, as photographs mostly are, and a little noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, side // 8, side // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, side, mode="bicubic")
    noisy = (smooth + 0.004 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    return np.ascontiguousarray((noisy * 255).round().byte().permute(0, 2, 3, 1).numpy())


def drawn(config: AugmentConfig, count: int, side: int, *, seed: int = 0) -> Crops:
    crops = draw_crops(config, uniforms(0, count, seed=seed, epoch=0), height=side, width=side)
    assert crops is not None
    return crops


def by_torchvision(images: Pixels, crops: Crops, size: int) -> Tensor:
    """(B, C_in, size, size) uint8, image by image."""
    found = []
    for image, (left, top, width, height, flipped) in zip(images, crops.tolist(), strict=True):
        box = [round(share * image.shape[0]) for share in (top, left, height, width)]
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        resized = v2.functional.resized_crop(tensor, *box, [size, size], antialias=True)
        found.append(v2.functional.horizontal_flip(resized) if flipped else resized)
    return torch.stack(found)


def on_host(images: Pixels, crops: Crops, size: int) -> Tensor:
    return torch.from_numpy(crop_rows(images, np.arange(len(images)), crops, size)).permute(0, 3, 1, 2)


def on_device(images: Pixels, crops: Crops, size: int, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    return crop(tensor, torch.from_numpy(crops).to(device), size).cpu() * 255


def test_both_ways_are_within_half_a_grey_level_of_torchvision(device: torch.device) -> None:
    """Goal D4, for crops as they are drawn by default: enlarged, and a little reduced."""
    images, crops = photographs(40, SIDE), drawn(PHOTOS.augment, 40, SIDE)
    widths = crops[:, 2] * SIDE
    assert widths.min() < 0.6 * SIZE
    assert widths.max() > 1.05 * SIZE
    assert set(crops[:, 4].tolist()) == {0.0, 1.0}
    reference = by_torchvision(images, crops, SIZE).float()
    host, batched = on_host(images, crops, SIZE).float(), on_device(images, crops, SIZE, device)
    assert float((host - reference).abs().mean()) <= 0.5
    assert float((batched - reference).abs().mean()) <= 0.5
    assert float((host - batched).abs().mean()) <= 0.5
    # Each image by itself, so that no wrong flip hides in the mean.
    assert float((host - reference).abs().mean((1, 2, 3)).max()) <= 1.0
    assert float((host - batched).abs().max()) <= 1.0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "size"), [(32, 32), (16, 16), (40, 24), (24, 24)])
def test_host_and_device_agree_on_any_pixels(side: int, size: int, channels: int) -> None:
    """Noise, where everything that can differ does: half a level of rounding, and what OpenCV's integers leave."""
    images = np.random.default_rng(1).integers(0, 256, (60, side, side, channels), dtype=np.uint8)
    crops = drawn(AugmentConfig(smallest_crop=0.1, widest_aspect=3.0, flip=0.5), 60, side)
    host, batched = on_host(images, crops, size), on_device(images, crops, size, torch.device("cpu"))
    assert host.dtype == torch.uint8
    assert host.shape == batched.shape == (60, channels, size, size)
    assert float((host.float() - batched).abs().max()) <= 1.6


def test_the_whole_image_at_its_own_size_is_the_image() -> None:
    images = np.random.default_rng(2).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    crops = np.array([[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]], dtype=np.float32)
    found = crop_rows(images, np.array([0, 1]), crops, 9)
    assert np.array_equal(found[0], images[0])
    assert np.array_equal(found[1], images[1, :, ::-1])


def test_nothing_outside_a_crop_bleeds_into_it() -> None:
    images = np.zeros((1, 16, 16, 1), dtype=np.uint8)
    images[:, 4:12, 4:12] = 200
    found = crop_rows(images, np.array([0]), np.array([[0.25, 0.25, 0.5, 0.5, 1.0]], dtype=np.float32), 64)
    assert (found == 200).all()


def test_rows_are_those_of_the_index_and_the_cache_stays(tmp_path: Path) -> None:
    """Straight from a memory map that nobody may write to."""
    pixels = photographs(12, 32)
    pixels.tofile(tmp_path / "images")
    images = np.memmap(tmp_path / "images", dtype=np.uint8, mode="r", shape=pixels.shape)
    index, crops = np.array([7, 0, 7, 11]), drawn(AugmentConfig(smallest_crop=0.3, flip=0.5), 4, 32)
    found = crop_rows(images, index, crops, 20)
    for row, place in enumerate(index):
        alone = crop_rows(pixels[place][None], np.array([0]), crops[row : row + 1], 20)
        assert np.array_equal(found[row], alone[0])
    assert not np.array_equal(found[0], found[2]), "the same image, another crop"
    assert np.array_equal(images, pixels)


@pytest.mark.parametrize(("side", "size"), [(8, 8), (9, 4), (9, 8), (8, 1), (256, 224)])
def test_the_centre_is_that_of_the_device(side: int, size: int) -> None:
    images = np.random.default_rng(3).integers(0, 256, (6, side, side, 3), dtype=np.uint8)
    index = np.array([5, 1, 1])
    found = torch.from_numpy(centre_rows(images, index, size)).permute(0, 3, 1, 2)
    assert torch.equal(found / 255, centre_crop(torch.from_numpy(images[index]).permute(0, 3, 1, 2), size))
    assert not np.shares_memory(found.numpy(), images)


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    yield
    cv2.setNumThreads(before)


def test_threads_are_the_loaders_alone(four_threads: None) -> None:
    images, crops = photographs(3, SIDE), drawn(PHOTOS.augment, 3, SIDE)
    crop_rows(images, np.arange(3), crops, SIZE)
    assert cv2.getNumThreads() == 1

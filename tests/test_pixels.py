"""Batches of pixels: what workers get of a global batch, and that no image's fate depends on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from raydml.config import AugmentConfig
from raydml.data.batches import Batch, PixelSource, class_balanced_batches, sequential_batches, training_batches

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
SUBSET = RNG.permutation(60)[:48].astype(np.int64)
LABELS = np.repeat(np.arange(12, dtype=np.int64), 4)
ROWS = class_balanced_batches(LABELS, batch_size=16, samples_per_class=2, num_steps=5, seed=0, epoch=0)
RANDOM = AugmentConfig(smallest_crop=0.3, flip=0.5)


def worker(
    rank: int, world_size: int, device: torch.device, *, augment: AugmentConfig = RANDOM, seed: int = 0, epoch: int = 0
) -> list[Batch]:
    source = PixelSource(IMAGES, SUBSET, device=device)
    return list(
        training_batches(
            source, LABELS, ROWS, augment=augment, seed=seed, epoch=epoch, rank=rank, world_size=world_size
        )
    )


def crops_of(parts: list[Batch]) -> Tensor:
    crops = [part.crops for part in parts]
    return torch.cat([part for part in crops if part is not None])


def test_one_worker_gets_the_pixels_of_the_global_batch(device: torch.device) -> None:
    for batch, row in zip(worker(0, 1, device), ROWS, strict=True):
        assert batch.images.dtype == torch.uint8
        assert batch.images.device.type == batch.labels.device.type == device.type
        assert batch.images.permute(0, 2, 3, 1).tolist() == IMAGES[SUBSET[row]].tolist()
        assert batch.labels.tolist() == LABELS[row].tolist()
        assert batch.index.tolist() == row.tolist()


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_cut_the_batch_of_one_worker_in_rank_order(world_size: int, device: torch.device) -> None:
    whole = worker(0, 1, device)
    ranks = [worker(rank, world_size, device) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        parts = [ranks[rank][step] for rank in range(world_size)]
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
        assert batch.crops is not None
        assert torch.equal(crops_of(parts), batch.crops)


def test_crops_follow_from_seed_and_epoch_and_differ_between_steps() -> None:
    host = torch.device("cpu")
    crops = crops_of(worker(0, 1, host))
    assert torch.equal(crops_of(worker(0, 1, host)), crops)
    assert not torch.equal(crops_of(worker(0, 1, host, seed=1)), crops)
    assert not torch.equal(crops_of(worker(0, 1, host, epoch=1)), crops)
    assert len(crops.unique(dim=0)) == len(crops)


def test_without_augmentation_there_are_no_crops(device: torch.device) -> None:
    assert all(batch.crops is None for batch in worker(0, 1, device, augment=AugmentConfig()))


@pytest.mark.parametrize("batch_size", [1, 5, 48, 100])
def test_sequential_batches_hold_the_positions_in_order(batch_size: int, device: torch.device) -> None:
    source = PixelSource(IMAGES, SUBSET, device=device)
    positions = np.arange(1, 48, 3)
    parts = list(sequential_batches(source, LABELS, positions, batch_size=batch_size))
    assert [len(part.labels) for part in parts[:-1]] == [batch_size] * (len(parts) - 1)
    assert torch.cat([part.index for part in parts]).tolist() == positions.tolist()
    assert torch.cat([part.labels for part in parts]).tolist() == LABELS[positions].tolist()
    pixels = torch.cat([part.images for part in parts]).permute(0, 2, 3, 1)
    assert pixels.tolist() == IMAGES[SUBSET[positions]].tolist()
    assert all(part.crops is None for part in parts)


def test_no_positions_make_no_batches(device: torch.device) -> None:
    source = PixelSource(IMAGES, SUBSET, device=device)
    assert len(source) == 48
    assert list(sequential_batches(source, LABELS, [], batch_size=4)) == []


def test_taking_pixels_leaves_the_cache_alone(device: torch.device) -> None:
    before = IMAGES.copy()
    PixelSource(IMAGES, SUBSET, device=device).take(np.array([0, 0, 3])).zero_()
    assert np.array_equal(IMAGES, before)

"""Batches of pixels: what workers get of a global batch, and that no image's fate depends on them or on threads."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from raydml.config import AugmentConfig, ConfigError, FolderConfig
from raydml.data.augment import centre_crop, draw_colours, draw_crops, uniforms
from raydml.data.batches import Batch, class_balanced_batches, sequential_batches, training_batches
from raydml.data.decoding import Pixels
from raydml.data.folder import list_folder
from raydml.data.pixels import PixelSource
from raydml.data.streaming import StreamedPixels
from raydml.objective import network_input
from raydml.splits import Indices

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)
SIZE = 8
SUBSET = RNG.permutation(60)[:48].astype(np.int64)
LABELS = np.repeat(np.arange(12, dtype=np.int64), 4)
ROWS = class_balanced_batches(LABELS, batch_size=16, samples_per_class=2, num_steps=5, seed=0, epoch=0)
RANDOM = AugmentConfig(smallest_crop=0.3, flip=0.5, brightness=0.2, hue=0.1)
PLAIN = AugmentConfig()
HOST = torch.device("cpu")


def worker(
    rank: int,
    world_size: int,
    device: torch.device,
    *,
    augment: AugmentConfig = RANDOM,
    seed: int = 0,
    epoch: int = 0,
    threads: int = 0,
    rows: Indices = ROWS,
    images: Pixels | StreamedPixels = IMAGES,
) -> list[Batch]:
    source = PixelSource(images, SUBSET, device=device, input_size=SIZE)
    return list(
        training_batches(
            source,
            LABELS,
            rows,
            augment=augment,
            seed=seed,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            threads=threads,
        )
    )


def fields(batch: Batch) -> dict[str, Tensor]:
    found = {name: getattr(batch, name) for name in ("images", "labels", "index", "crops", "colours")}
    return {name: value for name, value in found.items() if value is not None}


def inputs(batches: list[Batch]) -> Tensor:
    """What the network sees, whoever crops; on the host."""
    return torch.cat([network_input(b.images, b.crops, SIZE, colours=b.colours) for b in batches]).cpu()


def same(one: list[Batch], another: list[Batch]) -> bool:
    """Bit for bit."""
    return all(
        fields(a).keys() == fields(b).keys()
        and all(torch.equal(fields(a)[name], fields(b)[name]) for name in fields(a))
        for a, b in zip(one, another, strict=True)
    )


def test_one_worker_gets_the_pixels_of_the_global_batch(device: torch.device) -> None:
    for batch, row in zip(worker(0, 1, device, augment=PLAIN), ROWS, strict=True):
        assert batch.images.dtype == torch.uint8
        assert batch.images.device.type == batch.labels.device.type == device.type
        whole = torch.from_numpy(IMAGES[SUBSET[row]]).permute(0, 3, 1, 2)
        seen = inputs([batch])
        assert torch.equal(seen if seen.is_floating_point() else seen / 255, centre_crop(whole, SIZE))
        assert batch.labels.tolist() == LABELS[row].tolist()
        assert batch.index.tolist() == row.tolist()
        assert batch.num_global == len(row)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_cut_the_batch_of_one_worker_in_rank_order_whatever_the_threads(
    world_size: int, threads: int, device: torch.device
) -> None:
    whole = worker(0, 1, device)
    ranks = [worker(rank, world_size, device, threads=threads) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        parts = [fields(ranks[rank][step]) for rank in range(world_size)]
        assert all(part.keys() == fields(batch).keys() for part in parts)
        for name, value in fields(batch).items():
            assert torch.equal(torch.cat([part[name] for part in parts]), value), name


def test_a_batch_is_as_large_as_the_network_wants_where_the_host_crops() -> None:
    """On a CPU nothing is left to crop; colours are changed by whoever computes."""
    for batch in worker(0, 1, HOST):
        assert batch.images.shape == (16, 3, SIZE, SIZE)
        assert batch.images.dtype == torch.uint8
        assert batch.crops is None
        assert batch.colours is not None
    source = PixelSource(IMAGES, SUBSET, device=HOST, input_size=SIZE)
    assert source.crops_on_host
    assert source.take(np.array([1, 2])).shape == (2, 3, SIZE, SIZE)
    assert PixelSource(IMAGES, SUBSET, device=HOST).take(np.array([1, 2])).shape == (2, 3, 12, 12)


def test_the_place_in_the_epoch_decides_what_becomes_of_an_image(device: torch.device) -> None:
    """Also behind batches of other lengths, as divided images have them."""
    rows = [ROWS[0], ROWS[1][:5], ROWS[2][:11], ROWS[3]]
    source = PixelSource(IMAGES, SUBSET, device=device, input_size=SIZE)
    options = {"augment": RANDOM, "seed": 4, "epoch": 7}
    found = list(training_batches(source, LABELS, rows, **options, rank=0, world_size=1))  # type: ignore[arg-type]
    numbers = uniforms(0, 16 + 5 + 11 + 16, seed=4, epoch=7)
    crops, colours = draw_crops(RANDOM, numbers, height=12, width=12), draw_colours(RANDOM, numbers)
    assert crops is not None
    assert colours is not None
    assert np.array_equal(torch.cat([b.colours for b in found if b.colours is not None]).cpu().numpy(), colours)
    whole = torch.from_numpy(IMAGES[SUBSET[np.concatenate(rows)]]).permute(0, 3, 1, 2)
    expected = network_input(whole, torch.from_numpy(crops), SIZE, colours=torch.from_numpy(colours))
    # Host crops are rounded to a grey level before colours are changed.
    assert float((inputs(found) - expected).abs().max()) * 255 < 4
    assert float((inputs(found) - expected).abs().mean()) * 255 < 0.5


def test_an_image_that_comes_twice_is_changed_in_two_ways(device: torch.device) -> None:
    twice = worker(0, 1, device, rows=np.array([[3, 3], [3, 5]]))
    seen = inputs(twice)
    assert [part.index.tolist() for part in twice] == [[3, 3], [3, 5]]
    assert len(seen[:3].flatten(1).unique(dim=0)) == 3


def test_changes_follow_from_seed_and_epoch(device: torch.device) -> None:
    first = worker(0, 1, device)
    assert same(worker(0, 1, device), first)
    for other in (worker(0, 1, device, seed=1), worker(0, 1, device, epoch=1)):
        assert not torch.equal(inputs(other), inputs(first))
        assert [b.index.tolist() for b in other] == [b.index.tolist() for b in first]


def test_without_augmentation_nothing_is_changed(device: torch.device) -> None:
    assert all(batch.crops is None and batch.colours is None for batch in worker(0, 1, device, augment=PLAIN))


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 48, 100])
def test_sequential_batches_hold_the_positions_in_order(batch_size: int, threads: int, device: torch.device) -> None:
    source = PixelSource(IMAGES, SUBSET, device=device)
    positions = np.arange(1, 48, 3)
    parts = list(sequential_batches(source, LABELS, positions, batch_size=batch_size, threads=threads))
    assert [len(part.labels) for part in parts[:-1]] == [batch_size] * (len(parts) - 1)
    assert torch.cat([part.index for part in parts]).tolist() == positions.tolist()
    assert torch.cat([part.labels for part in parts]).tolist() == LABELS[positions].tolist()
    pixels = torch.cat([part.images for part in parts]).permute(0, 2, 3, 1)
    assert pixels.tolist() == IMAGES[SUBSET[positions]].tolist()
    assert all(part.crops is None and part.colours is None for part in parts)


def test_no_positions_make_no_batches(device: torch.device) -> None:
    source = PixelSource(IMAGES, SUBSET, device=device)
    assert len(source) == 48
    assert list(sequential_batches(source, LABELS, [], batch_size=4)) == []


def test_taking_pixels_leaves_the_cache_alone(device: torch.device) -> None:
    before = IMAGES.copy()
    PixelSource(IMAGES, SUBSET, device=device).take(np.array([0, 0, 3])).zero_()
    assert np.array_equal(IMAGES, before)


def test_batches_that_are_given_up_leave_no_thread(device: torch.device) -> None:
    before = threading.active_count()
    source = PixelSource(IMAGES, SUBSET, device=device)
    options = {"augment": RANDOM, "seed": 0, "epoch": 0, "rank": 0, "world_size": 1, "threads": 3}
    for batches in (
        training_batches(source, LABELS, ROWS, **options),  # type: ignore[arg-type]
        sequential_batches(source, LABELS, np.arange(48), batch_size=2, threads=3),
    ):
        next(batches)
        assert threading.active_count() > before
        batches.close()
        assert threading.active_count() == before


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> StreamedPixels:
    """The images as files, in the same order."""
    root = tmp_path_factory.mktemp("files")
    for place, image in enumerate(IMAGES):
        folder = root / f"{place // 6:02d}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{place:02d}.png")
    return StreamedPixels(list_folder(FolderConfig(kind="folder", root=str(root))), 12)


@pytest.mark.parametrize("augment", [RANDOM, PLAIN], ids=["random", "plain"])
def test_streamed_images_make_the_batches_of_cached_ones(
    streamed: StreamedPixels, augment: AugmentConfig, device: torch.device
) -> None:
    cached = worker(0, 1, device, augment=augment)
    assert same(worker(0, 1, device, augment=augment, images=streamed, threads=2), cached)


def test_an_image_that_is_gone_stops_the_batches_with_its_name(tmp_path: Path) -> None:
    for place, image in enumerate(IMAGES):
        (tmp_path / f"{place // 6:02d}").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"{place // 6:02d}" / f"{place:02d}.png")
    streamed = StreamedPixels(list_folder(FolderConfig(kind="folder", root=str(tmp_path))), 12)
    lost = int(SUBSET[ROWS[2][3]])
    (tmp_path / f"{lost // 6:02d}" / f"{lost:02d}.png").unlink()
    with pytest.raises(ConfigError, match=f"{lost:02d}.png is no readable image"):
        worker(0, 1, HOST, images=streamed, threads=3)

"""Class-balanced global batches as a pure function of (seed, epoch), cut among workers, and their pixels.

A batch has `batch_size / samples_per_class` class slots. Classes come in random rounds through all classes, so that
within an epoch their numbers of slots differ by at most one. The images of a class come in random rounds too, each of
as many whole slots as the class has images for.

Corner cases: a class with fewer images than a slot repeats them; fewer classes than slots give a class several slots
of a batch; the length of an epoch is exactly `num_steps`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydml import seeds
from raydml.config import AugmentConfig
from raydml.data.augment import draw_crops
from raydml.data.decoding import Pixels
from raydml.distributed import share
from raydml.splits import Indices

# Pixels stay on the GPU where they take at most this share of its free memory.
_RESIDENT_SHARE = 0.25


@dataclass(frozen=True)
class Batch:
    """A worker's part of a global batch, on its device."""

    images: Tensor
    """(B, C_in, H, W) uint8."""
    labels: Tensor
    """(B,) int64."""
    index: Tensor
    """(B,) int64, positions within the subset; on the host."""
    crops: Tensor | None = None
    """(B, 5) float32 of `raydml.data.augment`, where the batch is to be augmented."""
    num_global: int | None = None
    """G, images of the global batch; B times the workers where None."""
    learner: int | None = None
    """Whose batch it is, where images are divided among learners."""


def num_steps(num_images: int, batch_size: int) -> int:
    """Steps that cover the images once, but for the remainder of a batch; at least one."""
    return max(1, num_images // batch_size)


def max_positives(batch_size: int, samples_per_class: int, num_classes: int) -> int:
    """The most positives that an image can have in a batch: classes repeat only where there are too few of them."""
    slots = batch_size // samples_per_class
    # A batch is a window on random rounds through the classes; where it spans two, a class may come once more.
    most_slots = 1 if num_classes >= slots else -(-(slots - 1) // num_classes) + 1
    return samples_per_class * min(most_slots, slots) - 1


def class_balanced_batches(
    labels: Indices, *, batch_size: int, samples_per_class: int, num_steps: int, seed: int, epoch: int
) -> Indices:
    """Positions into `labels` of every batch of an epoch: (num_steps, batch_size), slot after slot."""
    rng = seeds.stream(seeds.Purpose.BATCHES, seed, epoch)
    num_classes = int(labels.max()) + 1
    slots_per_batch = batch_size // samples_per_class
    slot_class = _class_order(num_classes, slots_per_batch, num_steps * slots_per_batch, rng)
    take = np.full(num_classes, samples_per_class)
    return fill_slots(labels, slot_class, take, rng).reshape(num_steps, batch_size)


def _class_order(num_classes: int, slots_per_batch: int, num_slots: int, rng: np.random.Generator) -> Indices:
    """The class of every slot: random rounds through the classes, distinct within a batch where they can be."""
    rounds: list[Indices] = []
    drawn = 0
    while drawn < num_slots:
        order = rng.permutation(num_classes)
        begun = drawn % slots_per_batch
        if begun and num_classes >= slots_per_batch:
            # The classes that the last, unfinished batch already has go to the end of this round.
            repeated = np.isin(order, rounds[-1][-begun:])
            order = np.concatenate([order[~repeated], order[repeated]])
        rounds.append(order)
        drawn += num_classes
    return np.concatenate(rounds)[:num_slots]


def fill_slots(labels: Indices, slot_class: Indices, take: Indices, rng: np.random.Generator) -> Indices:
    """Images for every slot, slot after slot: each class's stream of random rounds, cut into pieces of `take` (C,)."""
    sizes = np.bincount(labels)
    slots_of = np.bincount(slot_class, minlength=len(sizes))
    # Of each round only whole slots are used, so that no image is twice in a slot unless its class is too small.
    usable = np.where(sizes >= take, sizes // take * take, sizes)
    rounds = -(-slots_of * take // usable)
    by_class = np.argsort(labels, kind="stable")
    start = np.cumsum(sizes) - sizes
    # One entry for each (class, round, image), then a random order within each (class, round).
    entry_class = np.repeat(np.arange(len(sizes)), rounds * sizes)
    within = np.arange(len(entry_class)) - np.repeat(np.cumsum(rounds * sizes) - rounds * sizes, rounds * sizes)
    entry_round, entry_image = within // sizes[entry_class], within % sizes[entry_class]
    order = np.lexsort((rng.random(len(entry_class)), entry_round, entry_class))
    image = by_class[start[entry_class[order]] + entry_image[order]]
    stream = image[entry_image < usable[entry_class]]
    # The streams of all classes lie one after another; slot s of a class takes its s-th piece.
    stream_start = np.cumsum(rounds * usable) - rounds * usable
    place = np.empty(len(slot_class), dtype=np.int64)
    by_slot_class = np.argsort(slot_class, kind="stable")
    place[by_slot_class] = np.arange(len(slot_class)) - np.repeat(np.cumsum(slots_of) - slots_of, slots_of)
    length = take[slot_class]
    first = stream_start[slot_class] + place * length
    steps = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    filled: Indices = stream[np.repeat(first, length) + steps].astype(np.int64)
    return filled


class PixelSource:
    """Pixels of a subset, by position: on the GPU where they fit there, else cut from the memory map."""

    def __init__(self, images: Pixels, index: Indices, *, device: torch.device) -> None:
        self._images, self._index, self.device = images, index, device
        self._resident: Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if len(index) * int(np.prod(images.shape[1:])) <= _RESIDENT_SHARE * free:
                self._resident = torch.from_numpy(images[index]).to(device)

    def __len__(self) -> int:
        return len(self._index)

    def take(self, positions: Indices) -> Tensor:
        """(B, C_in, H, W) uint8 on the device, for positions within the subset."""
        if self._resident is not None:
            pixels = self._resident.index_select(0, to_device(torch.from_numpy(positions), self.device))
        else:
            pixels = to_device(torch.from_numpy(self._images[self._index[positions]]), self.device)
        return pixels.permute(0, 3, 1, 2)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device, without waiting for the copy."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def training_batches(
    source: PixelSource,
    labels: Indices,
    rows: Iterable[Indices],
    *,
    augment: AugmentConfig,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
    learners: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """This worker's part of every batch of an epoch; `rows` are the global batches, each (G,), of these learners.

    Random crops are drawn for the global batch and then cut, so that no image's fate depends on the workers.
    """
    rng = seeds.stream(seeds.Purpose.CROPS, seed, epoch)
    for row, learner in zip(rows, learners or itertools.repeat(None), strict=False):
        mine = share(len(row), rank, world_size)
        crops = draw_crops(augment, len(row), rng)
        yield Batch(
            source.take(row[mine]),
            to_device(torch.from_numpy(labels[row[mine]]), source.device),
            torch.from_numpy(row[mine]),
            None if crops is None else to_device(torch.from_numpy(crops[mine]), source.device),
            num_global=len(row),
            learner=learner,
        )


def sequential_batches(
    source: PixelSource, labels: Indices, positions: Sequence[int] | Indices, *, batch_size: int
) -> Iterator[Batch]:
    """Images at the positions, in order, unaugmented."""
    for start in range(0, len(positions), batch_size):
        part = np.asarray(positions[start : start + batch_size], dtype=np.int64)
        labels_part = to_device(torch.from_numpy(labels[part]), source.device)
        yield Batch(source.take(part), labels_part, torch.from_numpy(part))

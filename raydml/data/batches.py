"""Class-balanced global batches as a pure function of (seed, epoch), cut among workers.

A batch has `batch_size / samples_per_class` class slots. Classes come in random rounds through all classes, so that
within an epoch their numbers of slots differ by at most one. The images of a class come in random rounds too, each of
as many whole slots as the class has images for.

Corner cases: a class with fewer images than a slot repeats them; fewer classes than slots give a class several slots
of a batch; the length of an epoch is exactly `num_steps`.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydml import seeds
from raydml.config import AugmentConfig
from raydml.data.augment import draw_colours, draw_crops, uniforms
from raydml.data.pixels import PixelSource, pinned
from raydml.data.prefetch import in_order
from raydml.distributed import share
from raydml.splits import Indices


@dataclass(frozen=True)
class Batch:
    """A worker's part of a global batch, on its device."""

    images: Tensor
    """(B, C_in, H, W) uint8: whole, or on a CPU cut to the network's input, with all crops and flips done."""
    labels: Tensor
    """(B,) int64."""
    index: Tensor
    """(B,) int64, positions within the subset; on the host."""
    crops: Tensor | None = None
    """(B, 5) float32 of `raydml.data.augment`, where crops are still to be done."""
    colours: Tensor | None = None
    """(B, 4) float32 of `raydml.data.augment`, where colours are to be changed."""
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


class _Prepared(NamedTuple):
    """A worker's part of a batch on the host."""

    pixels: Tensor
    """What `PixelSource.read` gave."""
    labels: Tensor
    positions: Indices
    crops: Tensor | None = None
    colours: Tensor | None = None
    num_global: int | None = None
    learner: int | None = None


def _delivered(prepared: Iterator[_Prepared], source: PixelSource) -> Generator[Batch]:
    def moved(x: Tensor) -> Tensor:
        return x.to(source.device, non_blocking=True)

    for part in prepared:
        yield Batch(
            source.deliver(part.pixels),
            moved(part.labels),
            torch.from_numpy(part.positions),
            None if part.crops is None else moved(part.crops),
            None if part.colours is None else moved(part.colours),
            num_global=part.num_global,
            learner=part.learner,
        )


class _Part(NamedTuple):
    """What a worker makes its part of a global batch from."""

    positions: Indices
    first: int
    """The place of the first position among all draws of the epoch, those of other workers included."""
    num_global: int
    learner: int | None


def _parts(rows: Iterable[Indices], learners: Sequence[int] | None, *, rank: int, world_size: int) -> Iterator[_Part]:
    drawn = 0
    for row, learner in zip(rows, learners or itertools.repeat(None), strict=False):
        mine = share(len(row), rank, world_size)
        yield _Part(row[mine], drawn + mine.start, len(row), learner)
        drawn += len(row)


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
    threads: int = 0,
    first: int = 0,
) -> Generator[Batch]:
    """This worker's part of every batch of an epoch; `rows` are the global batches, each (G,), of these learners.

    With `first` the batches before that one are left out, and the others are what they are with them.
    The random changes of an image follow from seed, epoch and its place among the global batches, so that they depend
    neither on the workers nor on the threads that make batches ahead. An image that comes twice is changed in two ways.
    """

    def prepared(part: _Part) -> _Prepared:
        numbers = uniforms(part.first, len(part.positions), seed=seed, epoch=epoch)
        crops = draw_crops(augment, numbers, height=source.height, width=source.width)
        colours = draw_colours(augment, numbers)
        return _Prepared(
            source.read(part.positions, crops),
            pinned(torch.from_numpy(labels[part.positions]), source.device),
            part.positions,
            None if crops is None or source.crops_on_host else pinned(torch.from_numpy(crops), source.device),
            None if colours is None else pinned(torch.from_numpy(colours), source.device),
            part.num_global,
            part.learner,
        )

    parts = itertools.islice(_parts(rows, learners, rank=rank, world_size=world_size), first, None)
    with closing(in_order(prepared, parts, threads=threads)) as made:
        yield from _delivered(made, source)


def sequential_batches(
    source: PixelSource,
    labels: Indices,
    positions: Sequence[int] | Indices,
    *,
    batch_size: int,
    threads: int = 0,
) -> Generator[Batch]:
    """Images at the positions, in order, unaugmented; made ahead by threads."""

    def prepared(start: int) -> _Prepared:
        part = np.asarray(positions[start : start + batch_size], dtype=np.int64)
        return _Prepared(source.read(part), pinned(torch.from_numpy(labels[part]), source.device), part)

    with closing(in_order(prepared, range(0, len(positions), batch_size), threads=threads)) as made:
        yield from _delivered(made, source)

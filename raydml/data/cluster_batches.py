"""Class-balanced batches of one cluster of images each, as a pure function of (seed, epoch, division).

Learners take turns, a batch each. Within a cluster classes and images come in random rounds as in undivided batches,
but nothing is repeated within a batch: a class with fewer images than a slot gives all it has, and the batch is filled
with further classes, or is smaller where the cluster has no more.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from raydml import seeds
from raydml.data.batches import fill_slots
from raydml.splits import Indices

# Multiples of it, taken modulo one, fill the unit interval most evenly.
_GOLDEN = 0.5 * (5.0**0.5 - 1.0)

RoundLength = Literal["mean", "max", "min", "proportional"]


class ClusterBatch(NamedTuple):
    """One global batch."""

    learner: int
    rows: Indices
    """(G,) positions into the labels, class after class."""


def cluster_batches(
    labels: Indices,
    division: Indices,
    *,
    batch_size: int,
    samples_per_class: int,
    num_steps: int,
    round_length: RoundLength,
    seed: int,
    epoch: int,
) -> list[ClusterBatch]:
    """The batches of an epoch. `division` (N,) is the learner of each image, negative where none uses it.

    Every class of a cluster must have two images there, and every cluster two classes (`divide.drop_singletons`).
    `num_steps` is the length of an undivided epoch.
    """
    rng = seeds.stream(seeds.Purpose.BATCHES, seed, epoch)
    learners, sizes = np.unique(division[division >= 0], return_counts=True)
    turns = _turns(sizes, batch_size=batch_size, num_steps=num_steps, round_length=round_length, epoch=epoch)
    batches: list[list[Indices]] = []
    for place, learner in enumerate(learners):
        images = np.flatnonzero(division == learner)
        found = _batches_of(labels[images], int((turns == place).sum()), batch_size, samples_per_class, rng)
        batches.append([images[rows] for rows in found])
    streams = [iter(of_learner) for of_learner in batches]
    return [ClusterBatch(int(learners[place]), next(streams[place])) for place in turns]


def _turns(sizes: Indices, *, batch_size: int, num_steps: int, round_length: RoundLength, epoch: int) -> Indices:
    """Whose batch each step of an epoch is, as a place among the learners that have images."""
    count = len(sizes)
    if round_length == "proportional":
        return _in_proportion(sizes, num_steps, epoch)
    if round_length == "mean":
        # The next epoch begins where this one ends, so that no learner is left behind for good.
        return (epoch * num_steps + np.arange(num_steps)) % count
    largest = sizes.max() if round_length == "max" else sizes.min()
    return np.arange(count * max(1, int(largest) // batch_size)) % count


def _in_proportion(sizes: Indices, num_steps: int, epoch: int) -> Indices:
    """Whole turns in proportion to images, those of a learner spread evenly over the epoch.

    Steps are equidistant points on a line that is cut into the learners' shares. They are shifted from epoch to epoch,
    evenly in the long run, so that the smallest learner has its turns too.
    """
    points = (np.arange(num_steps) + (0.5 + epoch * _GOLDEN) % 1.0) / num_steps
    owner = np.searchsorted(sizes.cumsum() / sizes.sum(), points, side="right").clip(max=len(sizes) - 1)
    steps = np.bincount(owner, minlength=len(sizes))
    turn = np.arange(num_steps) - (np.cumsum(steps) - steps)[owner]
    return owner[np.argsort((turn + 0.5) / steps[owner], kind="stable")]


def _batches_of(
    labels: Indices, num_batches: int, batch_size: int, samples_per_class: int, rng: np.random.Generator
) -> list[Indices]:
    """Positions into the labels of one cluster: batches whose classes are distinct, as large as they can be."""
    _, classes = np.unique(labels, return_inverse=True)
    take = np.minimum(np.bincount(classes), samples_per_class)
    size = min(batch_size, int(take.sum()))
    slots: list[Indices] = []
    counts: list[Indices] = []
    queue = np.zeros(0, dtype=np.int64)
    for _ in range(num_batches):
        if take[queue].sum() < size:
            order = rng.permutation(len(take))
            waiting = np.isin(order, queue)
            # Classes that are in this batch already go to the end of the round.
            queue = np.concatenate([queue, order[~waiting], order[waiting]])
        chosen = _filling(take[queue], size)
        slots.append(queue[: len(chosen)])
        counts.append(chosen)
        queue = queue[len(chosen) :]
    if not slots:
        return []
    slot_class, count = np.concatenate(slots), np.concatenate(counts)
    images = fill_slots(classes.astype(np.int64), slot_class, take, rng)
    # A slot that did not fit as a whole keeps its first images.
    of_slot = np.repeat(np.arange(len(slot_class)), take[slot_class])
    within = np.arange(len(images)) - np.repeat(np.cumsum(take[slot_class]) - take[slot_class], take[slot_class])
    kept = within < count[of_slot]
    batch_of = np.repeat(np.arange(num_batches), [len(of_batch) for of_batch in slots])[of_slot[kept]]
    return np.split(images[kept], np.cumsum(np.bincount(batch_of, minlength=num_batches))[:-1])


def _filling(take: Indices, size: int) -> Indices:
    """How many images each of the first slots gives to a batch; the last one perhaps fewer, but never a single one."""
    ends = take.cumsum()
    whole = int(np.searchsorted(ends, size, side="right"))
    left = size - (int(ends[whole - 1]) if whole else 0)
    return np.append(take[:whole], left) if left >= 2 else take[:whole]

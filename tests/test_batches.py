"""Class-balanced batches as a pure function of (seed, epoch): laws for every shape of data. Pixels: test_pixels.py."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydml.data.batches import class_balanced_batches, num_steps
from raydml.splits import Indices

# A loaded machine must not fail a law.
untimed = settings(deadline=None)

# Sizes of classes: even, tiny, long-tailed, more classes than slots and fewer.
SIZES = st.one_of(
    st.lists(st.integers(1, 12), min_size=1, max_size=30),
    st.lists(st.integers(1, 3), min_size=2, max_size=8),
    st.integers(2, 20).map(lambda n: [1] * n + [200]),
)
SLOTS, PER_CLASS, STEPS = st.integers(2, 9), st.integers(2, 6), st.integers(1, 12)
SEED = st.integers(0, 1000)


def labels_of(sizes: list[int]) -> Indices:
    """Labels in a mixed order."""
    labels = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    return np.random.default_rng(0).permutation(labels)


def batches(labels: Indices, slots: int, per_class: int, steps: int, *, seed: int = 0, epoch: int = 0) -> Indices:
    return class_balanced_batches(
        labels, batch_size=slots * per_class, samples_per_class=per_class, num_steps=steps, seed=seed, epoch=epoch
    )


def slots_in(rows: Indices, per_class: int) -> Indices:
    """(steps, slots, per_class)."""
    return rows.reshape(len(rows), -1, per_class)


@untimed
@given(SIZES, SLOTS, PER_CLASS, STEPS, SEED)
def test_every_slot_is_one_class_and_every_batch_is_full(
    sizes: list[int], slots: int, per_class: int, steps: int, seed: int
) -> None:
    labels = labels_of(sizes)
    rows = batches(labels, slots, per_class, steps, seed=seed)
    assert rows.shape == (steps, slots * per_class)
    assert rows.dtype == np.int64
    assert rows.min() >= 0
    assert rows.max() < len(labels)
    of_slots = labels[slots_in(rows, per_class)]
    assert (of_slots == of_slots[..., :1]).all()


@untimed
@given(SIZES, SLOTS, PER_CLASS, STEPS, SEED)
def test_classes_get_slots_that_differ_by_at_most_one(
    sizes: list[int], slots: int, per_class: int, steps: int, seed: int
) -> None:
    labels = labels_of(sizes)
    of_slots = labels[slots_in(batches(labels, slots, per_class, steps, seed=seed), per_class)[..., 0]]
    counts = np.bincount(of_slots.ravel(), minlength=len(sizes))
    assert counts.max() - counts.min() <= 1


@untimed
@given(SIZES, SLOTS, PER_CLASS, STEPS, SEED)
def test_classes_of_a_batch_are_distinct_where_they_can_be_and_never_all_one(
    sizes: list[int], slots: int, per_class: int, steps: int, seed: int
) -> None:
    labels = labels_of(sizes)
    for row in labels[slots_in(batches(labels, slots, per_class, steps, seed=seed), per_class)[..., 0]]:
        distinct = len(set(row.tolist()))
        assert distinct == slots if len(sizes) >= slots else distinct >= min(2, len(sizes))


@untimed
@given(SIZES, SLOTS, PER_CLASS, STEPS, SEED)
def test_no_image_is_twice_in_a_slot_unless_its_class_is_too_small(
    sizes: list[int], slots: int, per_class: int, steps: int, seed: int
) -> None:
    labels = labels_of(sizes)
    for slot in slots_in(batches(labels, slots, per_class, steps, seed=seed), per_class).reshape(-1, per_class):
        distinct, size = len(set(slot.tolist())), sizes[labels[slot[0]]]
        assert distinct == per_class if size >= per_class else distinct >= min(2, size)


@untimed
@given(st.integers(2, 8), st.integers(2, 5), st.integers(1, 4), SEED)
def test_an_epoch_of_whole_slots_shows_every_image_equally_often(
    num_classes: int, per_class: int, slots_per_class: int, seed: int
) -> None:
    labels = labels_of([per_class * slots_per_class] * num_classes)
    rows = batches(labels, num_classes, per_class, 2 * slots_per_class, seed=seed)
    assert (np.bincount(rows.ravel(), minlength=len(labels)) == 2).all()


@untimed
@given(SIZES, SLOTS, PER_CLASS, STEPS, SEED)
def test_no_image_of_a_class_is_far_ahead_of_another(
    sizes: list[int], slots: int, per_class: int, steps: int, seed: int
) -> None:
    labels = labels_of(sizes)
    shown = np.bincount(batches(labels, slots, per_class, steps, seed=seed).ravel(), minlength=len(labels))
    for label, size in enumerate(sizes):
        of_class = shown[labels == label]
        slots_of_class = of_class.sum() // per_class
        # A round shows all but the remainder of a class; which images remain is drawn anew.
        rounds = -(-slots_of_class * per_class // (size if size < per_class else size - size % per_class))
        assert of_class.max() <= rounds


def test_every_image_is_seen_over_the_epochs() -> None:
    labels = labels_of([7, 9, 5, 4])
    seen = {int(i) for epoch in range(40) for i in batches(labels, 2, 4, 3, epoch=epoch).ravel()}
    assert seen == set(range(len(labels)))


def test_batches_follow_from_seed_and_epoch_alone() -> None:
    labels = labels_of([5] * 12)
    first = batches(labels, 4, 3, 6, seed=1, epoch=2)
    np.random.default_rng(0).random(100)
    assert batches(labels, 4, 3, 6, seed=1, epoch=2).tolist() == first.tolist()
    others = [batches(labels, 4, 3, 6, seed=s, epoch=e).tolist() for s, e in [(1, 3), (2, 2), (2, 1), (0, 2)]]
    for one, another in pairwise([first.tolist(), *others]):
        assert one != another


@pytest.mark.parametrize(("num_images", "batch_size", "steps"), [(100, 10, 10), (109, 10, 10), (9, 10, 1), (0, 10, 1)])
def test_an_epoch_covers_the_images_once(num_images: int, batch_size: int, steps: int) -> None:
    assert num_steps(num_images, batch_size) == steps


def zipf_sizes(num_classes: int, largest: int) -> list[int]:
    """A long tail: the n-th class has a share of 1 / n of the largest, at least one image."""
    return [max(1, largest // (place + 1)) for place in range(num_classes)]


@pytest.mark.parametrize(
    ("sizes", "slots", "per_class"),
    [
        (zipf_sizes(3000, 5000), 32, 4),
        (zipf_sizes(3000, 5000), 7, 5),
        ([1] * 50, 8, 2),
        ([1, 1], 5, 3),
        ([900, *[5] * 30], 4, 4),
        ([900, *[1] * 3], 10, 4),
        ([2, 3, 5], 12, 4),
        ([1], 3, 2),
    ],
    ids=["zipf", "zipf, odd", "single images", "two images", "one larger than all", "few classes", "more slots", "one"],
)
def test_corner_cases_of_sizes(sizes: list[int], slots: int, per_class: int) -> None:
    """Every law at once, by counting; an epoch as long as a training has it."""
    labels = labels_of(sizes)
    steps = num_steps(len(labels), slots * per_class)
    rows = batches(labels, slots, per_class, steps)
    assert rows.shape == (steps, slots * per_class)
    of_class = labels[slots_in(rows, per_class)]
    assert (of_class == of_class[..., :1]).all()
    counts = np.bincount(of_class[..., 0].ravel(), minlength=len(sizes))
    assert counts.max() - counts.min() <= 1
    by_size = np.array(sizes)[of_class[..., 0]]
    distinct = 1 + (np.diff(np.sort(slots_in(rows, per_class)), axis=-1) > 0).sum(-1)
    # Repeats only where the class is too small, and then no image is shown more than one time more than another.
    assert (distinct[by_size >= per_class] == per_class).all()
    for slot, size in zip(slots_in(rows, per_class).reshape(-1, per_class), by_size.ravel(), strict=True):
        if size < per_class:
            shown = np.unique(slot, return_counts=True)[1]
            # A slot is a window on random rounds: where it spans three, two pieces of them may meet.
            assert shown.max() <= -(-(per_class - 1) // size) + 1
    classes_of_batch = [len(np.unique(row)) for row in of_class[..., 0]]
    assert min(classes_of_batch) >= min(slots, len(sizes), 2)
    if len(sizes) >= slots:
        assert min(classes_of_batch) == slots


def test_a_long_tail_is_drawn_without_a_loop_over_images() -> None:
    """60,000 images of 20,000 classes, sizes 1 to 5,000: as many calls of Python as for 2,000 images."""
    calls = []
    for sizes in (zipf_sizes(20_000, 5000), zipf_sizes(200, 50)):
        labels = labels_of(sizes)
        found = 0

        def count(*_: object) -> None:
            nonlocal found
            found += 1

        sys.setprofile(count)
        try:
            batches(labels, 32, 4, num_steps(len(labels), 128))
        finally:
            sys.setprofile(None)
        calls.append(found)
    assert calls[0] < 2 * calls[1]

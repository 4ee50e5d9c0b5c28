"""Batches of one cluster each: laws for random labels and divisions. Undivided batches: test_batches.py."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydml.config import AugmentConfig
from raydml.data.batches import class_balanced_batches, training_batches
from raydml.data.cluster_batches import ClusterBatch, RoundLength, cluster_batches
from raydml.data.pixels import PixelSource
from raydml.divide import EXCLUDED, drop_singletons
from raydml.splits import Indices

# A loaded machine must not fail a law.
untimed = settings(deadline=None)

ROUNDS: tuple[RoundLength, ...] = ("mean", "max", "min", "proportional")
CELL = st.one_of(st.integers(2, 4), st.integers(2, 15))
CLUSTERS = st.lists(st.lists(CELL, min_size=2, max_size=9), min_size=1, max_size=5)
"""Images of every class of every cluster."""
SLOTS, PER_CLASS, STEPS, SEED = st.integers(2, 6), st.integers(2, 5), st.integers(1, 15), st.integers(0, 1000)


def divided(clusters: list[list[int]], *, num_excluded: int = 3) -> tuple[Indices, Indices]:
    """Labels and division in a mixed order; classes are in several clusters, and some images in none."""
    cells = [(label, k, count) for k, sizes in enumerate(clusters) for label, count in enumerate(sizes)]
    labels = np.repeat([label for label, _, _ in cells] + [0], [count for *_, count in cells] + [num_excluded])
    division = np.repeat([k for _, k, _ in cells] + [EXCLUDED], [count for *_, count in cells] + [num_excluded])
    order = np.random.default_rng(0).permutation(len(labels))
    return labels[order].astype(np.int64), division[order].astype(np.int64)


def batches(
    clusters: list[list[int]],
    slots: int,
    per_class: int,
    steps: int = 8,
    *,
    round_length: RoundLength = "mean",
    seed: int = 0,
    epoch: int = 0,
) -> list[ClusterBatch]:
    return cluster_batches(
        *divided(clusters),
        batch_size=slots * per_class,
        samples_per_class=per_class,
        num_steps=steps,
        round_length=round_length,
        seed=seed,
        epoch=epoch,
    )


@untimed
@given(CLUSTERS, SLOTS, PER_CLASS, STEPS, SEED, st.sampled_from(ROUNDS))
def test_every_batch_is_one_learners_and_has_positives_and_negatives(
    clusters: list[list[int]], slots: int, per_class: int, steps: int, seed: int, round_length: RoundLength
) -> None:
    labels, division = divided(clusters)
    for learner, rows in batches(clusters, slots, per_class, steps, seed=seed, round_length=round_length):
        assert rows.dtype == np.int64
        assert (division[rows] == learner).all(), "excluded images and those of others never come"
        assert len(set(rows.tolist())) == len(rows)
        counts = Counter(labels[rows].tolist())
        assert len(counts) >= 2
        assert all(2 <= count <= min(per_class, clusters[learner][label]) for label, count in counts.items())
        # Class after class.
        assert len(Counter(labels[rows].tolist())) == 1 + int((np.diff(labels[rows]) != 0).sum())


@untimed
@given(CLUSTERS, SLOTS, PER_CLASS, STEPS, SEED)
def test_a_batch_is_as_large_as_its_cluster_allows(
    clusters: list[list[int]], slots: int, per_class: int, steps: int, seed: int
) -> None:
    """One fewer where only a single image of a further class would fit, which would have no positive."""
    for learner, rows in batches(clusters, slots, per_class, steps, seed=seed):
        whole = min(slots * per_class, sum(min(size, per_class) for size in clusters[learner]))
        assert whole - 1 <= len(rows) <= whole
        if per_class == 2 or whole < slots * per_class:
            assert len(rows) == whole


@untimed
@given(CLUSTERS, SLOTS, PER_CLASS, STEPS, st.integers(0, 9))
def test_learners_take_turns_over_the_end_of_an_epoch(
    clusters: list[list[int]], slots: int, per_class: int, steps: int, epoch: int
) -> None:
    found = [batch.learner for batch in batches(clusters, slots, per_class, steps, epoch=epoch)]
    assert found == [step % len(clusters) for step in range(epoch * steps, (epoch + 1) * steps)]


@untimed
@given(CLUSTERS, SLOTS, PER_CLASS, st.sampled_from(("max", "min")), st.integers(0, 3))
def test_rounds_last_until_the_largest_or_the_smallest_was_seen_once(
    clusters: list[list[int]], slots: int, per_class: int, round_length: RoundLength, epoch: int
) -> None:
    found = [b.learner for b in batches(clusters, slots, per_class, 3, round_length=round_length, epoch=epoch)]
    sizes = [sum(classes) for classes in clusters]
    rounds = max(1, (max(sizes) if round_length == "max" else min(sizes)) // (slots * per_class))
    assert found == list(range(len(clusters))) * rounds


@untimed
@given(CLUSTERS, STEPS, st.integers(0, 50))
def test_turns_in_proportion_are_the_share_rounded_up_or_down(
    clusters: list[list[int]], steps: int, epoch: int
) -> None:
    turns = Counter(b.learner for b in batches(clusters, 2, 2, steps, round_length="proportional", epoch=epoch))
    images = [sum(classes) for classes in clusters]
    assert sum(turns.values()) == steps
    assert all(abs(turns[k] - Fraction(size * steps, sum(images))) < 1 for k, size in enumerate(images))


@pytest.mark.parametrize("clusters", [[[8, 8]] * 4, [[3, 3], [40, 40], [3, 3]]])
def test_turns_in_proportion_are_exact_in_the_long_run(clusters: list[list[int]]) -> None:
    """Three steps an epoch: four equal learners cannot all have one, nor can the small ones every time."""
    epochs = [batches(clusters, 2, 2, 3, round_length="proportional", epoch=epoch) for epoch in range(300)]
    turns = Counter(batch.learner for found in epochs for batch in found)
    images = [sum(classes) for classes in clusters]
    for learner, size in enumerate(images):
        assert turns[learner] == pytest.approx(900 * size / sum(images), abs=4)


@pytest.mark.parametrize(
    ("clusters", "steps", "learners"),
    [
        ([[20, 20], [10, 10], [5, 5]], 7, [0, 1, 0, 2, 0, 1, 0]),
        ([[20, 20], [20, 20]], 4, [0, 1, 0, 1]),
        ([[3, 3], [40, 40], [3, 3]], 4, [1, 1, 1, 1]),
        ([[6, 6], [15, 15], [9, 9]], 10, [1, 2, 0, 1, 1, 2, 1, 0, 2, 1]),
    ],
)
def test_turns_in_proportion_are_spread_over_the_epoch(
    clusters: list[list[int]], steps: int, learners: list[int]
) -> None:
    found = [b.learner for b in batches(clusters, 2, 2, steps, round_length="proportional")]
    assert Counter(found) == Counter(learners)
    for learner, count in Counter(found).items():
        places = [place for place, other in enumerate(found) if other == learner]
        ideal = [(turn + 0.5) * steps / count - 0.5 for turn in range(count)]
        assert all(abs(place - there) <= len(clusters) for place, there in zip(places, ideal, strict=True))


def test_a_learner_without_images_is_left_out() -> None:
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2])
    division = np.array([1, 1, 1, 1, 3, 3, 3, 3, EXCLUDED])
    for round_length in ROUNDS:
        found = cluster_batches(
            labels,
            division,
            batch_size=4,
            samples_per_class=2,
            num_steps=4,
            round_length=round_length,
            seed=0,
            epoch=0,
        )
        assert [batch.learner for batch in found] == ([1, 3] if round_length in ("max", "min") else [1, 3, 1, 3])


@pytest.mark.parametrize("per_class", [2, 3, 4])
@pytest.mark.parametrize("sizes", [[6, 6, 6, 6, 6], [4, 4, 4], [8] * 12, [2, 3, 9, 9, 4, 5]])
def test_classes_and_images_of_a_cluster_come_equally_often_in_the_long_run(sizes: list[int], per_class: int) -> None:
    labels, division = divided([sizes, [5, 5]])
    rows = [b.rows for epoch in range(120) for b in batches([sizes, [5, 5]], 3, per_class, 8, epoch=epoch)]
    counts = np.bincount(np.concatenate(rows), minlength=len(labels))
    assert (counts[division == EXCLUDED] == 0).all()
    turns = Counter(label for row in rows if division[row[0]] == 0 for label in set(labels[row].tolist()))
    assert max(turns.values()) < 1.15 * min(turns[label] for label in range(len(sizes)))
    for label in range(len(sizes)):
        of_image = counts[(division == 0) & (labels == label)]
        # No more uneven than draws of single images would be.
        assert of_image.var() < 2.0 * of_image.mean()


@untimed
@given(st.lists(st.integers(2, 12), min_size=2, max_size=12), SLOTS, PER_CLASS, STEPS, SEED)
def test_within_an_epoch_no_class_is_two_rounds_behind(
    sizes: list[int], slots: int, per_class: int, steps: int, seed: int
) -> None:
    labels, _ = divided([sizes])
    classes = [c for b in batches([sizes], slots, per_class, steps, seed=seed) for c in set(labels[b.rows].tolist())]
    turns = [Counter(classes)[label] for label in range(len(sizes))]
    assert max(turns) - min(turns) <= 1


def test_batches_follow_from_seed_epoch_and_division_alone() -> None:
    clusters = [[6, 5, 4], [3, 9, 2, 2]]

    def listed(seed: int, epoch: int) -> list[tuple[int, list[int]]]:
        return [(b.learner, b.rows.tolist()) for b in batches(clusters, 2, 3, seed=seed, epoch=epoch)]

    first = listed(1, 2)
    np.random.seed(5)  # noqa: NPY002
    np.random.default_rng(0).random(100)
    assert listed(1, 2) == first
    assert all(listed(seed, epoch) != first for seed, epoch in ((1, 4), (2, 2), (2, 1), (0, 2)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_cut_the_same_batches(world_size: int) -> None:
    """Parts differ in size by at most one image, in the order of ranks they are the whole, and each knows the whole."""
    labels, _ = divided([[3, 2], [9, 5, 4]])
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    source = PixelSource(pixels, np.arange(len(labels)), device=torch.device("cpu"))
    whole = batches([[3, 2], [9, 5, 4]], 3, 3)
    parts = [
        training_batches(
            source,
            labels,
            [batch.rows for batch in whole],
            augment=AugmentConfig(),
            seed=0,
            epoch=0,
            rank=place,
            world_size=world_size,
            learners=[batch.learner for batch in whole],
        )
        for place in range(world_size)
    ]
    for (learner, rows), *of_ranks in zip(whole, *parts, strict=True):
        assert np.concatenate([part.index.numpy() for part in of_ranks]).tolist() == rows.tolist()
        assert torch.cat([part.images.flatten() for part in of_ranks]).tolist() == rows.tolist()
        assert torch.cat([part.labels for part in of_ranks]).tolist() == labels[rows].tolist()
        assert {(part.learner, part.num_global) for part in of_ranks} == {(learner, len(rows))}
        sizes = [len(part.index) for part in of_ranks]
        assert max(sizes) - min(sizes) <= 1


@untimed
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=70), SEED)
def test_whatever_is_left_without_singletons_can_be_batched(images: list[tuple[int, int]], seed: int) -> None:
    """Tiny, empty and one-class clusters."""
    labels = np.array([label for label, _ in images])
    used = drop_singletons(torch.tensor([k for _, k in images]), torch.from_numpy(labels)).numpy()
    if (used == EXCLUDED).all():
        return
    found = cluster_batches(
        labels, used, batch_size=12, samples_per_class=4, num_steps=9, round_length="mean", seed=seed, epoch=0
    )
    assert {batch.learner for batch in found} == set(used[used != EXCLUDED].tolist())
    assert all(len(batch.rows) >= 4 and len(set(labels[batch.rows])) >= 2 for batch in found)


def test_undivided_batches_are_what_they_were() -> None:
    """Written down before slots could differ in size: a study that is resumed must see the same images."""

    def listed(sizes: list[int], batch_size: int, per_class: int, steps: int, seed: int, epoch: int) -> list[list[int]]:
        rows: list[list[int]] = class_balanced_batches(
            np.repeat(np.arange(len(sizes)), sizes),
            batch_size=batch_size,
            samples_per_class=per_class,
            num_steps=steps,
            seed=seed,
            epoch=epoch,
        ).tolist()
        return rows

    assert listed([5, 2, 7, 3], 6, 3, 4, 1, 2) == [
        [6, 5, 5, 0, 1, 4],
        [16, 14, 15, 10, 7, 13],
        [6, 6, 5, 9, 12, 8],
        [0, 1, 3, 16, 15, 14],
    ]
    assert listed([1, 4, 9], 8, 2, 3, 0, 0) == [
        [8, 7, 0, 0, 2, 4, 6, 12],
        [1, 3, 0, 0, 5, 11, 0, 0],
        [3, 4, 1, 2, 13, 10, 0, 0],
    ]

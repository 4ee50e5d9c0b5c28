"""Stages, slices and clusters of divide-and-conquer as written lists and slow loops (specification, 6.6 and 6.7)."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydml.config import ConfigError, DivideConfig
from raydml.distances import unit_slices
from raydml.divide import (
    EXCLUDED,
    Stage,
    by_class,
    clusters_before,
    drop_singletons,
    freezes_backbone,
    learners_at,
    match,
    partition,
    require_divisible,
    split,
    stage_of,
    subspaces,
)

# A loaded machine must not fail a law.
untimed = settings(deadline=None)

_LETTERS: dict[str, Stage] = {"d": "divide", "f": "full", "c": "conquer"}
Pairs = list[tuple[int, int]]
IMAGES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=60)
"""(class, cluster) of every image."""


def config_of(**fields: object) -> DivideConfig:
    return DivideConfig.model_validate({"num_learners": 4, **fields})


def columns_of(images: Pairs) -> tuple[Tensor, Tensor]:
    labels, division = zip(*images, strict=True)
    return torch.tensor(labels), torch.tensor(division)


STAGES: list[tuple[dict[str, object], str]] = [
    ({}, "ddddddddfffffffffffc"),
    ({"full_embedding_epoch": 3, "conquer_epoch": 6}, "dddfffcccc"),
    ({"full_embedding_epoch": 0, "conquer_epoch": 2}, "ffcccc"),
    ({"full_embedding_epoch": 0, "conquer_epoch": 0}, "ccc"),
    ({"full_embedding_epoch": 2, "conquer_epoch": 2}, "ddcc"),
    ({"full_embedding_epoch": 3, "conquer_epoch": "never"}, "dddff"),
    ({"full_embedding_epoch": 3, "conquer_epoch": 9}, "dddff"),
    ({"full_embedding_epoch": 5, "conquer_epoch": "never"}, "ddddd"),
    ({"conquer_epoch": "never"}, "ddfff"),
    ({"conquer_epoch": 4}, "ddddcccccc"),
    # Too short for a twentieth: the last epoch conquers.
    ({}, "c"),
    ({}, "dfc"),
    ({}, "ddddfffffc"),
]


@pytest.mark.parametrize(("fields", "letters"), STAGES)
def test_the_stage_of_every_epoch(fields: dict[str, object], letters: str) -> None:
    stages = [stage_of(config_of(**fields), epoch, len(letters)) for epoch in range(len(letters))]
    assert stages == [_LETTERS[letter] for letter in letters]


def test_automatic_boundaries_are_those_of_the_release() -> None:
    """80 and 190 of 200 epochs."""
    assert config_of().boundaries(200) == (80, 190)
    stages = [stage_of(config_of(), epoch, 200) for epoch in (0, 79, 80, 189, 190, 199)]
    assert stages == ["divide", "divide", "full", "full", "conquer", "conquer"]


def test_automatic_boundaries_are_in_order() -> None:
    for num_epochs in range(1, 300):
        full, conquer = config_of().boundaries(num_epochs)
        assert 0 <= full <= conquer <= num_epochs
        assert abs(full - 0.4 * num_epochs) <= 0.5
        assert conquer < num_epochs
        assert abs(conquer - 0.95 * num_epochs) <= 1.0


# Fields, epochs, those that begin with a clustering, those in which the backbone rests.
CLUSTERINGS: list[tuple[dict[str, object], int, list[int], list[int]]] = [
    ({"recluster_epochs": 2, "full_embedding_epoch": 3, "conquer_epoch": 8}, 10, [0, 2, 4, 6], []),
    ({"recluster_epochs": 2, "full_embedding_epoch": 3, "conquer_epoch": 7}, 10, [0, 2, 4, 6], []),
    ({"recluster_epochs": 2, "conquer_epoch": "never"}, 5, [0, 2, 4], []),
    ({"recluster_epochs": 99}, 20, [0], []),
    ({"recluster_epochs": 3, "freeze_epochs": 1, "conquer_epoch": 9}, 12, [0, 3, 6], [0, 3, 6]),
    ({"recluster_epochs": 3, "freeze_epochs": 2, "conquer_epoch": 9}, 12, [0, 3, 6], [0, 1, 3, 4, 6, 7]),
    ({"recluster_epochs": 4, "freeze_epochs": 3, "conquer_epoch": 6}, 9, [0, 4], [0, 1, 2, 4, 5]),
    ({"full_embedding_epoch": 0, "conquer_epoch": 0, "freeze_epochs": 1}, 5, [], []),
    ({"num_learners": 1, "freeze_epochs": 1}, 6, [], []),
    ({"num_learners": 8, "hierarchical": True, "recluster_epochs": 2, "conquer_epoch": "never"}, 10, [2, 4, 6, 8], []),
    ({"num_learners": 8, "preset": "tpami2021"}, 9, [2, 4, 6, 8], [2, 4, 6, 8]),
    ({"num_learners": 1, "hierarchical": True}, 6, [], []),
]


@pytest.mark.parametrize(("fields", "num_epochs", "clustered", "frozen"), CLUSTERINGS)
def test_when_images_are_clustered_and_the_backbone_rests(
    fields: dict[str, object], num_epochs: int, clustered: list[int], frozen: list[int]
) -> None:
    config, epochs = config_of(**fields), range(num_epochs)
    assert [epoch for epoch in epochs if clusters_before(config, epoch, num_epochs)] == clustered
    assert [epoch for epoch in epochs if freezes_backbone(config, epoch, num_epochs)] == frozen


@pytest.mark.parametrize(
    ("fields", "learners"),
    [
        ({}, [4] * 8),
        ({"num_learners": 1, "hierarchical": True}, [1] * 8),
        ({"num_learners": 8, "hierarchical": True, "recluster_epochs": 2}, [1, 1, 2, 2, 4, 4, 8, 8, 8, 8, 8]),
        ({"num_learners": 4, "hierarchical": True, "recluster_epochs": 1}, [1, 2, 4, 4, 4]),
        ({"num_learners": 2, "hierarchical": True, "recluster_epochs": 3}, [1, 1, 1, 2, 2, 2, 2]),
    ],
)
def test_learners_of_every_epoch(fields: dict[str, object], learners: list[int]) -> None:
    assert [learners_at(config_of(**fields), epoch) for epoch in range(len(learners))] == learners


def test_slices_partition_the_dimensions_for_every_number_of_learners() -> None:
    for dim in range(1, 41):
        for count in range(1, dim + 1):
            owned = [list(range(dim))[subspace] for subspace in subspaces(dim, count)]
            sizes = [len(dims) for dims in owned]
            assert [*itertools.chain(*owned)] == list(range(dim)), (dim, count)
            assert sizes == sorted(sizes, reverse=True)
            assert len(sizes) == count
            assert max(sizes) - min(sizes) <= 1
            assert DivideConfig(num_learners=count).smallest_slice(dim) == min(sizes)


@pytest.mark.parametrize("count", [0, -1, 5, 99])
def test_more_learners_than_dimensions_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"num_learners must be in 1 \.\.\. 4, .* but got {count}$"):
        subspaces(4, count)


def test_slices_of_unit_length_against_a_loop(device: torch.device) -> None:
    rows = torch.randn(5, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[2, 4:7] = 0.0
    sizes = [4, 3, 2, 2]
    expected = torch.zeros_like(rows)
    for row, found in zip(rows, expected, strict=True):
        for size, start in zip(sizes, itertools.accumulate(sizes, initial=0), strict=False):
            norm = math.sqrt(sum(float(x) ** 2 for x in row[start : start + size]))
            for column in range(start, start + size):
                found[column] = row[column] / norm / math.sqrt(4) if norm > 0 else 0.0
    torch.testing.assert_close(unit_slices(rows.to(device), sizes).cpu(), expected, rtol=1e-12, atol=1e-15)


def test_a_three_cycle_of_clusters_is_undone() -> None:
    """The inverse of a permutation that is its own inverse would pass too; that of a cycle of three does not."""
    previous = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    cycle = torch.tensor([1, 2, 0])
    assert match(previous, cycle[previous], 3).tolist() == previous.tolist()
    assert cycle[cycle[previous]].tolist() != previous.tolist()


@untimed
@given(st.lists(st.integers(0, 7), min_size=1, max_size=60), st.permutations(range(8)))
def test_any_permutation_of_clusters_is_undone(division: list[int], order: list[int]) -> None:
    """Also where clusters are empty."""
    previous = torch.tensor(division)
    assert match(previous, torch.tensor(order)[previous], 8).tolist() == division


@untimed
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 10**6))
def test_as_many_images_as_possible_keep_their_learner(count: int, num_images: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    previous, current = torch.randint(0, count, (2, num_images), generator=generator)
    matched = match(previous, current, count)
    renaming = dict(zip(current.tolist(), matched.tolist(), strict=True))
    assert [renaming[k] for k in current.tolist()] == matched.tolist()
    assert len(set(renaming.values())) == len(renaming), "two clusters became one"
    kept = [int((torch.tensor(order)[current] == previous).sum()) for order in itertools.permutations(range(count))]
    assert int((matched == previous).sum()) == max(kept)


@untimed
@given(IMAGES)
def test_images_without_a_positive_or_a_negative_are_excluded(images: Pairs) -> None:
    found = drop_singletons(columns_of(images)[1], columns_of(images)[0]).tolist()
    counts = Counter(images)
    for (label, cluster), learner in zip(images, found, strict=True):
        pairs = [c for (_, other), c in counts.items() if other == cluster and c > 1]
        used = counts[label, cluster] > 1 and len(pairs) > 1
        assert learner == (cluster if used else EXCLUDED)


def test_a_cluster_of_one_class_or_of_singles_is_excluded_as_a_whole() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 4, 5])
    division = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    assert drop_singletons(division, labels).tolist() == [0, 0, 0, 0, *[EXCLUDED] * 6]


def test_nothing_left_to_train_on_is_an_error_with_advice() -> None:
    require_divisible(torch.tensor([EXCLUDED, 0, 0]), config_of(), 4)
    with pytest.raises(
        ConfigError, match=r"^divide\.num_learners: .* 2 clusters .*num_learners=4\).*cluster_by=class$"
    ):
        require_divisible(torch.tensor([EXCLUDED, EXCLUDED]), config_of(), 2)
    with pytest.raises(ConfigError, match=r"lower it$"):
        require_divisible(torch.tensor([EXCLUDED, EXCLUDED]), config_of(cluster_by="class"), 4)


@untimed
@given(IMAGES)
def test_a_class_goes_where_most_of_its_images_are(images: Pairs) -> None:
    labels, division = columns_of(images)
    found = by_class(division, labels, 4).tolist()
    for (label, _), learner in zip(images, found, strict=True):
        votes = [sum(image == (label, cluster) for image in images) for cluster in range(4)]
        assert learner == votes.index(max(votes))


def blobs(centres: list[float], device: torch.device) -> Tensor:
    """Four rows around each of these points of a line."""
    steps = torch.tensor([-0.3, -0.1, 0.1, 0.3])
    line = (torch.tensor(centres)[:, None] + steps).flatten()
    return torch.stack([line, torch.ones_like(line)], 1).to(device)


def test_blobs_become_the_clusters(device: torch.device) -> None:
    division = partition(blobs([0.0, 50.0, 90.0], device), 3, seed=1)
    assert division.device.type == "cpu"
    assert sorted(Counter(division.tolist()).values()) == [4, 4, 4]
    assert [len(set(division[start : start + 4].tolist())) for start in (0, 4, 8)] == [1, 1, 1]


def test_fewer_images_than_learners_are_refused() -> None:
    with pytest.raises(ValueError, match="5 learners need as many images, but there are 4"):
        partition(torch.zeros(4, 2), 5, seed=0)


def test_learner_k_is_split_into_2k_and_2k_plus_1(device: torch.device) -> None:
    rows = blobs([0.0, 5.0, 50.0, 55.0, 100.0, 107.0], device)
    parents = torch.tensor([2, 0, 1]).repeat_interleave(8)
    children = split(rows, parents, seed=3)
    assert (children // 2).tolist() == parents.tolist()
    assert [len(set(children[start : start + 4].tolist())) for start in range(0, 24, 4)] == [1] * 6
    assert sorted(set(children.tolist())) == [0, 1, 2, 3, 4, 5]


def test_a_cluster_that_cannot_be_split_stays_in_one_half(device: torch.device) -> None:
    """One image, none, and two that are equal."""
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]], device=device)
    assert split(rows, torch.tensor([0, 3, 3]), seed=0).tolist() == [0, 6, 6]

"""Clusters for metrics, and scores of clusterings against scikit-learn and against loops over all pairs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from raydml.metrics import ami, cluster_metrics, nmi, pairwise_f1
from raydml.neighbors import clusters
from tests.retrieval_oracles import unit_rows

# Two partitions of the same rows each.
PARTITIONS: dict[str, tuple[list[int], list[int]]] = {
    "equal but for names": ([0, 0, 1, 1, 2], [7, 7, 3, 3, 0]),
    "everything in one": ([0, 0, 1, 1, 2], [0, 0, 0, 0, 0]),
    "all alone": ([0, 0, 1, 1, 2], [0, 1, 2, 3, 4]),
    "one row moved": ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]),
    "labels beyond float32": ([2**53, 2**53 + 1] * 4, [-1, -1, 5, 5] * 2),
    "many": ([i % 7 for i in range(90)], [(i * i) % 11 for i in range(90)]),
}


def pairs_of(partition: Sequence[int]) -> set[tuple[int, int]]:
    """Rows of one part, two at a time."""
    pairs = itertools.combinations(range(len(partition)), 2)
    return {(i, j) for i, j in pairs if partition[i] == partition[j]}


def entropy(partition: Sequence[object]) -> float:
    """In nats."""
    shares = [count / len(partition) for count in Counter(partition).values()]
    return -sum(share * math.log(share) for share in shares)


@pytest.mark.parametrize("case", PARTITIONS)
def test_pairwise_f1_equals_precision_and_recall_of_all_pairs(case: str) -> None:
    labels, assigned = PARTITIONS[case]
    same, found = pairs_of(labels), pairs_of(assigned)
    hits = len(same & found)
    precision, recall = hits / max(1, len(found)), hits / max(1, len(same))
    expected = 0.0 if hits == 0 else 2 * precision * recall / (precision + recall)
    assert pairwise_f1(torch.tensor(labels), np.array(assigned)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", PARTITIONS)
def test_nmi_equals_its_definition(case: str) -> None:
    labels, assigned = PARTITIONS[case]
    information = entropy(labels) + entropy(assigned) - entropy([*zip(labels, assigned, strict=True)])
    expected = information / ((entropy(labels) + entropy(assigned)) / 2)
    assert nmi(torch.tensor(labels), torch.tensor(assigned)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", PARTITIONS)
def test_ami_is_corrected_for_chance(case: str) -> None:
    labels, assigned = PARTITIONS[case]
    expected = sklearn_metrics.adjusted_mutual_info_score(labels, assigned)
    assert ami(np.array(labels), np.array(assigned)) == pytest.approx(expected, abs=1e-12)
    shuffled = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 10))
    assert abs(ami(np.repeat(np.arange(20), 10), shuffled)) < 0.1 < nmi(np.repeat(np.arange(20), 10), shuffled)


def test_equal_partitions_have_the_score_one_even_without_a_pair() -> None:
    alone = torch.arange(5)
    assert (pairwise_f1(alone, alone + 9), nmi(alone, alone + 9), ami(alone, alone + 9)) == (1.0, 1.0, 1.0)


def test_pairs_beyond_int32_are_counted() -> None:
    half = 70_000
    labels = torch.arange(2 * half) // half
    assert pairwise_f1(labels, torch.zeros_like(labels)) == pytest.approx(
        2 * (half - 1) / (half - 1 + 2 * half - 1), rel=1e-12
    )


@pytest.mark.parametrize("num_clusters", [None, 3, 20])
def test_metrics_are_those_of_the_clusters(num_clusters: int | None, device: torch.device) -> None:
    rows, labels = unit_rows([*range(10)] * 6, seed=1, spread=0.3)
    found = cluster_metrics(rows.to(device), labels, names=("f1", "nmi", "ami"), num_clusters=num_clusters, seed=3)
    assigned = clusters(rows.to(device), num_clusters or 10, seed=3)
    assert found == {"nmi": nmi(labels, assigned), "ami": ami(labels, assigned), "f1": pairwise_f1(labels, assigned)}
    assert list(cluster_metrics(rows, labels, names=("nmi",))) == ["nmi"]


def test_the_length_of_rows_has_no_part_in_it() -> None:
    rows, labels = unit_rows([*range(10)] * 6, seed=2)
    lengths = torch.linspace(0.1, 9.0, len(rows), dtype=rows.dtype)[:, None]
    assert cluster_metrics(rows * lengths, labels) == cluster_metrics(rows, labels)


def test_clusters_that_lie_apart_are_found(device: torch.device) -> None:
    """K-means from random rows may merge two of them; among several seeds one does not."""
    rows, labels = unit_rows([*range(4)] * 25, seed=3, spread=0.05)
    found = [nmi(labels, clusters(rows.to(device), 4, seed=seed)) for seed in range(6)]
    assert max(found) == 1.0


def test_no_row_is_nearer_to_another_centre(device: torch.device) -> None:
    """A fixed point of Lloyd's algorithm on the sphere: means of loose clusters are short, and must not be."""
    tight, _ = unit_rows([*range(4)] * 40, seed=4, spread=0.2)
    loose, _ = unit_rows([*range(4)] * 80, seed=5, spread=1.5)
    rows = torch.cat([tight, loose]).float().to(device)
    found = clusters(rows, 8, iterations=100)
    assert found.device == rows.device
    assert share_nearer_elsewhere(rows, found) < 0.02


def test_a_seed_decides_the_clusters() -> None:
    rows, _ = unit_rows([*range(20)] * 10, seed=5)
    once, again, other = (clusters(rows, 20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_all_rows_are_clustered_not_a_sample() -> None:
    """Not 256 for each cluster, which is what faiss takes by default: the clusters are a fixed point of all rows."""
    rows, _ = unit_rows([0, 1] * 3000, seed=6, spread=1.5)
    assert share_nearer_elsewhere(rows.float(), clusters(rows, 2, iterations=100)) < 0.005


def share_nearer_elsewhere(rows: Tensor, found: Tensor) -> float:
    """Of rows that another centre than that of their cluster is nearest to."""
    sums = rows.new_zeros(int(found.max()) + 1, rows.shape[1]).index_add_(0, found, rows)
    return float(((rows @ torch.nn.functional.normalize(sums, dim=1).T).argmax(1) != found).float().mean())


@pytest.mark.parametrize("rows", [torch.ones(40, 4), torch.eye(4).repeat(10, 1)], ids=["equal", "duplicates"])
@pytest.mark.parametrize("num_clusters", [1, 5, 39, 40])
def test_rows_that_are_equal_can_be_clustered(rows: Tensor, num_clusters: int) -> None:
    found = clusters(rows, num_clusters)
    assert found.shape == (40,)
    assert 0 <= int(found.min()) <= int(found.max()) < num_clusters
    by_row: dict[tuple[float, ...], set[int]] = {}
    for row, cluster in zip(rows.tolist(), found.tolist(), strict=True):
        by_row.setdefault(tuple(row), set()).add(cluster)
    assert all(len(of_equal) == 1 for of_equal in by_row.values())


@pytest.mark.parametrize(
    ("arguments", "law"),
    [
        ({"num_clusters": 7}, "num_clusters must be in 1 ... 6, the rows, but got num_clusters=7"),
        ({"num_clusters": 0}, "num_clusters must be in 1 ... 6"),
        ({"names": ("nmi", "purity")}, "metrics of clusters are nmi, ami, f1, but got 'purity'"),
    ],
)
def test_what_cannot_be_clustered_is_refused(arguments: dict[str, object], law: str) -> None:
    with pytest.raises(ValueError, match=law):
        cluster_metrics(torch.eye(6), torch.arange(6) % 2, **arguments)  # type: ignore[arg-type]


def test_more_iterations_than_a_number_of_faiss_holds_end() -> None:
    rows, _ = unit_rows([5, 5], seed=1)
    assert torch.equal(clusters(rows, 2, iterations=10**12), clusters(rows, 2, iterations=1000))

"""k-means on one rank: a fixed point of Lloyd's iterations as slow loops see it, and as good as two other libraries'.

Rows of several ranks: tests/test_kmeans_ranks.py.
"""

from __future__ import annotations

from collections import Counter
from unittest import mock

import faiss
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from raydml.kmeans import Clusters, NonFiniteRowsError, Shard, kmeans


def found_in(rows: Tensor, num_clusters: int, *, seed: int = 0, max_iterations: int = 100) -> Clusters:
    return kmeans(Shard.whole(rows), num_clusters, seed=seed, max_iterations=max_iterations)


def mixture(num_rows: int, dim: int, num_blobs: int, *, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows around some directions, in a mixed order, and which direction."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(num_blobs, dim, generator=generator), dim=1)
    blob = torch.randint(num_blobs, (num_rows,), generator=generator)
    noise = spread * torch.randn(num_rows, dim, generator=generator) / dim**0.5
    return torch.nn.functional.normalize(centres[blob] + noise, dim=1), blob


def started_at(centroids: list[list[float]], rows: Tensor, *, max_iterations: int = 100) -> Clusters:
    """k-means from these centroids instead of its own."""
    start = torch.tensor(centroids, device=rows.device)
    with mock.patch("raydml.kmeans._start", return_value=start):
        return found_in(rows, len(start), max_iterations=max_iterations)


@pytest.mark.parametrize(
    ("num_rows", "dim", "num_clusters", "spread"), [(60, 5, 4, 1.0), (90, 2, 7, 0.3), (40, 9, 1, 1)]
)
def test_a_result_is_a_fixed_point_of_slow_loops(
    num_rows: int, dim: int, num_clusters: int, spread: float, device: torch.device
) -> None:
    rows, _ = mixture(num_rows, dim, num_clusters, spread=spread)
    found = found_in(rows.to(device), num_clusters)
    assert found.num_iterations < 100
    labels, centroids, total = found.labels.tolist(), found.centroids.double().cpu(), 0.0
    for row, label in zip(rows.double(), labels, strict=True):
        squared = [float((row - centroid).square().sum()) for centroid in centroids]
        assert squared[label] <= min(squared) + 1e-6
        total += squared[label]
    for cluster, centroid in enumerate(centroids):
        members = [row for row, label in zip(rows.double(), labels, strict=True) if label == cluster]
        torch.testing.assert_close(centroid, sum(members, torch.zeros(dim)) / len(members), rtol=1e-5, atol=1e-6)
    assert found.inertia == pytest.approx(total, rel=1e-5)


def lloyd(rows: Tensor, centroids: Tensor) -> tuple[list[int], Tensor]:
    """The slow way, without empty clusters."""
    labels: list[int] = []
    for _ in range(100):
        labels = [min(range(len(centroids)), key=lambda k: float((row - centroids[k]).norm())) for row in rows]
        means = [rows[[i for i, label in enumerate(labels) if label == k]].mean(0) for k in range(len(centroids))]
        if torch.equal(torch.stack(means), centroids):
            break
        centroids = torch.stack(means)
    return labels, centroids


@pytest.mark.parametrize("seed", range(4))
def test_iterations_from_its_start_are_lloyds(seed: int, device: torch.device) -> None:
    rows = mixture(50, 3, 4, spread=1.0, seed=seed)[0].double()
    labels, centroids = lloyd(rows, found_in(rows, 4, seed=seed, max_iterations=0).centroids)
    found = found_in(rows.to(device), 4, seed=seed)
    assert found.labels.tolist() == labels
    torch.testing.assert_close(found.centroids.cpu(), centroids, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_separated_blobs_are_found_from_every_start(seed: int, device: torch.device) -> None:
    rows, blob = mixture(300, 8, 10, spread=0.05, seed=3)
    start = found_in(rows.to(device), 10, seed=seed, max_iterations=0)
    found = found_in(rows.to(device), 10, seed=seed)
    for labels in (start.labels.tolist(), found.labels.tolist()):
        assert len(set(zip(labels, blob.tolist(), strict=True))) == len(set(labels)) == 10


def relative_inertia(spread: float, num_clusters: int) -> tuple[float, float]:
    """Ours over faiss's and over scikit-learn's, each a mean over data sets and seeds."""
    ours, of_faiss, of_sklearn = [], [], []
    for seed in range(40):
        rows, _ = mixture(800, 16, 12, spread=spread, seed=seed // 2)
        ours.append(found_in(rows, num_clusters, seed=seed).inertia)
        other = faiss.Kmeans(16, num_clusters, niter=100, seed=seed, min_points_per_centroid=1)
        other.train(rows.numpy())
        of_faiss.append(float(other.index.search(rows.numpy(), 1)[0].sum()))
        of_sklearn.append(float(KMeans(num_clusters, n_init=1, random_state=seed).fit(rows.numpy()).inertia_))
    return float(np.mean(ours) / np.mean(of_faiss)), float(np.mean(ours) / np.mean(of_sklearn))


@pytest.mark.parametrize(("spread", "num_clusters"), [(1.0, 4), (2.0, 12), (2.0, 32)])
def test_inertia_is_that_of_other_libraries(spread: float, num_clusters: int) -> None:
    over_faiss, over_sklearn = relative_inertia(spread, num_clusters)
    assert over_faiss < 1.01
    assert over_sklearn < 1.01


def test_a_seed_decides_all_and_another_starts_elsewhere(device: torch.device) -> None:
    rows = mixture(200, 6, 5, spread=2.0)[0].to(device)
    first = found_in(rows, 5, seed=1)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    again = found_in(rows, 5, seed=1)
    assert torch.equal(first.centroids, again.centroids)
    assert torch.equal(first.labels, again.labels)
    starts = [found_in(rows, 5, seed=seed, max_iterations=0).centroids for seed in range(6)]
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 6


def test_it_starts_at_rows_and_never_twice_at_one(device: torch.device) -> None:
    rows = mixture(30, 4, 3, spread=1.0)[0].to(device)
    start = found_in(rows, 25, max_iterations=0).centroids
    at = [(rows == centroid).all(1).nonzero().flatten().tolist() for centroid in start]
    assert all(len(places) == 1 for places in at)
    assert len({places[0] for places in at}) == 25


def test_the_order_of_rows_does_not_matter(device: torch.device) -> None:
    """Random numbers belong to rows by their index, not by their place."""
    rows = mixture(80, 4, 6, spread=0.5)[0].to(device)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1)).to(device)
    mixed = kmeans(Shard(rows[order], order, 80), 6, seed=2)
    assert mixed.labels.tolist() == found_in(rows, 6, seed=2).labels[order].tolist()


def test_rows_of_a_mask_keep_their_numbers(device: torch.device) -> None:
    shard = Shard(torch.arange(8.0, device=device).view(4, 2), torch.tensor([1, 3, 5, 7], device=device), 9)
    chosen = shard.select(torch.tensor([True, False, False, True], device=device))
    assert (chosen.rows.tolist(), chosen.index.tolist(), chosen.total) == ([[0.0, 1.0], [6.0, 7.0]], [1, 7], 9)


@pytest.mark.parametrize("seed", range(3))
def test_as_many_clusters_as_rows_are_the_rows(seed: int, device: torch.device) -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [4.0, 9.0], [5.0, 1.0]], device=device)
    found = found_in(rows, 5, seed=seed)
    assert sorted(found.labels.tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(found.centroids[found.labels], rows)
    assert found.inertia == 0.0


def test_one_cluster_is_the_mean(device: torch.device) -> None:
    rows = mixture(40, 3, 2, spread=1.0)[0].to(device)
    found = found_in(rows, 1)
    torch.testing.assert_close(found.centroids, rows.mean(0, keepdim=True))
    assert found.labels.tolist() == [0] * 40


@pytest.mark.parametrize(("num_distinct", "dim"), [(1, 4), (3, 3), (3, 64), (3, 200)])
def test_fewer_points_than_clusters_leave_clusters_empty(num_distinct: int, dim: int, device: torch.device) -> None:
    points = torch.randn(num_distinct, dim, generator=torch.Generator().manual_seed(4))
    which = torch.arange(31) % num_distinct
    found = found_in(points[which].to(device), 8)
    assert len(set(zip(which.tolist(), found.labels.tolist(), strict=True))) == num_distinct
    assert len(set(found.labels.tolist())) == num_distinct
    assert found.inertia < 1e-6 * 31 * float(points.square().sum(1).max())
    assert found.num_iterations <= 100
    assert float((found.centroids.cpu()[:, None] - points).norm(dim=2).amin(1).max()) < 1e-5


def on_a_line(places: list[float], device: torch.device) -> Tensor:
    return torch.tensor(places, device=device)[:, None]


def test_an_empty_cluster_begins_at_the_farthest_row_of_the_largest(device: torch.device) -> None:
    """Row 9 is farther from its centroid, but its cluster is smaller; means are what they were before the move."""
    rows = on_a_line([0.0, 1.0, 2.0, 7.0, 99.0, 109.0], device)
    found = started_at([[0.0], [100.0], [1000.0]], rows, max_iterations=1)
    assert found.centroids.flatten().tolist() == [2.5, 104.0, 7.0]
    assert found.labels.tolist() == [0, 0, 0, 2, 1, 1]


def test_several_empty_clusters_begin_where_most_rows_are_left(device: torch.device) -> None:
    """Five and four rows, then four and four: the lower one, then three and four."""
    rows = on_a_line([0.0, 1.0, 2.0, 3.0, 9.0, 100.0, 101.0, 102.0, 105.0], device)
    start = [[0.0], [100.0], [1000.0], [1001.0], [1002.0]]
    found = started_at(start, rows, max_iterations=1)
    assert found.centroids.flatten().tolist() == [3.0, 102.0, 9.0, 3.0, 105.0]
    assert len(set(started_at(start, rows).labels.tolist())) == 5


def test_an_empty_cluster_begins_in_the_largest_that_is_no_single_point(device: torch.device) -> None:
    rows = on_a_line([52.0, 50.0, 0.0, 0.0, 0.0, 0.0], device)
    found = started_at([[0.0], [50.0], [1000.0]], rows)
    assert found.centroids.flatten().tolist() == [0.0, 50.0, 52.0]
    assert found.labels.tolist() == [2, 1, 0, 0, 0, 0]


def test_an_empty_cluster_stays_where_it_is_if_all_are_single_points(device: torch.device) -> None:
    """And does not begin at the first of all rows."""
    rows = on_a_line([50.0, 50.0, 0.0, 0.0, 0.0, 0.0], device)
    found = started_at([[0.0], [50.0], [1000.0]], rows)
    assert found.centroids.flatten().tolist() == [0.0, 50.0, 1000.0]
    assert found.labels.tolist() == [1, 1, 0, 0, 0, 0]


def test_equal_distances_go_to_the_lowest_cluster(device: torch.device) -> None:
    rows = on_a_line([-1.0, 0.0, 1.0], device)
    assert started_at([[1.0], [-1.0], [1.0]], rows, max_iterations=0).labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_not_finite_are_named(value: float, dtype: torch.dtype, device: torch.device) -> None:
    rows = torch.ones(20, 3, dtype=dtype, device=device)
    rows[7, 1] = value
    with pytest.raises(NonFiniteRowsError, match=r"^1 of 20 rows are NaN or infinite, first 7$"):
        found_in(rows, 2)
    rows[[19, 4, 12, 5, 9, 11]] = value
    with pytest.raises(NonFiniteRowsError, match=r"^7 of 20 rows are NaN or infinite, first 4, 5, 7, 9, 11$"):
        found_in(rows, 2)


def test_float64_sees_what_float32_rounds_away(device: torch.device) -> None:
    rows = (1e4 + on_a_line([0.0, 0.001, 0.5, 0.501], device).double()).expand(4, 8)
    for seed in range(5):
        found = found_in(rows, 2, seed=seed)
        assert found.centroids.dtype == torch.float64
        assert found.labels[0] == found.labels[1] != found.labels[2] == found.labels[3]
        assert found.inertia == pytest.approx(4 * 8 * 0.0005**2, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_rows_are_clustered_in_float32(dtype: torch.dtype, device: torch.device) -> None:
    rows = mixture(60, 8, 4, spread=0.3)[0].to(device, dtype)
    found, wide = found_in(rows, 4), found_in(rows.float(), 4)
    assert torch.equal(found.centroids, wide.centroids)
    assert found.centroids.dtype == torch.float32


def test_autocast_around_it_changes_nothing(device: torch.device) -> None:
    rows = mixture(200, 16, 5, spread=1.0)[0].to(device)
    alone = found_in(rows, 5)
    with torch.autocast(device.type, torch.bfloat16):
        within = found_in(rows, 5)
    assert torch.equal(within.centroids, alone.centroids)
    assert Counter(within.labels.tolist()) == Counter(alone.labels.tolist())

"""k-means on rows that lie on many ranks: Lloyd's iterations on sums that all ranks share, never on gathered rows.

Every rank ends with the same centroids, bit for bit, because they come from all-reduced sums; another number of ranks
changes the order of those sums, and with it their last digits. Random numbers belong to rows, by their index among all,
so that the start does not depend on who holds which row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydml.distances import full_precision, outside_autocast
from raydml.distributed import gather_ragged, sum_over_ranks
from raydml.neighbors import blocks


class NonFiniteRowsError(RuntimeError):
    """Rows to be clustered are NaN or infinite."""


@dataclass(frozen=True)
class Shard:
    """The rows that this rank holds of a matrix."""

    rows: Tensor
    """(n, F), float32 or float64."""
    index: Tensor
    """(n,) int64: which of all rows they are."""
    total: int
    """N, rows of all ranks."""

    @staticmethod
    def whole(rows: Tensor) -> Shard:
        """All rows on one rank."""
        return Shard(rows, torch.arange(len(rows), device=rows.device), len(rows))

    def select(self, mask: Tensor) -> Shard:
        """The rows of a mask (n,), with the numbers they have among all."""
        return Shard(self.rows[mask], self.index[mask], self.total)


class Clusters(NamedTuple):
    """Result of k-means."""

    centroids: Tensor
    """(K, F)."""
    labels: Tensor
    """(n,) int64, of this rank's rows."""
    inertia: float
    """Sum of squared distances of all rows to their centroids."""
    num_iterations: int


def kmeans(shard: Shard, num_clusters: int, *, seed: int, max_iterations: int = 100) -> Clusters:
    """Lloyd's algorithm from a greedy k-means++ start (Arthur & Vassilvitskii 2007), until no row changes its cluster.

    A cluster that loses all rows starts again at the farthest row of the largest cluster that has one beside its
    centroid, and stays empty only where there is none. Equal distances go to the lowest cluster. On several ranks all
    must call it. Raises NonFiniteRowsError naming rows.
    """
    _require_finite(shard)
    shard = Shard(full_precision(shard.rows), shard.index, shard.total)
    norms = shard.rows.square().sum(1)
    centroids = _start(shard, norms, num_clusters, np.random.default_rng(seed))
    labels, squared = _assign(shard.rows, norms, centroids)
    changed, num_iterations = shard.total, 0
    while changed > 0 and num_iterations < max_iterations:
        centroids = _means(shard, labels, squared, centroids)
        moved, squared = _assign(shard.rows, norms, centroids)
        changed = int(sum_over_ranks((moved != labels).sum()))
        labels, num_iterations = moved, num_iterations + 1
    return Clusters(centroids, labels, float(sum_over_ranks(squared.double().sum())), num_iterations)


def _require_finite(shard: Shard) -> None:
    bad = gather_ragged(shard.index[~torch.isfinite(shard.rows).all(1)]).sort().values
    if len(bad):
        first = ", ".join(str(int(i)) for i in bad[:5])
        raise NonFiniteRowsError(f"{len(bad)} of {shard.total} rows are NaN or infinite, first {first}")


def _start(shard: Shard, norms: Tensor, num_clusters: int, rng: np.random.Generator) -> Tensor:
    """(K, F): each next centroid is, of some rows drawn by squared distance, the one that lowers the sum most."""
    first, _ = _drawn(shard, torch.ones_like(norms), 1, rng)
    centroids = [first]
    nearest = _squared(shard.rows, norms, first)[:, 0]
    num_candidates = 2 + int(np.log(num_clusters))
    for _ in range(num_clusters - 1):
        candidates, _ = _drawn(shard, nearest, num_candidates, rng)
        lowered = _squared(shard.rows, norms, candidates).minimum(nearest[:, None])
        best = int(sum_over_ranks(lowered.double().sum(0)).argmin())
        centroids.append(candidates[best : best + 1])
        nearest = lowered[:, best]
    return torch.cat(centroids)


def _drawn(shard: Shard, weight: Tensor, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(count, F) rows drawn with probabilities in proportion to their weights (n,), and their numbers.

    The smallest of exponential variables with these rates: a race that every rank runs with its own rows.
    """
    clocks = torch.from_numpy(rng.exponential(size=(count, shard.total)))[:, shard.index.cpu()].to(weight.device)
    return _first_rows(shard, clocks / weight.double())


def _first_rows(shard: Shard, keys: Tensor) -> tuple[Tensor, Tensor]:
    """(count, n) -> the row of the smallest key of each line over all ranks (count, F), and its number (count,)."""
    infinite = keys.new_full((len(keys), 1), torch.inf)
    key, place = torch.cat([keys, infinite], 1).min(1)
    number = torch.cat([shard.index, shard.index.new_full((1,), shard.total)])[place]
    found = gather_ragged(torch.stack([key, number.double()])[None])
    # Of equal keys the lowest number, whichever rank holds it.
    best_key = found[:, 0].amin(0)
    best = torch.where(found[:, 0] == best_key, found[:, 1], torch.inf).amin(0).long()
    own = shard.index[None, :] == best[:, None]
    with outside_autocast(shard.rows.device):
        row = own.to(shard.rows.dtype) @ shard.rows
    return sum_over_ranks(row), best


def _squared(rows: Tensor, norms: Tensor, centroids: Tensor) -> Tensor:
    """(n, F), (n,), (K, F) -> (n, K) squared distances, never negative."""
    with outside_autocast(rows.device):
        products = rows @ centroids.mT
    return (norms[:, None] + centroids.square().sum(1) - 2.0 * products).clamp_(min=0.0)


def _assign(rows: Tensor, norms: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) nearest centroid, and (n,) squared distance to it."""
    found = [_squared(rows[part], norms[part], centroids).min(1) for part in blocks(len(rows), len(centroids))]
    if not found:
        return torch.zeros(0, dtype=torch.int64, device=rows.device), norms
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def _means(shard: Shard, labels: Tensor, squared: Tensor, centroids: Tensor) -> Tensor:
    """(K, F): means of the rows of each cluster, from sums of blocks that are added in float64, over all ranks."""
    num_clusters = len(centroids)
    sums = torch.zeros(num_clusters, shard.rows.shape[1] + 1, dtype=torch.float64, device=shard.rows.device)
    for part in blocks(len(labels), shard.rows.shape[1]):
        # A product with ones and zeros: unlike index_add its order of summation is fixed on a GPU too.
        members = torch.nn.functional.one_hot(labels[part], num_clusters).to(shard.rows.dtype)
        with outside_autocast(shard.rows.device):
            sums[:, :-1] += (members.T @ shard.rows[part]).double()
        sums[:, -1] += members.sum(0).double()
    sums = sum_over_ranks(sums)
    counts = sums[:, -1:]
    means = torch.where(counts > 0, sums[:, :-1] / counts.clamp(min=1.0), centroids.double()).to(centroids.dtype)
    empty = (counts[:, 0] == 0).nonzero()[:, 0].tolist()
    return _refilled(shard, labels, squared, means, counts[:, 0].clone(), empty) if empty else means


def _refilled(shard: Shard, labels: Tensor, squared: Tensor, means: Tensor, counts: Tensor, empty: list[int]) -> Tensor:
    """Empty clusters begin at the farthest row of the cluster that is the largest then and has one."""
    distance = squared.double().clone()
    for cluster in empty:
        candidates = sum_over_ranks(torch.bincount(labels[distance > 0.0], minlength=len(means)))
        if int(candidates.sum()) == 0:
            break
        largest = int(torch.where(candidates > 0, counts, -1.0).argmax())
        eligible = (labels == largest) & (distance > 0.0)
        row, number = _first_rows(shard, torch.where(eligible, -distance, torch.inf)[None])
        means[cluster] = row[0]
        distance[shard.index == number] = 0.0
        counts[largest] -= 1
        counts[cluster] += 1
    return means

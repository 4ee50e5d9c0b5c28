"""Divide and Conquer the Embedding Space (Sanakoyeu, Tschernezki, Buechler, Ommer, CVPR 2019; and Ma, TPAMI 2021).

Pure functions: which stage an epoch is in, which learner an image belongs to, which dimensions a learner owns. Images
are clustered, each cluster trains one slice of the embedding; they are clustered again, and in the end conquered.

A division is (N,) int64: the learner of every training image, in [0, L).
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from raydml import seeds
from raydml.config import ConfigError, DivideConfig
from raydml.distributed import gather_ragged
from raydml.kmeans import Shard, kmeans
from raydml.seeds import Purpose

Stage = Literal["divide", "full", "conquer"]

# Marks images that no learner uses.
EXCLUDED = -1


def stage_of(config: DivideConfig, epoch: int, num_epochs: int) -> Stage:
    """The stage of an epoch, counted from 0: one slice and one cluster, all dimensions and one cluster, everything."""
    full, conquer = config.boundaries(num_epochs)
    if epoch >= conquer:
        return "conquer"
    return "divide" if epoch < full else "full"


def learners_at(config: DivideConfig, epoch: int) -> int:
    """Clusters of an epoch before the conquest: all at once, or doubled at every clustering but the first (2021)."""
    if not config.hierarchical:
        return config.num_learners
    return min(1 << epoch // config.recluster_epochs, config.num_learners)


def clusters_before(config: DivideConfig, epoch: int, num_epochs: int) -> bool:
    """Whether images are clustered before an epoch. The conquest wins where both would begin."""
    if stage_of(config, epoch, num_epochs) == "conquer" or learners_at(config, epoch) == 1:
        return False
    return epoch % config.recluster_epochs == 0


def freezes_backbone(config: DivideConfig, epoch: int, num_epochs: int) -> bool:
    """Whether an epoch is so near behind a clustering that the backbone rests; never in the conquest."""
    since = epoch % config.recluster_epochs
    if stage_of(config, epoch, num_epochs) == "conquer":
        return False
    return since < config.freeze_epochs and clusters_before(config, epoch - since, num_epochs)


def subspaces(embedding_dim: int, num_learners: int) -> tuple[slice, ...]:
    """The dimensions of every learner: consecutive slices that cover all, the first ones one larger where it must be.

    Raises ValueError where there are more learners than dimensions.
    """
    if not 1 <= num_learners <= embedding_dim:
        raise ValueError(f"num_learners must be in 1 ... {embedding_dim}, the dimensions, but got {num_learners}")
    size, larger = divmod(embedding_dim, num_learners)
    starts = [k * size + min(k, larger) for k in range(num_learners + 1)]
    return tuple(slice(a, b) for a, b in itertools.pairwise(starts))


def partition(features: Tensor | Shard, num_learners: int, *, seed: int) -> Tensor:
    """(N, F), or this rank's rows of it -> (N,) int64 on the host: k-means clusters, the same on every rank.

    Raises ValueError where there are fewer rows than learners.
    """
    shard = features if isinstance(features, Shard) else Shard.whole(features)
    if num_learners > shard.total:
        raise ValueError(f"{num_learners} learners need as many images, but there are {shard.total}")
    return _of_all(shard, kmeans(shard, num_learners, seed=seed).labels)


def split(features: Tensor | Shard, division: Tensor, *, seed: int) -> Tensor:
    """(N, F), (N,) -> (N,): every cluster k cut in two by k-means, into 2k and 2k + 1."""
    shard = features if isinstance(features, Shard) else Shard.whole(features)
    mine = division[shard.index.cpu()].to(shard.rows.device)
    halves = torch.zeros_like(mine)
    for learner in range(int(division.max()) + 1):
        chosen = mine == learner
        if int((division == learner).sum()) > 1:
            # Another stream than that of the clusters themselves.
            halves[chosen] = kmeans(shard.select(chosen), 2, seed=seeds.derive(Purpose.CLUSTERS, seed, learner)).labels
    return _of_all(shard, 2 * mine + halves)


def _of_all(shard: Shard, labels: Tensor) -> Tensor:
    order = gather_ragged(shard.index).argsort()
    return gather_ragged(labels)[order].cpu()


def match(previous: Tensor, current: Tensor, num_learners: int) -> Tensor:
    """(N,), (N,) -> (N,): `current` under other numbers, so that most images keep their learner of `previous`.

    The optimal assignment of clusters to clusters by their overlap. Rows are current clusters and columns previous
    ones, so cluster i becomes its column; the authors' code applies the inverse, which is wrong unless that is equal.
    """
    pairs = current * num_learners + previous
    overlap = torch.bincount(pairs, minlength=num_learners**2).view(num_learners, num_learners)
    _, column = linear_sum_assignment(overlap.numpy(), maximize=True)
    return torch.from_numpy(column)[current]


def by_class(division: Tensor, labels: Tensor, num_learners: int) -> Tensor:
    """(N,), (N,) -> (N,): every class as a whole where most of its images are, of equals the lowest."""
    num_classes = int(labels.max()) + 1
    counts = torch.bincount(labels * num_learners + division, minlength=num_classes * num_learners)
    return counts.view(num_classes, num_learners).argmax(1)[labels]


def drop_singletons(division: Tensor, labels: Tensor) -> Tensor:
    """(N,), (N,) -> (N,): EXCLUDED where an image is its class's only one in the cluster, and so has no positive.

    All images of a cluster that is then left with one class are excluded too: there is no negative.
    """
    num_learners = int(division.max()) + 1
    cell = labels * num_learners + division
    counts = torch.bincount(cell, minlength=(int(labels.max()) + 1) * num_learners)
    num_classes = (counts.view(-1, num_learners) > 1).sum(0)
    used = (counts[cell] > 1) & (num_classes[division] > 1)
    return division.where(used, EXCLUDED)


def require_divisible(division: Tensor, config: DivideConfig, num_clusters: int) -> None:
    """Raises ConfigError where no learner can train on what `drop_singletons` left of so many clusters."""
    if bool((division == EXCLUDED).all()):
        remedy = "lower it" if config.cluster_by == "class" else "lower it, or set divide.cluster_by=class"
        raise ConfigError(
            f"divide.num_learners: none of {num_clusters} clusters (divide.num_learners={config.num_learners}) has two "
            f"classes of two images; {remedy}"
        )

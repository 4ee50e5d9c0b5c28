"""Clusters the training images anew, where divide-and-conquer asks for it, on rows that never leave their rank."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from raydml import seeds
from raydml.config import ConfigError, DivideConfig
from raydml.data.pixels import PixelSource
from raydml.divide import EXCLUDED, by_class, drop_singletons, learners_at, match, partition, require_divisible, split
from raydml.epoch import TrainingState, TrainingStoppedError, embed_share
from raydml.kmeans import NonFiniteRowsError, Shard
from raydml.learners import Division
from raydml.splits import Indices


@dataclass(frozen=True)
class Clustering:
    """A division and what there is to know about it."""

    division: Division
    stats: dict[str, float]
    """`divide/size/<k>` images of each cluster, `divide/imbalance` the largest over the mean, `divide/learners` that
    can train, `divide/excluded` share of the images that none of them uses, `divide/churn` share that changed its
    learner since the last clustering, `divide/seconds`."""


def redivided(state: TrainingState, source: PixelSource, labels: Indices) -> Clustering:
    """The images of a training divided by what its model makes of them now. On several workers all must call it.

    One pass in evaluation mode without augmentation; rank r sees images r, r + R, ... Raises TrainingStoppedError where
    features are not finite, and ConfigError where no cluster can train.
    """
    started = time.perf_counter()
    config, epoch, previous = state.config.divide, state.epoch, state.division
    count = learners_at(config, epoch)
    if count > len(labels):
        raise ConfigError(
            f"divide.num_learners must not exceed the training images, but got {config.num_learners} (of which {count} "
            f"now) and {len(labels)} images"
        )
    try:
        learners = _clustered(state, _shard(state, source, labels), count)
    except NonFiniteRowsError as error:
        what = "backbone features" if config.cluster_on == "features" else "embeddings"
        raise TrainingStoppedError(f"{what} of the training images before epoch {epoch + 1}: {error}") from None
    on_host = torch.from_numpy(labels)
    if config.cluster_by == "class":
        learners = by_class(learners, on_host, count)
    used = drop_singletons(learners, on_host)
    require_divisible(used, config, count)
    stats = _stats(learners, used, count, previous)
    return Clustering(
        Division(learners, count, epoch), {**stats, "divide/seconds": round(time.perf_counter() - started, 4)}
    )


def _shard(state: TrainingState, source: PixelSource, labels: Indices) -> Shard:
    embedded = embed_share(state, source, labels, features=state.config.divide.cluster_on == "features")
    return Shard(embedded.embeddings, embedded.index, len(labels))


def _clustered(state: TrainingState, shard: Shard, count: int) -> Tensor:
    """(N,): as many clusters as there are learners now, numbered so that most images keep their learner."""
    seed = seeds.derive(seeds.Purpose.CLUSTERS, state.config.seed, state.epoch)
    doubles = _doubles(state.config.divide, state.epoch)
    before = count // 2 if doubles else count
    learners = partition(shard, before, seed=seed)
    if state.division is not None and state.division.num_learners == before:
        learners = match(state.division.learners, learners, before)
    return split(shard, learners, seed=seed) if doubles else learners


def _doubles(config: DivideConfig, epoch: int) -> bool:
    """Whether every learner is split in two before this epoch."""
    return epoch > 0 and learners_at(config, epoch) == 2 * learners_at(config, epoch - 1)


def _stats(learners: Tensor, used: Tensor, count: int, previous: Division | None) -> dict[str, float]:
    sizes = torch.bincount(learners, minlength=count)
    stats = {f"divide/size/{k}": float(size) for k, size in enumerate(sizes)}
    stats["divide/imbalance"] = float(sizes.max()) * count / len(learners)
    stats["divide/learners"] = float(len(used[used != EXCLUDED].unique()))
    stats["divide/excluded"] = float((used == EXCLUDED).double().mean())
    if previous is not None:
        # Learners 2k and 2k + 1 are what learner k was split into.
        parents = learners // (count // previous.num_learners)
        stats["divide/churn"] = float((parents != previous.learners).double().mean())
    return stats

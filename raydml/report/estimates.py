"""Means and differences as a report holds them: the results of `raydml.statistics` as plain, typed data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from raydml import statistics
from raydml.config import Model
from raydml.statistics import Estimate, Run

FEW_SEEDS = 5
"""Below so many a report warns: their interval is honest, but what is planned with their deviation is not."""
GENERATOR_SEED = 0
"""Seed of the resampled classes: the same files give the same report."""
NUM_RESAMPLES = 2000


class MeanOfSeeds(Model):
    """Mean over seeds of the mean over folds, with the 95 % interval by Student's t."""

    n: int
    mean: float
    deviation: float | None
    half_width: float | None


class ClassInterval(Model):
    """A mean over queries with the 95 % interval of the bootstrap over classes."""

    n: int
    """Classes."""
    mean: float
    low: float | None
    """None for a single class."""
    high: float | None


class Difference(Model):
    """Second minus first, at equal seeds and folds."""

    num_pairs: int
    """Pairs of models: seeds times folds."""
    difference: MeanOfSeeds
    p: float | None
    p_adjusted: float | None
    """For the number of differences that are looked at together (Holm)."""
    detectable: float | None
    """The smallest true difference that this many seeds would see with 80 % power."""
    seeds_needed: int | None
    """Seeds that would see half a point with 80 % power."""


class ClassMeans(Model):
    """A metric of every class, the mean of its queries."""

    classes: tuple[str, ...]
    num_queries: tuple[int, ...]
    means: dict[str, tuple[float, ...]]
    """By metric, in the order of the classes."""


def mean_of(found: Estimate) -> MeanOfSeeds:
    """An estimate as a report holds it."""
    return MeanOfSeeds(**asdict(found))


def mean_over_seeds(values: Mapping[Run, float]) -> MeanOfSeeds | None:
    """None where there is no value."""
    return mean_of(statistics.estimate(list(statistics.by_seed(values).values()))) if values else None


def differences_between(pairs: Sequence[tuple[Mapping[Run, float], Mapping[Run, float]]]) -> list[Difference | None]:
    """Second minus first of every pair; None where it has no seed in common. p-values are adjusted among all."""
    found = [statistics.paired(first, second) for first, second in pairs]
    adjusted = iter(statistics.holm([pair.p for pair in found if pair is not None and pair.p is not None]))
    return [
        None
        if pair is None
        else Difference(
            num_pairs=pair.num_pairs,
            difference=mean_of(pair.difference),
            p=pair.p,
            p_adjusted=None if pair.p is None else next(adjusted),
            detectable=pair.detectable,
            seeds_needed=pair.seeds_needed,
        )
        for pair in found
    ]


def averaged(tables: Iterable[ClassMeans]) -> ClassMeans:
    """The mean of every class over models; all of them have the same classes and queries."""
    together = list(tables)
    names = [name for name in together[0].means if all(name in one.means for one in together)]
    means = {name: np.mean([one.means[name] for one in together], axis=0) for name in names}
    return together[0].model_copy(update={"means": {name: tuple(map(float, of)) for name, of in means.items()}})


def subtracted(first: ClassMeans, second: ClassMeans) -> ClassMeans:
    """Second minus first, class by class."""
    names = [name for name in first.means if name in second.means]
    means = {name: tuple(float(d) for d in np.subtract(second.means[name], first.means[name])) for name in names}
    return first.model_copy(update={"means": means})


def over_classes(table: ClassMeans) -> dict[str, ClassInterval]:
    """By metric: whole classes drawn anew, each with as much weight as it has queries."""
    labels = np.repeat(np.arange(len(table.classes)), table.num_queries)
    intervals = {}
    for name, means in table.means.items():
        found = statistics.class_bootstrap(
            np.repeat(means, table.num_queries),
            labels,
            generator=np.random.default_rng(GENERATOR_SEED),
            num_resamples=NUM_RESAMPLES,
        )
        intervals[name] = ClassInterval(**asdict(found))
    return intervals

"""What a search weighs against its metric: which further objectives there are, a trial's values, the Pareto front.

A trial of a study with `search.minimize` has several values: that of `search.metric`, which is to be large, then those
of the objectives named there, in their order, which are to be small. Without them it has one value, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from raydml.config import ConfigError, Distribution, ExperimentConfig, Model, Scalar, SearchConfig
from raydml.config.grammar import get_at, unknown_key

SECONDS = "seconds"
"""The objective that is the time of a trial: training and validation, all epochs, as metrics.jsonl has them."""

Direction = Literal["maximize", "minimize"]


def names(search: SearchConfig) -> tuple[str, ...]:
    """What a trial's values are called: the metric, then what is minimised."""
    return (search.metric, *search.minimize)


def described(search: SearchConfig) -> str:
    """`large val/map@r, small seconds`."""
    return f"large {search.metric}, small {', small '.join(search.minimize)}"


def directions(objectives: Sequence[str]) -> list[Direction]:
    """The first is to be large, the others small."""
    smaller: list[Direction] = ["minimize"] * (len(objectives) - 1)
    return ["maximize", *smaller]


def values_of(
    search: SearchConfig, metric: float, point: Mapping[str, Scalar], seconds: Callable[[], float]
) -> list[float]:
    """The values of a complete trial; `seconds` is asked only where the time is an objective."""
    return [metric, *(seconds() if name == SECONDS else float(point[name]) for name in search.minimize)]


def front(values: Sequence[Sequence[float]]) -> list[int]:
    """Places of those that no other beats: none is as good in every value and better in one. Equal ones all stay."""
    return [i for i, mine in enumerate(values) if not any(_beats(other, mine) for other in values)]


def _beats(a: Sequence[float], b: Sequence[float]) -> bool:
    as_good = a[0] >= b[0] and all(x <= y for x, y in zip(a[1:], b[1:], strict=True))
    return as_good and list(a) != list(b)


def require_possible(search: SearchConfig, base: ExperimentConfig, distributions: Mapping[str, Distribution]) -> None:
    """Raises ValueError where an objective is not measured, or the search cannot serve several."""
    numeric = [path for path, distribution in distributions.items() if distribution.kind != "categorical"]
    for index, name in enumerate(search.minimize):
        if name not in (SECONDS, *numeric):
            raise ValueError(f"search.minimize.{index}: {_not_measured(name, base, distributions, numeric)}")
        if name in search.minimize[:index]:
            raise ValueError(f"search.minimize.{index}: {name} is an objective already")
    if search.minimize and search.sampler == "cmaes":
        raise ValueError(
            f"search.sampler: cmaes has one objective, but search.minimize names {', '.join(search.minimize)} "
            f"besides {search.metric}; take tpe, gp, qmc or random"
        )
    if search.minimize and search.early_stopping is not None:
        raise ValueError(
            f"search.early_stopping must be null where there is search.minimize: it would judge by {search.metric} "
            f"alone and stop what is good at {', '.join(search.minimize)}, but got {_inline(search.early_stopping)}"
        )


def _not_measured(
    name: str, base: ExperimentConfig, distributions: Mapping[str, Distribution], numeric: Sequence[str]
) -> str:
    known = f"known: {', '.join(sorted((SECONDS, *numeric)))}"
    if name in distributions:
        return f"the values of {name} have no order, so none is smaller; {known}"
    constant = list(_constant(name, base))
    if constant:
        return f"{name} is not searched: it is {constant[0]} in every trial; {known}"
    return unknown_key(name, (SECONDS, *numeric)).replace("key", "objective", 1)


def _constant(name: str, base: ExperimentConfig) -> Iterator[object]:
    """The base's value at a path, if there is one."""
    try:
        value = get_at(base, name)
    except ConfigError:
        return
    if not isinstance(value, Model):
        yield value


def _inline(section: Model) -> str:
    return ", ".join(f"{key}={value}" for key, value in section.model_dump().items())

"""The statistics of a report written out with SciPy's other functions, and how a page shows numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import optimize, stats

Values = dict[tuple[int, int | None], float]
"""By seed and fold."""


def half_width(values: list[float]) -> float | None:
    n = len(values)
    return None if n < 2 else float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def power(difference: float, deviation: float, n: int) -> float:
    """T squared is a noncentral F with one degree of freedom above."""
    limit, noncentrality = float(stats.t.ppf(0.975, n - 1)) ** 2, (difference / deviation) ** 2 * n
    return float(stats.ncf.sf(limit, 1, n - 1, noncentrality))


def paired(first: Values, second: Values) -> dict[str, Any]:
    """Second minus first: means over folds of every common seed, then a paired t-test, all written out."""
    seeds = sorted({seed for seed, _ in first.keys() & second.keys()})
    of_seeds = [float(np.mean([second[at] - first[at] for at in first if at[0] == seed])) for seed in seeds]
    found: dict[str, Any] = {"n": len(seeds), "mean": np.mean(of_seeds), "half_width": half_width(of_seeds)}
    if len(seeds) < 2:
        return {**found, "p": None, "detectable": None, "seeds_needed": None}
    deviation = float(np.std(of_seeds, ddof=1))
    needed = 2
    while power(0.005, deviation, needed) < 0.8:
        needed += 1
    return {
        **found,
        "p": float(stats.ttest_1samp(of_seeds, 0.0).pvalue),
        "detectable": optimize.brentq(lambda d: power(d, deviation, len(seeds)) - 0.8, 1e-9, 12 * deviation),
        "seeds_needed": needed,
    }


def holm(values: list[float]) -> list[float]:
    """The definition: the k-th smallest times (m - k + 1), made monotone and at most 1."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    return [
        min(1.0, max((len(values) - place) * values[other] for place, other in enumerate(order[: order.index(i) + 1])))
        for i in range(len(values))
    ]


def bootstrap(means: np.ndarray[Any, Any], sizes: list[int]) -> tuple[float, float]:
    """2000 draws of whole classes, generator seed 0; percentiles as far out as Student's t with n - 1 degrees."""
    n, weights = len(means), np.array(sizes)
    draws = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=2000)
    drawn = [float(np.sum(row * weights * means) / np.sum(row * weights)) for row in draws]
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def cell(mean: float, half: float | None) -> str:
    return f"{mean:.4f}" if half is None else f"{mean:.4f} \N{PLUS-MINUS SIGN} {half:.4f}"


def four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def p_cell(value: float | None) -> str:
    return "< 0.0001" if value is not None and value < 1e-4 else four(value)


def difference_cells(found: dict[str, Any]) -> list[str]:
    needed = found["seeds_needed"]
    return [four(found["detectable"]), "-" if needed is None else str(needed)]

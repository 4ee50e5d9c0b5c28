"""Intervals, paired comparisons and the seeds they need: pure functions of numbers.

    mean of n seeds          m +- t_{n-1}(0.975) s / sqrt(n)                       Student
    mean over classes        classes drawn anew with replacement                   bootstrap
    mean of shares           (p + z^2/2m +- z sqrt(p(1-p)/m + z^2/4m^2)) / (1 + z^2/m)     Wilson 1927, m of n values
    paired comparison        the same, of the differences b_i - a_i at equal seeds
    power of a comparison    P(|T| > t_{n-1}(0.975)), T noncentral t with n - 1 degrees and delta sqrt(n) / s

One value has no interval: None, never NaN. All tests are two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Values = Sequence[float] | npt.NDArray[np.floating]
Labels = Sequence[int] | npt.NDArray[np.integer]
Run = tuple[int, int | None]
"""What one value of a repeated experiment belongs to: seed and fold; None where no fold is left out."""

HALF_A_POINT = 0.005
"""The difference papers quarrel about: half a point of a metric in [0, 1]."""
_RESAMPLES_AT_A_TIME = 256


@dataclass(frozen=True)
class Estimate:
    """The mean of independent values and how well it is known."""

    n: int
    mean: float
    deviation: float | None
    """Standard deviation of one value (n - 1 in the denominator); None for a single one."""
    half_width: float | None
    """The interval is mean +- half_width; None for a single value."""


@dataclass(frozen=True)
class Interval:
    """A mean with an interval that need not lie evenly around it."""

    n: int
    """Independent units: classes."""
    mean: float
    low: float | None
    """None for a single unit."""
    high: float | None


@dataclass(frozen=True)
class Paired:
    """The second of two configurations minus the first, at equal seeds and folds."""

    difference: Estimate
    """Of the seeds' differences; folds of one seed share most of their images, so their mean is one value."""
    num_pairs: int
    """Pairs of runs: seeds times folds."""
    p: float | None
    """Probability of a difference at least this large where there is none. None for a single seed, and where all seeds
    differ by exactly the same: that is the coarseness of a metric, not certainty."""
    detectable: float | None
    """The smallest true difference that this many seeds would see with 80 % power."""
    seeds_needed: int | None
    """Seeds that would see half a point with 80 % power, judged from the deviation of these."""


def estimate(values: Values, *, level: float = 0.95) -> Estimate:
    """Student's interval of a mean. Raises ValueError where there is no value or one is not finite."""
    x = _finite(values)
    n = len(x)
    # Relative to the first value, so that equal values have exactly no deviation.
    offsets = x - x[0]
    mean = float(x[0] + offsets.mean())
    if n == 1:
        return Estimate(1, mean, None, None)
    deviation = float(offsets.std(ddof=1))
    return Estimate(n, mean, deviation, _critical(n, level) * deviation / math.sqrt(n))


def enough(values: Values, half_width: float, *, least: int = 5, level: float = 0.95) -> bool:
    """Whether a schedule of seeds may stop: the interval of the mean is as narrow as asked for.

    Not before `least` seeds: the deviation of two or three is too small by chance too often, and a rule that looks
    after every seed stops just then. From five on, intervals that end a schedule cover in 93 to 94 of 100 cases.
    """
    if half_width <= 0:
        raise ValueError(f"half_width must be above 0, but got {half_width}")
    found = estimate(values, level=level)
    return found.n >= max(least, 2) and found.half_width is not None and found.half_width <= half_width


def class_bootstrap(
    values: Values,
    labels: Labels | None = None,
    *,
    generator: np.random.Generator,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of the mean of per-query values (Q,) with labels (Q,), over which classes were drawn.

    Without labels every value is a class of its own: the mean over classes. Queries of a class are alike, so whole
    classes are drawn anew. The gallery stays as it was, which makes the interval a little too narrow. Percentiles are
    taken a little farther out than the level says (Hesterberg 2015), or few classes would be covered too rarely.
    """
    x = _finite(values)
    of_class = np.arange(len(x)) if labels is None else np.unique(np.asarray(labels), return_inverse=True)[1]
    if of_class.shape != x.shape:
        raise ValueError(f"values and labels must be as many, but got {len(x)} and {len(of_class)}")
    sums = np.bincount(of_class, weights=x).astype(np.float64)
    sizes = np.bincount(of_class).astype(np.float64)
    mean, n = float(x.mean()), len(sizes)
    if n == 1:
        return Interval(1, mean, None, None)
    means = np.concatenate(
        [
            _resampled(sums, sizes, generator, min(_RESAMPLES_AT_A_TIME, num_resamples - start))
            for start in range(0, num_resamples, _RESAMPLES_AT_A_TIME)
        ]
    )
    tail = float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * _critical(n, level)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(n, mean, float(low), float(high))


def _resampled(
    sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], generator: np.random.Generator, count: int
) -> npt.NDArray[np.float64]:
    """(count,) means over queries of as many classes, drawn with replacement."""
    drawn = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=count).astype(np.float64)
    means: npt.NDArray[np.float64] = (drawn @ sums) / (drawn @ sizes)
    return means


def mean_share(values: Values, *, level: float = 0.95) -> Interval:
    """Wilson's interval of the mean of n independent values in [0, 1], exactly his where they are 0 or 1.

    Shares vary less than hits and misses: they count as m = n p (1 - p) / variance of those (Korn, Graubard 1998).
    Where all are equal nothing is known of their variance, and m = n: perfect ones do not prove that all others are.
    Raises ValueError where there is no value or one is not in [0, 1].
    """
    x = _finite(values)
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"shares must be in [0, 1], but they reach from {x.min()} to {x.max()}")
    n, p, variance = len(x), float(x.mean()), float(x.var())
    m = n * p * (1 - p) / variance if variance else n
    z = float(stats.norm.ppf((1 + level) / 2))
    centre = (p + z * z / (2 * m)) / (1 + z * z / m)
    half_width = z * math.sqrt(p * (1 - p) / m + z * z / (4 * m * m)) / (1 + z * z / m)
    return Interval(n, p, max(0.0, centre - half_width), min(1.0, centre + half_width))


def by_seed(values: Mapping[Run, float]) -> dict[int, float]:
    """The mean over folds of every seed, in the order of seeds."""
    folds: dict[int, list[float]] = {}
    for (seed, _), value in values.items():
        folds.setdefault(seed, []).append(value)
    return {seed: float(np.mean(folds[seed])) for seed in sorted(folds)}


def paired(first: Mapping[Run, float], second: Mapping[Run, float], *, level: float = 0.95) -> Paired | None:
    """Compares two configurations at the seeds and folds they have in common; None where they have none."""
    differences = {run: second[run] - first[run] for run in first if run in second}
    if not differences:
        return None
    found = estimate(list(by_seed(differences).values()), level=level)
    if not found.deviation:
        return Paired(found, len(differences), None, None, None)
    return Paired(
        found,
        len(differences),
        float(2 * stats.t.sf(abs(found.mean) / found.deviation * math.sqrt(found.n), found.n - 1)),
        detectable_difference(found.deviation, found.n),
        seeds_needed(HALF_A_POINT, found.deviation),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many there are (Holm 1979), in their order."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def power(difference: float, deviation: float, n: int, *, alpha: float = 0.05) -> float:
    """Probability that n seeds show a true difference at this level, given the deviation of paired differences."""
    if n < 2:
        return 0.0
    if deviation == 0:
        return 1.0 if difference != 0 else alpha
    return _power_at(abs(difference) / deviation * math.sqrt(n), n, alpha)


def detectable_difference(deviation: float, n: int, *, target: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest true difference that n seeds see with the target power; None for fewer than two seeds."""
    if n < 2:
        return None
    most = 2.0
    while _power_at(most, n, alpha) < target:
        most *= 2
    shift = float(optimize.brentq(lambda x: _power_at(x, n, alpha) - target, 0.0, most, xtol=1e-12))
    return shift * deviation / math.sqrt(n)


def seeds_needed(difference: float, deviation: float, *, target: float = 0.8, alpha: float = 0.05) -> int:
    """The fewest seeds that see a true difference with the target power, given the deviation of paired differences."""
    if difference == 0:
        raise ValueError("difference must not be 0: no number of seeds sees nothing")
    too_few, enough_seeds = 1, 2
    while power(difference, deviation, enough_seeds, alpha=alpha) < target:
        too_few, enough_seeds = enough_seeds, 2 * enough_seeds
    while enough_seeds - too_few > 1:
        middle = (too_few + enough_seeds) // 2
        if power(difference, deviation, middle, alpha=alpha) < target:
            too_few = middle
        else:
            enough_seeds = middle
    return enough_seeds


def _power_at(shift: float, n: int, alpha: float) -> float:
    """P(|T| > t) for the noncentral t with n - 1 degrees of freedom and this noncentrality."""
    limit = _critical(n, 1 - alpha)
    above = float(stats.nct.sf(limit, n - 1, shift))
    below = float(stats.nct.cdf(-limit, n - 1, shift))
    # Far out in a tail SciPy's series returns NaN for what is 1 above and 0 below.
    above = (1.0 if shift > limit else 0.0) if math.isnan(above) else above
    return above + (0.0 if math.isnan(below) else below)


def _critical(n: int, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, n - 1))


def _finite(values: Values) -> npt.NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"expected a list of finite numbers, but got {np.array2string(x, threshold=8)}")
    return x

"""The interval of a mean of shares: Wilson's by SciPy, and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from raydml.statistics import mean_share


@pytest.mark.parametrize(("hits", "n"), [(81, 100), (0, 7), (7, 7), (1, 1), (999, 1000)])
def test_hits_and_misses_have_wilsons_interval(hits: int, n: int) -> None:
    found = mean_share([1.0] * hits + [0.0] * (n - hits))
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert [found.n, found.mean, found.low, found.high] == pytest.approx([n, hits / n, expected.low, expected.high])


def test_shares_that_vary_less_are_better_known() -> None:
    tenths = np.random.default_rng(0).binomial(10, 0.81, size=100) / 10
    shares, hits = mean_share(tenths), mean_share([1.0] * 81 + [0.0] * 19)
    assert None not in (shares.low, shares.high, hits.low, hits.high)
    assert np.ptp([shares.low, shares.high]) < 0.4 * np.ptp([hits.low, hits.high])


def test_equal_shares_are_not_certain() -> None:
    found = mean_share([0.5] * 100)
    assert [found.low, found.high] == pytest.approx([*stats.binomtest(50, 100).proportion_ci(method="wilson")])


def test_intervals_cover_in_95_of_100_cases() -> None:
    generator = np.random.default_rng(1)
    found = [mean_share(generator.beta(9, 1, size=200)) for _ in range(1000)]
    covered = sum(one.low is not None and one.high is not None and one.low <= 0.9 <= one.high for one in found)
    assert 930 <= covered <= 970


@pytest.mark.parametrize("values", [[0.5, 1.1], [-0.1], [], [math.nan]])
def test_shares_are_in_0_to_1(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]|finite"):
        mean_share(values)

"""What retrieval metrics are before anything is averaged: values of each query, and their means."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class QueryMetrics(NamedTuple):
    """Metrics of each query that has a positive. Where galleries are drawn: over the draws in which it is a query."""

    values: dict[str, Tensor]
    """`recall@k` for each k, `map@r`, `r_precision`, what else was asked for (map, mrr, map@k, precision@k), and
    `tied_queries`: (Q,) float64 in [0, 1]."""

    labels: Tensor
    """(Q,) int64."""

    num_without_positive: int
    """Queries that were left out."""

    times: Tensor | None = None
    """(Q,) int64, at least 1: draws of the gallery in which each is a query; None where nothing is drawn."""

    num_draws: int = 1
    """Draws of the gallery. The queries of a class are as many in each of them."""

    place: Tensor | None = None
    """(Q,) int64: which of the rows that were given each query is; None where that is not known."""

    def means(self) -> dict[str, float]:
        """Over all queries, with their numbers: what `retrieval_metrics` returns. Where drawn: over all draws."""
        return {
            **{name: float(self._mean(values)) for name, values in self.values.items()},
            "num_queries": float(self._num_queries()),
            "num_queries_without_positive": float(self.num_without_positive),
        }

    def _mean(self, values: Tensor) -> Tensor:
        return values.mean() if self.times is None else (values * self.times).sum() / self.times.sum()

    def _num_queries(self) -> int:
        return len(self.labels) if self.times is None else int(self.times.sum()) // self.num_draws

    def class_means(self) -> dict[int, dict[str, float]]:
        """By label, in rising order: `num_queries`, and means over the queries of the class.

        Weighted with `num_queries` they add up to `means`.
        """
        labels, place = self.labels.unique(return_inverse=True)
        times = self.labels.new_ones(len(self.labels)) if self.times is None else self.times
        counts = times.new_zeros(len(labels)).index_add_(0, place, times)
        table = {"num_queries": (counts // self.num_draws).tolist()}
        for name, values in self.values.items():
            sums = values.new_zeros(len(labels)).index_add_(0, place, values * times)
            table[name] = (sums / counts).tolist()
        rows = zip(*table.values(), strict=True)
        return {label: dict(zip(table, row, strict=True)) for label, row in zip(labels.tolist(), rows, strict=True)}

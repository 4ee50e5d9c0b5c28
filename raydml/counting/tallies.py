"""What has been counted so far, and how a tile of similarities is added to it: with torch alone, on any device."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from raydml.counting.sides import Negatives, Positives


class Tally(Protocol):
    """Counts of queries, to which tiles are added. Positives and the query itself are -inf in a tile."""

    def add_rows(self, tile: Tensor, num_rows: int, num_columns: int, first: int) -> None:
        """Row r of a contiguous tile holds similarities of query first + r; rows and columns beyond do not count."""

    def add_columns(self, tile: Tensor, num_rows: int, num_columns: int, first: int) -> None:
        """As `add_rows`, where column c is of query first + c."""

    def result(self) -> Negatives:
        """Of all tiles so far."""


class TorchTally:
    """Counts with few operations and few looks of the host at the device."""

    def __init__(self, positives: Positives, limits: Tensor) -> None:
        self._thresholds, self._offsets, self._limits = *positives, limits
        counts = positives.counts()
        self._query = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        self._ends = positives.offsets.tolist()
        self._steps = int(counts.max()).bit_length()
        self._unlimited = bool((limits == torch.iinfo(torch.int64).max).all())
        # A query without a positive counts nothing: its threshold is out of reach.
        self._first = torch.full((len(counts),), torch.inf, dtype=self._thresholds.dtype, device=counts.device)
        self._first[counts > 0] = self._thresholds[positives.offsets[:-1][counts > 0]]
        self._alive = counts
        self._ahead_of_first = torch.zeros_like(counts)
        self._bins = torch.zeros_like(self._query)
        self._tied = torch.zeros_like(counts, dtype=torch.bool)

    def add_rows(self, tile: Tensor, num_rows: int, num_columns: int, first: int) -> None:
        """As `Tally` has it."""
        self._add(tile[:num_rows, :num_columns], slice(first, first + num_rows))

    def add_columns(self, tile: Tensor, num_rows: int, num_columns: int, first: int) -> None:
        """As `Tally` has it."""
        self._add(tile[:num_rows, :num_columns].T, slice(first, first + num_columns))

    def _add(self, similarity: Tensor, queries: slice) -> None:
        nearest = self._first[queries, None]
        self._ahead_of_first[queries] += (similarity >= nearest).sum(1, dtype=torch.int32)
        self._tied[queries] |= (similarity == nearest).any(1)
        start, stop = self._ends[queries.start], self._ends[queries.stop]
        if self._steps < 2 or start == stop:
            return  # nobody has a second positive
        offsets, alive = self._offsets[:-1][queries], self._alive[queries]
        last = self._thresholds[(offsets + alive - 1).clamp(min=0)]
        row, column = (similarity >= torch.where(alive > 1, last, torch.inf)[:, None]).nonzero(as_tuple=True)
        place = self._place(similarity[row, column], offsets[row], alive[row])
        self._bins.index_add_(0, place, torch.ones_like(place))
        if not self._unlimited:
            self._prune(queries, start, stop)

    def _place(self, values: Tensor, low: Tensor, alive: Tensor) -> Tensor:
        """The first threshold of its query that each value reaches; it reaches the last one alive."""
        high = low + alive - 1
        for _ in range(self._steps):
            middle = (low + high) // 2
            reached = self._thresholds[middle] <= values
            low, high = torch.where(reached, low, (middle + 1).minimum(high)), torch.where(reached, middle, high)
        return low

    def _prune(self, queries: slice, start: int, stop: int) -> None:
        """Positives whose rank is beyond the limit are no longer looked for: they are the last of their query."""
        query = self._query[start:stop]
        rank = self._within(start, stop) + torch.arange(1 + start, 1 + stop, device=query.device) - self._offsets[query]
        matters = (rank <= self._limits[query]).long()
        alive = torch.zeros_like(self._alive[queries]).index_add_(0, query - queries.start, matters)
        self._alive[queries] = self._alive[queries].minimum(alive.clamp(min=1))

    def _within(self, start: int, stop: int) -> Tensor:
        """Sums of the bins up to each, begun anew for each query; `start` begins one."""
        sums = self._bins[start:stop].cumsum(0)
        before = self._offsets[self._query[start:stop]] - start
        return sums - torch.where(before > 0, sums[(before - 1).clamp(min=0)], 0)

    def result(self) -> Negatives:
        """As `Tally` has it."""
        at_least = self._within(0, len(self._bins)) if len(self._bins) else self._bins
        counts = self._offsets.diff()
        # Once a query has only its first positive alive, its bins are no longer filled.
        at_least[self._offsets[:-1][counts > 0]] = self._ahead_of_first[counts > 0]
        return Negatives(at_least, self._tied)

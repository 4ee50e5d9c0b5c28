"""Counting on the CPU in float32, compiled, by as many threads as torch has."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from raydml.counting.products import cuts
from raydml.counting.sides import Negatives, Positives

# Fewer rows or columns for a thread cost more to hand out than to count.
_LEAST_SHARE = 64


class CompiledTally:
    """`Tally` of contiguous float32 tiles in the memory of the host."""

    def __init__(self, positives: Positives, limits: Tensor) -> None:
        from raydml.counting import kernels

        self._kernels = kernels
        counts = positives.counts()
        self._offsets = positives.offsets
        self._bins = torch.zeros(len(positives.similarity), dtype=torch.int64)
        self._tied = torch.zeros(len(counts), dtype=torch.bool)
        columns = (positives.similarity, positives.offsets, limits, counts, self._bins, torch.zeros_like(counts))
        self._queries = tuple(column.contiguous().numpy() for column in (*columns, self._tied))
        self._num_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._num_threads) if self._num_threads > 1 else None

    def add_rows(self, tile: Tensor, num_rows: int, num_columns: int, first: int) -> None:
        """As `Tally` has it."""
        self._shared(self._kernels.count_rows, tile, num_rows, num_columns, first, num_rows)

    def add_columns(self, tile: Tensor, num_rows: int, num_columns: int, first: int) -> None:
        """As `Tally` has it."""
        self._shared(self._kernels.count_columns, tile, num_rows, num_columns, first, num_columns)

    def _shared(
        self, kernel: Callable[..., None], tile: Tensor, num_rows: int, num_columns: int, first: int, num_queries: int
    ) -> None:
        """Every thread has queries of its own, so that none waits and no sum depends on their number."""
        share = max(_LEAST_SHARE, -(-num_queries // self._num_threads))
        values = tile.numpy()

        def count(part: slice) -> None:
            kernel(values, num_rows, num_columns, first, part.start, part.stop, self._queries)

        parts = cuts(num_queries, share)
        if self._pool is None or len(parts) == 1:
            for part in parts:
                count(part)
        else:
            list(self._pool.map(count, parts))

    def result(self) -> Negatives:
        """As `Tally` has it; ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        sums = torch.cat([self._bins.new_zeros(1), self._bins.cumsum(0)])
        counts = self._offsets.diff()
        before = torch.repeat_interleave(sums[self._offsets[:-1]], counts)
        return Negatives(sums[1:] - before, self._tied)

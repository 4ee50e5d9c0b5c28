"""Counting along the rows and columns of a tile of similarities, compiled: a hundredth of the price of the product.

For query q, of which R positives are at offsets[q] ... offsets[q + 1] - 1: `thresholds` s_1 >= ... >= s_R, of which the
first alive[q] still matter; `bins`, of which the i-th counts the negatives that are at least s_i but less than s_{i-1},
so that c_i is the sum of the first i; totals[q], the sum of those alive; limits[q] and tied[q] as `Negatives` has them.
A chunk of similarities is compared with the last threshold alive, many in one instruction; nearly all chunks end there.

Only for float32, one signature a kernel: processes that compile at the same time then write the same file of numba's
cache. To be imported where it is needed and not before: numba takes its time to load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from numba import boolean, float32, int32, int64, types, void

_CHUNK = 256
# Columns that are counted together, and rows until their bounds are looked up again: a quarter of a MiB stays near.
_STRIPE_COLUMNS = 512
_STRIPE_ROWS = 128
# Up to so many thresholds beyond the hits of a chunk, it is counted for each; beyond, each hit is searched its place.
_FEW = 16

# thresholds, offsets, limits, alive, bins, totals, tied
_QUERIES = types.Tuple((float32[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], boolean[::1]))
# tile, rows and columns of it that count, the first query, those to do: from, to
_SWEEP = void(float32[:, ::1], int64, int64, int64, int64, int64, _QUERIES)
_ANY = Any  # numba has its own types, which are in the signatures
_Function = Callable[..., _ANY]
# Part of what calls it.
_inner = cast("Callable[[_Function], _Function]", numba.njit)


def compiled(signature: _ANY) -> Callable[[_Function], _Function]:
    """Compiled once for a machine; where no folder may keep the result, once for a process."""

    def decorated(function: _Function) -> _Function:
        try:
            return cast("_Function", numba.njit(signature, nogil=True, cache=True)(function))
        except (RuntimeError, OSError):  # no folder can be written: not the package's, not the user's; or it is full
            return cast("_Function", numba.njit(signature, nogil=True)(function))

    return decorated


@_inner
def _count(values: _ANY, bound: _ANY) -> _ANY:
    count = int32(0)
    for value in values:
        count = int32(count + int32(value >= bound))
    return int64(count)


@_inner
def _holds(values: _ANY, wanted: _ANY) -> _ANY:
    for value in values:  # noqa: SIM110 - numba has no any()
        if value == wanted:
            return True
    return False


@_inner
def _count_each(values: _ANY, hits: _ANY, own: _ANY, bins: _ANY) -> None:
    """Adds a chunk to the bins, threshold by threshold from the last: `hits` are at least the last."""
    above = hits
    for i in range(len(own) - 1, 0, -1):
        count = _count(values, own[i - 1])
        bins[i] += above - count
        above = count
        if above == 0:
            return
    bins[0] += above


@_inner
def _place_each(values: _ANY, own: _ANY, bins: _ANY) -> None:
    """Adds a chunk to the bins, value by value."""
    last = own[-1]
    for value in values:
        if value >= last:
            low, high = 0, len(own) - 1
            while low < high:
                middle = (low + high) // 2
                if own[middle] <= value:
                    high = middle
                else:
                    low = middle + 1
            bins[low] += 1


@_inner
def _add_chunk(values: _ANY, hits: _ANY, query: _ANY, queries: _ANY) -> None:
    thresholds, offsets, limits, alive, bins, totals, tied = queries
    start, count = offsets[query], alive[query]
    own, own_bins = thresholds[start : start + count], bins[start : start + count]
    if count <= hits + _FEW:
        _count_each(values, hits, own, own_bins)
    else:
        _place_each(values, own, own_bins)
    if not tied[query]:
        tied[query] = _holds(values, own[0])
    total = totals[query] + hits
    while count > 1 and count + total > limits[query]:
        count -= 1
        total -= own_bins[count]
    alive[query], totals[query] = count, total


@compiled(_SWEEP)
def count_rows(
    tile: _ANY, num_rows: _ANY, num_columns: _ANY, first: _ANY, begin: _ANY, end: _ANY, queries: _ANY
) -> None:
    """Row r is of query first + r; rows begin ... end - 1 are counted."""
    thresholds, offsets, _, alive, _, _, _ = queries
    for row in range(begin, min(end, num_rows)):
        query = first + row
        for left in range(0, num_columns, _CHUNK):
            if alive[query] == 0:
                break
            values = tile[row, left : min(left + _CHUNK, num_columns)]
            hits = _count(values, thresholds[offsets[query] + alive[query] - 1])
            if hits > 0:
                _add_chunk(values, hits, query, queries)


@compiled(_SWEEP)
def count_columns(
    tile: _ANY, num_rows: _ANY, num_columns: _ANY, first: _ANY, begin: _ANY, end: _ANY, queries: _ANY
) -> None:
    """Column c is of query first + c; columns begin ... end - 1 are counted."""
    thresholds, offsets, _, alive, _, _, _ = queries
    bounds = np.empty(_STRIPE_COLUMNS, np.float32)
    hits = np.empty(_STRIPE_COLUMNS, np.int32)
    values = np.empty(_STRIPE_ROWS, np.float32)
    for left in range(begin, min(end, num_columns), _STRIPE_COLUMNS):
        width = min(left + _STRIPE_COLUMNS, end, num_columns) - left
        for top in range(0, num_rows, _STRIPE_ROWS):
            bottom = min(top + _STRIPE_ROWS, num_rows)
            for c in range(width):
                query = first + left + c
                bounds[c] = thresholds[offsets[query] + alive[query] - 1] if alive[query] else np.inf
                hits[c] = 0
            for row in range(top, bottom):
                own = tile[row, left : left + width]
                for c in range(width):
                    hits[c] = int32(hits[c] + int32(own[c] >= bounds[c]))
            for c in range(width):
                if hits[c] > 0:
                    for row in range(top, bottom):
                        values[row - top] = tile[row, left + c]
                    own = values[: bottom - top]
                    query = first + left + c
                    _add_chunk(own, int64(hits[c]), query, queries)

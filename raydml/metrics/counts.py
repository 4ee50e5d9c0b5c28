"""Values of every query from its positives and the negatives ahead of them.

For a query with R positives in the gallery, s_1 >= ... >= s_R their similarities and c_i the number of negatives with
similarity >= s_i, positive i has rank r_i = i + c_i. Then (Musgrave, Belongie, Lim 2020, for those at R)

    recall@k    = [r_1 <= k]                  mrr         = 1 / r_1
    map@r       = (1/R) sum_i [r_i <= R] i/r_i    r_precision = (1/R) #{i: r_i <= R}
    map@k       = (1/min(R, k)) sum_i [r_i <= k] i/r_i    precision@k = (1/k) #{i: r_i <= k}
    map         = (1/R) sum_i i/r_i

k may exceed the gallery: recall@k is then 1 for every query that has a positive, and precision@k still counts in k.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from raydml.config import Wanted
from raydml.counting import Negatives

# Positives whose ranks are in memory as float64 at a time.
_AT_A_TIME = 2**20


def limits(counts: Tensor, wanted: Wanted) -> Tensor:
    """(Q,) int64: the last rank that matters of queries with `counts` (Q,) positives. See `counting.Negatives`."""
    if wanted.full_map:
        return torch.full_like(counts, torch.iinfo(torch.int64).max)
    return counts.clamp(min=max((*wanted.map_at, *wanted.precision_at), default=1))


def values_of(offsets: Tensor, negatives: Negatives, wanted: Wanted) -> dict[str, Tensor]:
    """(Q,) float64 each, in the order in which metrics are shown; means nothing for a query without a positive.

    `offsets` (Q + 1,) are those of `Positives`, and `negatives` were counted up to `limits`.
    """
    parts = [_values(offsets[part], negatives.at_least, wanted) for part in _parts(offsets)]
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {**values, "tied_queries": negatives.tied.double()}


def _parts(offsets: Tensor) -> list[slice]:
    """Consecutive queries, of few positives together; each slice holds the end of its last query as well."""
    bounds = torch.arange(0, int(offsets[-1]) + _AT_A_TIME, _AT_A_TIME, device=offsets.device)
    cuts = sorted({0, len(offsets) - 1, *(torch.searchsorted(offsets, bounds) - 1).clamp(min=0).tolist()})
    return [slice(low, high + 1) for low, high in pairwise(cuts)]


def _values(offsets: Tensor, at_least: Tensor, wanted: Wanted) -> dict[str, Tensor]:
    counts = offsets.diff()
    query = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    start, stop = int(offsets[0]), int(offsets[-1])
    place = torch.arange(1 + start, 1 + stop, device=counts.device) - offsets[:-1][query]
    rank = place + at_least[start:stop]
    precision = place / rank.double()
    first = torch.full_like(counts, torch.iinfo(torch.int64).max)
    first[query[place == 1]] = rank[place == 1]

    def total(values: Tensor) -> Tensor:
        return torch.segment_reduce(values.double(), "sum", offsets=offsets - start, initial=0.0)

    def average_precision(last: Tensor) -> Tensor:
        return total(torch.where(rank <= last[query], precision, 0.0)) / counts.minimum(last)

    found = {
        **{f"recall@{k}": (first <= k).double() for k in wanted.recall_at},
        "map@r": average_precision(counts),
        "r_precision": total(rank <= counts[query]) / counts,
        **{f"map@{k}": average_precision(torch.full_like(counts, k)) for k in wanted.map_at},
        **{f"precision@{k}": total(rank <= k) / k for k in wanted.precision_at},
    }
    if wanted.full_map:
        found["map"] = total(precision) / counts
    return {**found, **({"mrr": 1 / first.double()} if wanted.mrr else {})}

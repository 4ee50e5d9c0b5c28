"""Retrieval metrics from an approximate index, with what it finds of the true neighbours measured on a sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raydml.config import EvaluateOptions, Wanted
from raydml.metrics.inputs import checked_side, exact_products
from raydml.metrics.lists import list_depth, num_positives_of
from raydml.neighbors import Index, build_index, found_shares
from raydml.per_query import QueryMetrics
from raydml.retrieval import RandomGallery, RetrievalProtocol, first_sides, protocol_metrics
from raydml.statistics import Interval, mean_share

# Queries whose true neighbours are found: an interval of their recall is then at most 6 points wide.
_SAMPLE = 1000
_SHOWN_AT = 10


class Approximation(NamedTuple):
    """Metrics of queries, and how far the index that they are from can be trusted."""

    queries: QueryMetrics
    recall: dict[str, float]
    """`index_recall@k` with `_low` and `_high`, the ends of a 95 % interval, for k = 1, 10 and the longest list that a
    query's positives need: the mean share of the k nearest rows that are among the first k of the index."""
    facts: dict[str, int | str]
    """The index, and how many queries its recall was measured on."""
    description: str
    """The same in a line."""


def approximate_metrics(
    protocol: RetrievalProtocol, rows: Tensor, labels: Tensor, wanted: Wanted, options: EvaluateOptions
) -> Approximation:
    """Metrics of unit embeddings (N, D) with labels (N,) by a protocol, from the index that the options name.

    Raises ValueError as `protocol_metrics` and `build_index` do, and where galleries are drawn.
    """
    assert options.approximate is not None
    if isinstance(protocol, RandomGallery):
        raise ValueError(
            f"engine={options.engine}: every draw of a random gallery would need an index of one image of each class; "
            "take engine=rank, which counts them exactly"
        )
    side = checked_side(rows, labels, None, "embeddings")
    query, gallery, own = first_sides(protocol, side.labels.cpu().numpy())
    positives = num_positives_of(side.labels[query], side.labels[gallery])
    index = build_index(
        side.rows[gallery],
        options.approximate,
        depth=1 + list_depth(positives, wanted, len(gallery)),
        nprobe=options.nprobe,
        ef_search=options.ef_search,
    )
    queries = protocol_metrics(protocol, side.rows, side.labels, wanted=wanted, engine=index)
    drawn = torch.randperm(len(query), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    found = _recall(index, side.rows[query[drawn]], own[drawn].to(side.rows.device), int(positives.max()))
    return Approximation(
        queries,
        _as_numbers(found),
        {**index.plan.facts(), "index_recall_queries": len(drawn)},
        f"{index.plan.described()}: {_described(found)}",
    )


def _recall(index: Index, query: Tensor, own: Tensor, most_positives: int) -> dict[int, Interval]:
    exclude = own if bool((own >= 0).any()) else None
    available = len(index.gallery) - int(exclude is not None)
    at = sorted({min(k, available) for k in (1, _SHOWN_AT, most_positives)})
    with exact_products():
        shares = found_shares(index, query, at, exclude=exclude)
    return {k: mean_share(share.cpu().numpy()) for k, share in shares.items()}


def _as_numbers(found: dict[int, Interval]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for k, interval in found.items():
        assert interval.low is not None
        assert interval.high is not None
        name = f"index_recall@{k}"
        numbers |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return numbers


def _described(found: dict[int, Interval]) -> str:
    k, interval = max((k, interval) for k, interval in found.items() if k <= _SHOWN_AT)
    return (
        f"recall@{k} against exact {interval.mean:.3f} ({interval.low:.3f} ... {interval.high:.3f}) "
        f"on {interval.n:,} queries"
    )

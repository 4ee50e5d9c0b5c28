"""Retrieval metrics as pure functions of embeddings and labels, exact for every rank.

`raydml.metrics.counts` has the definitions. The query itself is excluded by identity, a tie counts against the query,
queries without a positive are left out and counted. Ranks are counted tile by tile (`raydml.counting`): no N x N
matrix, and recall@1000 needs no list of 1000 neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from raydml.config import Wanted, wanted_metrics
from raydml.config.wanted import OF_QUERIES
from raydml.counting import Side, count_negatives, count_within, positives_of, sorted_by_class
from raydml.metrics.counts import limits, values_of
from raydml.metrics.inputs import NO_POSITIVE, Labels, Rows, checked_side, exact_products
from raydml.metrics.lists import num_positives_of, values_by_lists
from raydml.neighbors import Index, build_index
from raydml.per_query import QueryMetrics

Engine = Literal["rank", "faiss"]

# Positives whose thresholds and counts are in memory together, some 40 bytes each: a third of a gigabyte. Few huge
# classes have more, and are then counted in blocks of queries.
_MOST_POSITIVES = 2**23
_DEFAULT = Wanted()


def retrieval_metrics(
    query: Rows,
    query_labels: Labels,
    gallery: Rows | None = None,
    gallery_labels: Labels | None = None,
    *,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    metrics: Sequence[str] = (),
    groups: Labels | None = None,
    gallery_groups: Labels | None = None,
    engine: Engine = "rank",
) -> dict[str, float]:
    """Retrieval metrics of unit embeddings (Q, D) in a gallery (M, D), or among themselves where it is None.

    Returns `recall@k` for each k, `map@r`, `r_precision` and those that `metrics` names (`map`, `mrr`, `map@K`,
    `precision@K`, K a rank), all in [0, 1], with `num_queries`, `num_queries_without_positive` and `tied_queries` (a
    share). A query does not find rows of its class and group, such as those of its own camera; rows of other classes
    remain negatives. `rank` counts ranks on the device of the embeddings; `faiss` takes the numbers from lists of
    neighbours, as an independent second opinion.

    Raises ValueError where embeddings are not finite, labels are no integers, shapes disagree, a metric is unknown or
    no query has a positive.
    """
    wanted = wanted_metrics(recall_at, metrics)
    if wanted.whole:
        raise ValueError(f"metrics must be of {', '.join(OF_QUERIES)} (K a rank), but got {wanted.whole[0]!r}")
    sides = (query, query_labels, gallery, gallery_labels)
    return query_metrics(*sides, groups=groups, gallery_groups=gallery_groups, wanted=wanted, engine=engine).means()


def query_metrics(
    query: Rows,
    query_labels: Labels,
    gallery: Rows | None = None,
    gallery_labels: Labels | None = None,
    *,
    own: Tensor | None = None,
    groups: Labels | None = None,
    gallery_groups: Labels | None = None,
    wanted: Wanted = _DEFAULT,
    engine: Engine | Index = "rank",
) -> QueryMetrics:
    """As `retrieval_metrics`, query by query; metrics of a whole set are left out.

    `engine` may be an index of the gallery's rows, approximate or not: what it does not find counts as not found.

    `own` (Q,) int64 is the row of the gallery that is the query itself and is not found, -1 where none is. Without it
    no row of a given gallery is excluded: equal positions are not the same image.
    """
    q = checked_side(query, query_labels, groups, "query")
    if gallery is None or gallery_labels is None:
        if gallery is not None or gallery_labels is not None or gallery_groups is not None:
            raise ValueError("gallery and gallery_labels go together, and gallery_groups with them")
        q = q._replace(identity=torch.arange(len(q.labels), device=q.labels.device))
        return _measured(q, None, wanted, engine)
    g = checked_side(gallery, gallery_labels, gallery_groups, "gallery")
    if g.rows.shape[1] != q.rows.shape[1]:
        raise ValueError(f"query and gallery must have one dimension, but got {q.rows.shape[1]} and {g.rows.shape[1]}")
    if (groups is None) != (gallery_groups is None):
        raise ValueError("groups and gallery_groups go together")
    wider = torch.promote_types(q.rows.dtype, g.rows.dtype)
    if own is not None:
        q = q._replace(identity=own.to(q.labels.device))
        g = g._replace(identity=torch.arange(len(g.labels), device=g.labels.device))
    return _measured(q._replace(rows=q.rows.to(wider)), g._replace(rows=g.rows.to(wider)), wanted, engine)


def _measured(query: Side, gallery: Side | None, wanted: Wanted, engine: Engine | Index) -> QueryMetrics:
    with exact_products():
        if engine == "rank":
            values, usable = _by_counting(query, gallery, wanted)
        else:
            if isinstance(engine, str) and engine != "faiss":
                raise ValueError(f"engine must be rank, faiss or an index, but got {engine!r}")
            index = None if engine == "faiss" else engine
            values, usable = _by_lists(query, gallery, wanted, index)
    rows = usable.nonzero()[:, 0]
    if not len(rows):
        raise ValueError(NO_POSITIVE)
    found = {name: column[rows] for name, column in values.items()}
    return QueryMetrics(found, query.labels[rows], len(query.labels) - len(rows), place=rows)


def _by_counting(query: Side, gallery: Side | None, wanted: Wanted) -> tuple[dict[str, Tensor], Tensor]:
    """Values (Q,), and which queries have a positive."""
    query, order = sorted_by_class(query)
    gallery = None if gallery is None else sorted_by_class(gallery)[0]
    parts, counts = [], []
    for rows in _few_positives(query, query if gallery is None else gallery):
        part = _part(query, rows)
        positives = positives_of(part, query if gallery is None else gallery)
        counts.append(positives.counts())
        limit = limits(counts[-1], wanted)
        if gallery is None and len(part.labels) == len(query.labels):
            negatives = count_within(query, positives, limit)
        else:
            negatives = count_negatives(part, query if gallery is None else gallery, positives, limit)
        parts.append(values_of(positives.offsets, negatives, wanted))
    back = order.argsort()
    return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}, torch.cat(counts)[back] > 0


def _few_positives(query: Side, gallery: Side) -> Iterator[slice]:
    """Consecutive queries that together have no more positives than are held in memory, but for one that alone has."""
    total = num_positives_of(query.labels, gallery.labels).cumsum(0).cpu()
    start = 0
    while start < len(total):
        before = int(total[start - 1]) if start else 0
        stop = int(torch.searchsorted(total, before + _MOST_POSITIVES, right=True))
        yield slice(start, max(stop, start + 1))
        start = max(stop, start + 1)


def _by_lists(
    query: Side, gallery: Side | None, wanted: Wanted, index: Index | None
) -> tuple[dict[str, Tensor], Tensor]:
    """As `_by_counting`, from lists of neighbours: of an index that may be approximate, or exact ones of faiss."""
    found = query if gallery is None else gallery
    index = build_index(found.rows, "flat") if index is None else index
    if len(index.gallery) != len(found.rows):
        raise ValueError(
            f"the index must be one of the gallery's rows, but has {len(index.gallery)}, and it {len(found.rows)}"
        )

    def counted(rows: Tensor) -> dict[str, Tensor]:
        return _by_counting(_part(query, rows), found, wanted)[0]

    exact = index.plan.kind == "flat"
    return values_by_lists(query, found, wanted, index.search, counted if exact else None)


def _part(side: Side, rows: slice | Tensor) -> Side:
    return Side(*(None if x is None else x[rows] for x in side))  # type: ignore[arg-type]

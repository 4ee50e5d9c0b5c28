"""Retrieval metrics as pure functions of embeddings and labels, exact for every rank.

For a query with R positives in the gallery, s_1 >= ... >= s_R their similarities and c_i the number of negatives with
similarity >= s_i, positive i has rank i + c_i. Then (Musgrave, Belongie, Lim 2020)

    recall@k    = mean [1 + c_1 <= k]
    r_precision = mean (1/R) #{i: i + c_i <= R}
    map@r       = mean (1/R) sum_i [i + c_i <= R] i / (i + c_i)

The query itself is excluded by identity, a tie counts against the query, queries without a positive are left out and
counted. Ranks are counted block by block: no N x N matrix, and recall@1000 needs no list of 1000 neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydml.distances import full_precision
from raydml.metrics.lists import Count, num_positives_of, ranks_by_lists
from raydml.neighbors import blocks
from raydml.per_query import QueryMetrics, Ranks

Rows = Tensor | npt.NDArray[np.floating]
Labels = Tensor | npt.NDArray[np.integer]
Engine = Literal["rank", "faiss"]

# Below this many rows or columns a matrix product may round the same sum differently, and a tie be missed.
_SAFE_GEMM = 16


def retrieval_metrics(
    query: Rows,
    query_labels: Labels,
    gallery: Rows | None = None,
    gallery_labels: Labels | None = None,
    *,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    engine: Engine = "rank",
) -> dict[str, float]:
    """Retrieval metrics of unit embeddings (Q, D) in a gallery (M, D), or among themselves where it is None.

    Returns `recall@k` for each k, `map@r`, `r_precision`, all in [0, 1], with `num_queries`, `num_queries_without_
    positive` and `tied_queries` (a share). `rank` counts ranks on the device of the embeddings; `faiss` takes the
    numbers from lists of neighbours, as an independent second opinion.

    Raises ValueError where embeddings are not finite, labels are no integers, shapes disagree or no query has a
    positive.
    """
    return query_metrics(query, query_labels, gallery, gallery_labels, recall_at=recall_at, engine=engine).means()


def query_metrics(
    query: Rows,
    query_labels: Labels,
    gallery: Rows | None = None,
    gallery_labels: Labels | None = None,
    *,
    own: Tensor | None = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    mrr: bool = False,
    engine: Engine = "rank",
) -> QueryMetrics:
    """As `retrieval_metrics`, query by query; with `mrr` also 1 / rank of the nearest positive.

    `own` (Q,) int64 is the row of the gallery that is the query itself and is not found, -1 where none is. Without it
    no row of a given gallery is excluded: equal positions are not the same image.
    """
    q, q_labels = _checked(query, query_labels, "query")
    if gallery is None or gallery_labels is None:
        if gallery is not None or gallery_labels is not None:
            raise ValueError("gallery and gallery_labels go together")
        g, g_labels, own = q, q_labels, torch.arange(len(q), device=q.device)
    else:
        g, g_labels = _checked(gallery, gallery_labels, "gallery")
        own = torch.full_like(q_labels, -1) if own is None else own.to(q.device)
        if g.shape[1] != q.shape[1]:
            raise ValueError(f"query and gallery must have one dimension, but got {q.shape[1]} and {g.shape[1]}")
        wider = torch.promote_types(q.dtype, g.dtype)
        q, g = q.to(wider), g.to(wider)
    usable = num_positives_of(q_labels, g_labels) > (own >= 0).long()
    if not bool(usable.any()):
        raise ValueError("no query has a positive: every label of the queries is alone")
    rows = usable.nonzero()[:, 0]
    count = _ranks_by_counting if engine == "rank" else _ranks_by_faiss
    deepest = max(recall_at, default=1)
    with _exact_products():
        ranks = _ranks(count, q[rows], q_labels[rows], g, g_labels, own[rows], deepest)
    values = {
        **{f"recall@{k}": (ranks.first <= k).double() for k in recall_at},
        "map@r": ranks.average_precision_at_r,
        "r_precision": ranks.r_precision,
        **({"mrr": 1 / ranks.first.double()} if mrr else {}),
        "tied_queries": ranks.tied.double(),
    }
    return QueryMetrics(values, q_labels[rows], len(q) - len(rows))


def _ranks(
    count: Count,
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    own: Tensor,
    deepest: int,
) -> Ranks:
    """Queries that are in the gallery themselves are ranked apart from those that are not."""
    parts, order = [], []
    for rows, inside in (((own >= 0).nonzero()[:, 0], True), ((own < 0).nonzero()[:, 0], False)):
        if len(rows):
            left_out = own[rows] if inside else None
            parts.append(count(query[rows], query_labels[rows], gallery, gallery_labels, left_out, deepest))
            order.append(rows)
    back = torch.cat(order).argsort()
    return Ranks(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))


def _checked(rows: Rows, labels: Labels, name: str) -> tuple[Tensor, Tensor]:
    x = full_precision(torch.as_tensor(rows)).detach()
    y = torch.as_tensor(labels)
    if x.ndim != 2 or y.shape != x.shape[:1] or len(x) == 0:
        raise ValueError(
            f"{name}: embeddings must be (N, D) and labels (N,), but got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if y.dtype.is_floating_point or y.dtype == torch.bool:
        raise ValueError(f"{name}: labels must be integers, but got {y.dtype}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name}: embeddings must be finite, but some are NaN or infinite")
    return x, y.to(device=x.device, dtype=torch.int64)


@contextmanager
def _exact_products() -> Iterator[None]:
    """float32 products without tf32: narrower ones make ties, and ties move recall by half a point."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _ranks_by_faiss(
    query: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, own: Tensor | None, deepest: int
) -> Ranks:
    return ranks_by_lists(query, query_labels, gallery, gallery_labels, own, deepest, _ranks_by_counting)


def _ranks_by_counting(
    query: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, own: Tensor | None, deepest: int
) -> Ranks:
    """Queries must have a positive. `own` is the gallery row of each query, or None. `deepest` is not needed here."""
    del deepest
    # Sorted by class, the positives of a query are one range of columns; queries of a class share it.
    gallery_labels, gallery_order = gallery_labels.sort(stable=True)
    gallery = _padded(gallery[gallery_order])
    query_order = query_labels.argsort(stable=True)
    query, query_labels = query[query_order], query_labels[query_order]
    low = torch.searchsorted(gallery_labels, query_labels)
    high = torch.searchsorted(gallery_labels, query_labels, right=True)
    own_column = None if own is None else gallery_order.argsort()[own][query_order]
    parts = [
        _count_block(query[rows], gallery, len(gallery_labels), low[rows], high[rows], _at(own_column, rows))
        for rows in blocks(len(query), len(gallery))
    ]
    back = query_order.argsort()
    return Ranks(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))


def _at(x: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    return None if x is None else x[rows]


def _padded(rows: Tensor) -> Tensor:
    missing = _SAFE_GEMM - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])


def _count_block(
    query: Tensor, gallery: Tensor, num_columns: int, low: Tensor, high: Tensor, own_column: Tensor | None
) -> Ranks:
    similarity = (_padded(query) @ gallery.T)[: len(query), :num_columns]
    if own_column is not None:
        similarity.scatter_(1, own_column[:, None], -torch.inf)
    num_positives = high - low - int(own_column is not None)
    # Every column of the class, padded to the largest class of the block; the query itself sorts last as -inf.
    offset = torch.arange(int((high - low).max()), device=query.device)
    in_class = low[:, None] + offset < high[:, None]
    column = torch.where(in_class, low[:, None] + offset, low[:, None])
    positives = torch.where(in_class, similarity.gather(1, column), -torch.inf)
    positives = positives.sort(1, descending=True).values[:, : int(num_positives.max())]
    similarity.scatter_(1, column, -torch.inf)
    nearest_positive = positives[:, :1]
    at_least = _count_true(similarity >= nearest_positive)
    tied = (similarity == nearest_positive).any(1)
    # R negatives at or above s_i are enough to push positive i out of the first R: deeper ones cannot matter.
    depth = min(positives.shape[1], num_columns)
    hardest = similarity.topk(depth, dim=1).values
    ahead = torch.searchsorted(-hardest, -positives, right=True)
    place = torch.arange(1, positives.shape[1] + 1, device=query.device)
    rank = place + ahead
    counts = (place <= num_positives[:, None]) & (rank <= num_positives[:, None])
    average_precision = torch.where(counts, place / rank.double(), 0.0).sum(1) / num_positives
    return Ranks(1 + at_least, average_precision, counts.sum(1).double() / num_positives, tied)


def _count_true(mask: Tensor) -> Tensor:
    """Row sums of a mask (rows, columns) -> int64: eight columns a word, 255 words at a time, so no byte overflows.

    A plain sum first makes an int64 of every entry, which costs a third of the product that it follows.
    """
    packed = mask.shape[1] // 2040 * 2040
    count = mask[:, packed:].sum(1)
    if packed:
        words = mask[:, :packed].contiguous().view(torch.int64).view(len(mask), -1, 255).sum(2)
        count += words.view(torch.uint8).view(len(mask), -1).sum(1)
    return count

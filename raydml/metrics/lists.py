"""Values of every query from lists of neighbours: exact ones are a second opinion on what is counted, others are fast.

The definitions are those of `raydml.metrics.counts`. A list is as long as the last rank that matters, so that only the
average precision over all ranks cannot be had. What an approximate list does not hold counts as not found: mrr is then
0 for a query whose nearest positive is beyond its end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydml.config import Wanted
from raydml.counting import Side
from raydml.neighbors import blocks

Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Rows (b, D) and k -> similarity (b, k) in falling order and index (b, k), -1 where nothing was found."""
Count = Callable[[Tensor], dict[str, Tensor]]
"""Positions of queries (n,) -> their values by counting."""

# Queries are taken so many at a time that their lists have a quarter of the entries of a block of similarities: of a
# list there are an index, a similarity and a precision, in twice their width.
_ENTRIES_OF_A_HIT = 4


def values_by_lists(
    query: Side, gallery: Side, wanted: Wanted, search: Search, count: Count | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """(Q,) float64 each, in the order in which metrics are shown, and which queries have a positive (Q,).

    With `count` the lists are exact: where one ends amid equal similarities, or before the first positive, it does not
    tell all, and `count` does. Raises ValueError where every rank is wanted.
    """
    if wanted.full_map:
        raise ValueError("metrics: map is over all ranks, which lists of neighbours do not hold: take engine=rank")
    excluded = _num_excluded(query, gallery)
    num_positives = num_positives_of(query.labels, gallery.labels) - excluded
    depth = list_depth(num_positives, wanted, len(gallery.labels))
    reach = min(depth + int(excluded.max()), len(gallery.labels))
    parts = [
        _of_block(_part(query, rows), gallery, num_positives[rows], wanted, search(query.rows[rows], reach), depth)
        for rows in blocks(len(query.labels), _ENTRIES_OF_A_HIT * reach)
    ]
    values = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0]}
    usable = num_positives > 0
    unsure = (torch.cat([part for _, part in parts]) & usable).nonzero()[:, 0]
    if count is not None and reach < len(gallery.labels) and len(unsure):
        for name, exact in count(unsure).items():
            values[name][unsure] = exact
    return values, usable


def list_depth(num_positives: Tensor, wanted: Wanted, num_rows: int) -> int:
    """How long lists are: to the last rank that matters of any query, or to the end of the gallery."""
    asked = (*wanted.recall_at, *wanted.map_at, *wanted.precision_at, 1)
    return min(max(int(num_positives.max()), *asked), num_rows)


def num_positives_of(query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    """(Q,) int64: gallery rows of the class of each query, itself included where it is one."""
    ordered = gallery_labels.sort().values
    return torch.searchsorted(ordered, query_labels, right=True) - torch.searchsorted(ordered, query_labels)


def _num_excluded(query: Side, gallery: Side) -> Tensor:
    """(Q,) int64: gallery rows of its class that a query does not find: its group, itself among it, or itself alone."""
    if query.groups is not None and gallery.groups is not None:
        labels, groups = (
            torch.cat(column) for column in ((query.labels, gallery.labels), (query.groups, gallery.groups))
        )
        pair = torch.stack([labels, groups]).unique(dim=1, return_inverse=True)[1]
        return num_positives_of(pair[: len(query.labels)], pair[len(query.labels) :])
    if query.identity is None or gallery.identity is None:
        return torch.zeros_like(query.labels)
    return (torch.isin(query.identity, gallery.identity) & (query.identity >= 0)).long()


def _part(side: Side, rows: slice) -> Side:
    return Side(*(None if x is None else x[rows] for x in side))  # type: ignore[arg-type]


def _of_block(
    query: Side, gallery: Side, num_positives: Tensor, wanted: Wanted, found: tuple[Tensor, Tensor], depth: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Values of a few queries, and those whose list may not tell all."""
    similarity, relevant = _ordered(query, gallery, *found)
    similarity, relevant = similarity[:, :depth], relevant[:, :depth]
    tied, unsure = _ties(similarity, relevant)
    values = _values(relevant, num_positives, wanted)
    return {**values, "tied_queries": tied.double()}, unsure


def _ordered(query: Side, gallery: Side, similarity: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities in falling order, and which are of positives; rows that are not to be found are last, at -inf."""
    row = index.clamp(min=0)
    relevant = gallery.labels[row] == query.labels[:, None]
    hidden = index < 0
    if query.identity is not None and gallery.identity is not None:
        hidden |= (gallery.identity[row] == query.identity[:, None]) & (query.identity >= 0)[:, None]
    if query.groups is not None and gallery.groups is not None:
        hidden |= relevant & (gallery.groups[row] == query.groups[:, None])
    similarity = similarity.masked_fill(hidden, -torch.inf)
    # Within equal similarities negatives come first.
    relevant, order = (relevant & ~hidden).sort(dim=1, stable=True)
    similarity, order = similarity.gather(1, order).sort(dim=1, descending=True, stable=True)
    return similarity, relevant.gather(1, order)


def _ties(similarity: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Queries with a negative that is as similar as the nearest positive; those whose list ends in such doubt."""
    first = relevant.int().argmax(1)
    found = relevant.any(1)
    tied = ((similarity == similarity.gather(1, first[:, None])) & ~relevant).any(1) & found
    return tied, (relevant & (similarity == similarity[:, -1:])).any(1) | ~found


def _values(relevant: Tensor, num_positives: Tensor, wanted: Wanted) -> dict[str, Tensor]:
    place = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    within = relevant & (place <= num_positives[:, None])
    precision = torch.where(relevant, relevant.cumsum(1) / place.double(), 0.0)
    first = torch.where(relevant.any(1), 1 + relevant.int().argmax(1), torch.inf)
    values = {
        **{f"recall@{k}": (first <= k).double() for k in wanted.recall_at},
        "map@r": torch.where(within, precision, 0.0).sum(1) / num_positives,
        "r_precision": within.sum(1).double() / num_positives,
        **{f"map@{k}": precision[:, :k].sum(1) / num_positives.clamp(max=k) for k in wanted.map_at},
        **{f"precision@{k}": relevant[:, :k].sum(1).double() / k for k in wanted.precision_at},
    }
    return {**values, **({"mrr": 1 / first.double()} if wanted.mrr else {})}

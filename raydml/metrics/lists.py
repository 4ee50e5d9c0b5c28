"""Ranks from lists of neighbours: an independent second opinion on what `raydml.metrics.ranks` counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydml.neighbors import nearest
from raydml.per_query import Ranks

Count = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, int], Ranks]


def ranks_by_lists(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    own: Tensor | None,
    deepest: int,
    counted: Count,
) -> Ranks:
    """The same from lists of neighbours. A nearest positive beyond the list has the rank behind its end.

    Where a list ends amid equal similarities it does not tell how many negatives a tie holds: `counted` counts those.
    """
    num_positives = num_positives_of(query_labels, gallery_labels) - int(own is not None)
    k = min(max(int(num_positives.max()), deepest), len(gallery) - int(own is not None))
    similarity, index = nearest(query, gallery, k, exclude=own, engine="faiss")
    relevant = gallery_labels[index] == query_labels[:, None]
    # Within equal similarities negatives come first.
    relevant, order = relevant.sort(dim=1, stable=True)
    similarity, order = similarity.gather(1, order).sort(dim=1, descending=True, stable=True)
    relevant = relevant.gather(1, order)
    place = torch.arange(1, k + 1, device=query.device)
    within = relevant & (place <= num_positives[:, None])
    precision = relevant.cumsum(1) / place.double()
    found = relevant.any(1)
    first = torch.where(found, relevant.int().argmax(1), k)
    nearest_positive = similarity.gather(1, first.clamp(max=k - 1)[:, None])
    tied = ((similarity == nearest_positive) & ~relevant).any(1) & found
    ranks = Ranks(
        1 + first,
        torch.where(within, precision, 0.0).sum(1) / num_positives,
        within.sum(1).double() / num_positives,
        tied,
    )
    cut = ((relevant & (similarity == similarity[:, -1:])).any(1) | ~found).nonzero()[:, 0]
    if len(cut) and k < len(gallery) - int(own is not None):
        left_out = None if own is None else own[cut]
        again = counted(query[cut], query_labels[cut], gallery, gallery_labels, left_out, deepest)
        for column, exact in zip(ranks, again, strict=True):
            column[cut] = exact
    return ranks


def num_positives_of(query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    """(Q,) int64: gallery rows of the class of each query, itself included where it is one."""
    ordered = gallery_labels.sort().values
    return torch.searchsorted(ordered, query_labels, right=True) - torch.searchsorted(ordered, query_labels)

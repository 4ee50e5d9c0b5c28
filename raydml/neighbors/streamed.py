"""Exact nearest neighbours in a gallery that comes in blocks: memory is that of one block, however many there are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from raydml.neighbors.exact import blocks, by_similarity_then_index, first_of_equals


def nearest_in_blocks(
    query: Tensor, gallery: Iterable[Tensor], k: int, *, exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `nearest`, of a gallery (M, D) in blocks of rows: similarity (Q, k) in falling order, index (Q, k).

    `exclude` (Q,) is the gallery row that each query must not find, -1 where it may find all. Equal similarities come
    in rising order of index, also across blocks. Raises ValueError where fewer than k rows can be returned.
    """
    similarity = query.new_empty(len(query), 0)
    index = torch.empty(len(query), 0, dtype=torch.long, device=query.device)
    start = 0
    for block in gallery:
        found, place = _nearest_of_one(query, block.to(query), min(k, len(block)), exclude, start)
        # What was there before has lower indices: a stable order keeps it in front of its equals.
        similarity, order = torch.cat([similarity, found], 1).sort(dim=1, descending=True, stable=True)
        similarity, order = similarity[:, :k], order[:, :k]
        index = torch.cat([index, place + start], 1).gather(1, order)
        start += len(block)
    if similarity.shape[1] < k or bool((similarity == -torch.inf).any()):
        raise ValueError(f"k must be at most the rows that can be returned, but got k={k} and a gallery of {start}")
    return similarity, index


def _nearest_of_one(query: Tensor, block: Tensor, k: int, exclude: Tensor | None, start: int) -> tuple[Tensor, Tensor]:
    parts = []
    for rows in blocks(len(query), len(block)):
        similarity = query[rows] @ block.T
        if exclude is not None:
            own = exclude[rows] - start
            inside = ((own >= 0) & (own < len(block))).nonzero()[:, 0]
            similarity[inside, own[inside]] = -torch.inf
        parts.append(by_similarity_then_index(*first_of_equals(similarity, k)))
    return torch.cat([values for values, _ in parts]), torch.cat([index for _, index in parts])

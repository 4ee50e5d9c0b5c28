"""Counting with torch alone, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from raydml.counting.sides import Negatives, Positives, Side
from raydml.neighbors import blocks

# Below this many rows or columns a matrix product may round the same sum differently, and a tie be missed.
_SAFE_GEMM = 16


def positives_of(query: Side, gallery: Side) -> Positives:
    """The positives of each query in a gallery, or in a part of it. Queries may have none."""
    found = [
        _positives_in_block(_part(query, rows), gallery) for rows in blocks(len(query.labels), len(gallery.labels))
    ]
    counts = torch.cat([part.counts() for part in found])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Positives(torch.cat([part.similarity for part in found]), offsets)


def count_negatives(query: Side, gallery: Side, positives: Positives, limit: Tensor) -> Negatives:
    """Counts the negatives of a gallery, or of a part of it, at or above each positive.

    `limit` (Q,) int64 is the last rank that matters of each query: see `Negatives`.
    """
    del limit  # all are exact here
    at_least = torch.zeros_like(positives.similarity, dtype=torch.int64)
    tied = torch.zeros(len(query.labels), dtype=torch.bool, device=at_least.device)
    for rows in blocks(len(query.labels), len(gallery.labels)):
        part = slice(int(positives.offsets[rows.start]), int(positives.offsets[rows.stop]))
        offsets = positives.offsets[rows.start : rows.stop + 1] - positives.offsets[rows.start]
        block = _part(query, rows)
        similarity = _similarity(block.rows, gallery.rows)
        similarity[block.labels[:, None] == gallery.labels[None, :]] = -torch.inf
        for q in range(len(block.labels)):
            own = positives.similarity[part][offsets[q] : offsets[q + 1]]
            ordered = similarity[q].sort().values
            counted = len(ordered) - torch.searchsorted(ordered, own.contiguous())
            at_least[part][offsets[q] : offsets[q + 1]] = counted
            if len(own):
                tied[rows.start + q] = bool((similarity[q] == own[0]).any())
    return Negatives(at_least, tied)


def count_within(side: Side, positives: Positives, limit: Tensor) -> Negatives:
    """As `count_negatives` where the queries are the gallery: every product is counted for both of its images."""
    return count_negatives(side, side, positives, limit)


def _part(side: Side, rows: slice) -> Side:
    return Side(*(None if x is None else x[rows] for x in side))  # type: ignore[arg-type]


def _positives_in_block(query: Side, gallery: Side) -> Positives:
    wanted = query.labels[:, None] == gallery.labels[None, :]
    if query.identity is not None and gallery.identity is not None:
        wanted &= (query.identity[:, None] != gallery.identity[None, :]) | (query.identity[:, None] < 0)
    if query.groups is not None and gallery.groups is not None:
        wanted &= query.groups[:, None] != gallery.groups[None, :]
    counts = wanted.sum(1)
    similarity = torch.where(wanted, _similarity(query.rows, gallery.rows), -torch.inf)
    ordered = similarity.sort(1, descending=True).values[:, : int(counts.max())]
    place = torch.arange(ordered.shape[1], device=ordered.device)
    return Positives(ordered[place < counts[:, None]], torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def _similarity(query: Tensor, gallery: Tensor) -> Tensor:
    product: Tensor = _padded(query) @ _padded(gallery).T
    return product[: len(query), : len(gallery)]


def _padded(rows: Tensor) -> Tensor:
    missing = _SAFE_GEMM - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])

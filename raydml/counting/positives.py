"""The similarities of positives: products of each class with itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from raydml.counting.products import DEVICE_SIZE, MULTIPLE, product
from raydml.counting.sides import Positives, Side, gathered, sorted_by_class

# Of a product; fewer where classes are huge. A GPU has them filled up anyway.
_MOST_ROWS = 2 * MULTIPLE
# 16 MiB of float32; sixteen times as many on a GPU.
_MOST_ENTRIES = 2**22


class Band(NamedTuple):
    """Columns of a sorted gallery that have the class of each query: low ... high - 1. Both (Q,) int64."""

    low: Tensor
    high: Tensor


def band_of(query: Side, gallery: Side) -> Band:
    """The gallery must be sorted by class."""
    return Band(
        torch.searchsorted(gallery.labels, query.labels), torch.searchsorted(gallery.labels, query.labels, right=True)
    )


def positives_of(query: Side, gallery: Side) -> Positives:
    """The positives of each query in a gallery, or in a part of it. Queries may have none."""
    gallery, _ = sorted_by_class(gallery)
    query, order = sorted_by_class(query)
    band = band_of(query, gallery)
    found = [_positives_in(query, gallery, band, rows, columns) for rows, columns in _squares(band)]
    counts = torch.cat([counts for _, counts in found])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return gathered(Positives(torch.cat([similarity for similarity, _ in found]), offsets), order.argsort())


def _squares(band: Band) -> Iterator[tuple[slice, slice]]:
    """Consecutive queries, with the columns of all their classes: small enough to be held."""
    on_device = band.low.device.type == "cuda"
    most_rows, most_entries = (DEVICE_SIZE, 16 * _MOST_ENTRIES) if on_device else (_MOST_ROWS, _MOST_ENTRIES)
    low, high = band.low.tolist(), band.high.tolist()
    start = 0
    while start < len(low):
        stop = min(start + most_rows, len(low))
        while stop - start > MULTIPLE and (stop - start) * (high[stop - 1] - low[start]) > most_entries:
            stop = start + max(MULTIPLE, (stop - start) // 2)
        yield slice(start, stop), slice(low[start], high[stop - 1])
        start = stop


def _positives_in(query: Side, gallery: Side, band: Band, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """Similarities (T,), falling for each query, and their counts (n,)."""
    low, high = band.low[rows] - columns.start, band.high[rows] - columns.start
    width = int((high - low).max())
    if width == 0:
        return query.rows.new_zeros(0), low.new_zeros(len(low))
    place = torch.arange(width, device=low.device)
    column = (low[:, None] + place).clamp(max=columns.stop - columns.start - 1)
    wanted = low[:, None] + place < high[:, None]
    if query.identity is not None and gallery.identity is not None:
        own = query.identity[rows, None]
        wanted &= (gallery.identity[columns][column] != own) | (own < 0)
    if query.groups is not None and gallery.groups is not None:
        wanted &= gallery.groups[columns][column] != query.groups[rows, None]
    similarity = product(query.rows[rows], gallery.rows[columns]).gather(1, column)
    ordered = torch.where(wanted, similarity, -torch.inf).sort(1, descending=True).values
    counts = wanted.sum(1)
    return ordered[place < counts[:, None]], counts

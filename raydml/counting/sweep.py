"""Every query meets every row of a gallery, a tile of similarities at a time: memory of one tile, and of the counts."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from raydml.counting.compiled import CompiledTally
from raydml.counting.positives import Band, band_of
from raydml.counting.products import DEVICE_SIZE, cuts, filled
from raydml.counting.sides import Negatives, Positives, Side, gathered, sorted_by_class
from raydml.counting.tallies import Tally, TorchTally

# Rows and columns of a tile: its product runs at full speed, it stays in the caches, and little lies on the diagonal.
_TILE = 768
# Many threads need more at a time; so many times as much, 36 MiB.
_WIDEST = 4
# Products of a pair of rows from which it pays to load what is compiled: half a second.
_COMPILED_FROM = 2**24


def count_negatives(query: Side, gallery: Side, positives: Positives, limit: Tensor) -> Negatives:
    """Counts the negatives of a gallery, or of a part of it, at or above each positive.

    `limit` (Q,) int64 is the last rank that matters of each query: see `Negatives`.
    """
    gallery, _ = sorted_by_class(gallery)
    query, order = sorted_by_class(query)
    tally = _tally(query, len(gallery.labels), gathered(positives, order), limit[order])
    tiles = _Tiles(query, gallery)
    for rows in tiles.row_parts:
        for columns in tiles.column_parts:
            tally.add_rows(tiles.similarity(rows, columns), *_shape(rows, columns), rows.start)
    return _given_order(tally.result(), positives, order)


def count_within(side: Side, positives: Positives, limit: Tensor) -> Negatives:
    """As `count_negatives` where the queries are the gallery: every product is counted for both of its images.

    Half the products: a tile off the diagonal is counted along its rows and along its columns.
    """
    side, order = sorted_by_class(side)
    tally = _tally(side, len(side.labels), gathered(positives, order), limit[order])
    tiles = _Tiles(side, side)
    # Tiles of the diagonal come before those that are counted along columns: by then few thresholds are alive.
    for left, columns in enumerate(tiles.column_parts):
        for rows in tiles.row_parts[left:]:
            tile = tiles.similarity(rows, columns)
            tally.add_rows(tile, *_shape(rows, columns), rows.start)
            if rows != columns:
                tally.add_columns(tile, *_shape(rows, columns), columns.start)
    return _given_order(tally.result(), positives, order)


def _tally(query: Side, num_columns: int, positives: Positives, limit: Tensor) -> Tally:
    on_host = query.rows.device.type == "cpu" and query.rows.dtype == torch.float32
    if on_host and len(query.labels) * num_columns >= _COMPILED_FROM:
        return CompiledTally(positives, limit)
    return TorchTally(positives, limit)


def _shape(rows: slice, columns: slice) -> tuple[int, int]:
    return rows.stop - rows.start, columns.stop - columns.start


def _given_order(found: Negatives, positives: Positives, order: Tensor) -> Negatives:
    """Of sorted queries -> of queries as they were given, whose positives these are."""
    counts = positives.counts()[order]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    back = order.argsort()
    return Negatives(gathered(Positives(found.at_least, offsets), back).similarity, found.tied[back])


class _Tiles:
    """Products of sorted sides in one buffer."""

    def __init__(self, query: Side, gallery: Side) -> None:
        size = DEVICE_SIZE if query.rows.device.type == "cuda" else _TILE * min(_WIDEST, isqrt(torch.get_num_threads()))
        self._sides = query, gallery
        self.row_parts, self.column_parts = (cuts(len(side.labels), size) for side in self._sides)
        band = band_of(query, gallery)
        self._band = Band(band.low.cpu(), band.high.cpu())
        self._buffer = query.rows.new_empty(0)

    def similarity(self, rows: slice, columns: slice) -> Tensor:
        """Contiguous, valid until the next one; -inf where query and gallery row have one class."""
        a, b = (filled(side.rows[part]) for side, part in zip(self._sides, (rows, columns), strict=True))
        if len(self._buffer) < len(a) * len(b):
            self._buffer = a.new_empty(len(a) * len(b))
        tile = self._buffer[: len(a) * len(b)].view(len(a), len(b))
        torch.mm(a, b.T, out=tile)
        # By position, never by value: positives and the query itself must not be counted however they were rounded.
        left = max(columns.start, int(self._band.low[rows.start]))
        right = min(columns.stop, int(self._band.high[rows.stop - 1]))
        if left < right:
            own = self._sides[0].labels[rows, None] == self._sides[1].labels[None, left:right]
            tile[: own.shape[0], left - columns.start : right - columns.start].masked_fill_(own, -torch.inf)
        return tile

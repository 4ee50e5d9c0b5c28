"""Rows of a whole set by class: what distances and silhouettes are sums over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from raydml.metrics.inputs import Labels, Rows, checked_side
from raydml.neighbors import blocks
from raydml.splits import Indices


class Classes(NamedTuple):
    """Rows by class, and what the rows of each class add up to."""

    labels: Tensor
    """(C,) int64, rising."""
    place: Tensor
    """(N,) int64: the class of each row, in [0, C)."""
    sizes: Tensor
    """(C,) int64, rows of each class."""
    sums: Tensor
    """(C, D) float64, of unit rows."""
    squares: Tensor
    """(C,) float64, of squared lengths: the sizes, but for rows of zeros."""

    @property
    def means(self) -> Tensor:
        """(C, D) float64."""
        return self.sums / self.sizes[:, None]


def checked_set(rows: Rows, labels: Labels | None = None) -> tuple[Tensor, Tensor]:
    """Rows (N, D) and labels (N,) as all metrics take them; labels are zeros where there are none.

    Raises ValueError for other shapes, rows that are not finite and labels that are no integers.
    """
    y = torch.zeros(len(rows), dtype=torch.int64) if labels is None else labels
    side = checked_side(rows, y, None, "rows")
    return side.rows, side.labels


def checked_partition(labels: Labels, num_rows: int) -> Indices:
    """(N,) int64 on the host. Raises ValueError where they are no integers, or not one for each row."""
    y = torch.as_tensor(labels)
    if y.shape != (num_rows,) or y.dtype.is_floating_point or y.dtype == torch.bool:
        raise ValueError(f"labels must be ({num_rows},) integers, but got {y.dtype} {tuple(y.shape)}")
    found: Indices = y.cpu().to(torch.int64).numpy()
    return found


def unit_blocks(rows: Tensor, num_columns: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows (N, D) as float64 of unit length, as many as have room beside `num_columns` numbers each."""
    for part in blocks(len(rows), max(rows.shape[1], num_columns or 0)):
        yield part, torch.nn.functional.normalize(rows[part].double(), dim=1)


def classes_of(rows: Tensor, labels: Tensor) -> Classes:
    """Rows (N, D) by their labels (N,), on the device of the rows."""
    found, place, sizes = labels.unique(return_inverse=True, return_counts=True)
    sums = rows.new_zeros(len(found), rows.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(sums[:, 0])
    for part, unit in unit_blocks(rows):
        sums.index_add_(0, place[part], unit)
        squares.index_add_(0, place[part], unit.square().sum(1))
    return Classes(found, place, sizes, sums, squares)

"""Matrix products in which equal rows give equal bits, so that a tie is a tie in whichever product it is met.

Two products of other shapes may round the same sum differently: which kernel computes an entry depends on the shape
and, in what a kernel's own width leaves over, on the place. Seen with MKL: float32 below 16 rows or columns, float64 in
the last columns of any width that is no multiple of 12. So rows and columns are filled up with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLE = 48
"""Of the rows and columns of a product on a CPU: what the widths of its kernels divide."""

DEVICE_SIZE = 4096
"""Rows and columns of every product on a GPU, whose library chooses kernels by the shape."""


def filled(rows: Tensor) -> Tensor:
    """(n, D) -> (m, D): with rows of zeros up to what a product takes. No copy where it is full."""
    missing = (DEVICE_SIZE if rows.device.type == "cuda" else MULTIPLE) - len(rows)
    if rows.device.type != "cuda":
        missing %= MULTIPLE
    assert missing >= 0
    return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]) if missing else rows


def cuts(count: int, size: int) -> list[slice]:
    """Parts of a size, and what is left."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def product(query: Tensor, gallery: Tensor) -> Tensor:
    """(n, D), (m, D) -> (n, m); on a GPU n must not exceed `DEVICE_SIZE`."""
    size = DEVICE_SIZE if query.device.type == "cuda" else max(1, len(gallery))
    parts = [filled(query) @ filled(gallery[part]).T for part in cuts(len(gallery), size)]
    return torch.cat([part[: len(query)] for part in parts], 1)[:, : len(gallery)]

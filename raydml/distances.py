"""Pairwise similarities and distances of embeddings, in float32 or float64 whatever came in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """float64 stays; everything narrower becomes float32. Losses and metrics never run in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def unit_slices(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """(..., D) -> (..., D): consecutive slices of these sizes, all of one length, together of unit length.

    A slice of zeros stays zero.
    """
    runs = [(size, len(list(run))) for size, run in itertools.groupby(sizes)]
    blocks = rows.split([size * count for size, count in runs], -1)
    unit = [
        torch.nn.functional.normalize(block.unflatten(-1, (count, size)), dim=-1).flatten(-2)
        for block, (size, count) in zip(blocks, runs, strict=True)
    ]
    return torch.cat(unit, -1) / math.sqrt(len(sizes))


def outside_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within it products have the type of their factors, also where the caller runs under autocast."""
    # Asked first, because not every kind of device knows autocast.
    if device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, D), (..., M, D) -> (..., N, M), in full precision also where the caller runs under autocast."""
    a, b = full_precision(a), full_precision(b)
    with outside_autocast(a.device):
        return a @ b.mT


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of unit rows: (N, D), (M, D) -> (N, M)."""
    return inner_products(a, b)


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances: (N, D), (M, D) -> (N, M), never negative.

    Values below the rounding of the products that make them are zero, with zero gradient.
    """
    a, b = full_precision(a), full_precision(b)
    norms = a.square().sum(1, keepdim=True) + b.square().sum(1)
    squared = norms - 2.0 * inner_products(a, b)
    # |a|^2 + |b|^2 - 2ab carries a rounding error that grows with the length of its sums, measured below sqrt(D) / 2
    # units in the last place of |a|^2 + |b|^2.
    rounding = max(4.0, a.shape[1] ** 0.5) * torch.finfo(a.dtype).eps * norms
    return squared.masked_fill(squared <= rounding, 0.0)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Distances: (N, D), (M, D) -> (N, M); gradient 0, not NaN, where rows coincide."""
    # The root's derivative is infinite at zero, but zeros were filled in: the fill's backward drops what reaches them.
    return squared_euclidean(a, b).sqrt()

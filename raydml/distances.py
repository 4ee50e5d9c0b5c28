"""Pairwise similarities and distances of embeddings, in float32 or float64 whatever came in."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """float64 stays; everything narrower becomes float32. Losses and metrics never run in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of unit rows: (N, D), (M, D) -> (N, M)."""
    return full_precision(a) @ full_precision(b).T


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances: (N, D), (M, D) -> (N, M), never negative.

    Values below the rounding of the products that make them are zero, with zero gradient.
    """
    a, b = full_precision(a), full_precision(b)
    norms = a.square().sum(1, keepdim=True) + b.square().sum(1)
    squared = norms - 2.0 * (a @ b.T)
    # |a|^2 + |b|^2 - 2ab carries an error of a few units in the last place of |a|^2 + |b|^2.
    return torch.where(squared > 4.0 * torch.finfo(a.dtype).eps * norms, squared, 0.0)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Distances: (N, D), (M, D) -> (N, M); gradient 0, not NaN, where rows coincide."""
    squared = squared_euclidean(a, b)
    apart = squared > 0
    # The root of the inner `where` never sees a zero, whose derivative is infinite and would turn 0 * inf into NaN.
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)

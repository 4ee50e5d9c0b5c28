"""Which pairs of a batch are positive and negative, and sums over masked entries that never make a NaN."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Masks over ordered pairs (anchor, other) of a batch; the diagonal is in neither. Both (G, G) bool."""

    positive: Tensor
    negative: Tensor


def pairs_of(labels: Tensor) -> Pairs:
    """(G,) int64 labels -> masks of positive and negative pairs."""
    same = labels[:, None] == labels[None, :]
    negative = ~same
    return Pairs(same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), negative)


def masked_logsumexp(values: Tensor, mask: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Log-sum-exp over the entries of `mask` along `dim`, and where there was at least one.

    Lines without an entry give a harmless constant with zero gradient: the logsumexp of nothing is -inf and its
    gradient NaN, which no later `where` removes.
    """
    present = mask.any(dim, keepdim=True)
    filled = torch.where(mask, values, torch.where(present, -torch.inf, 0.0).to(values.dtype))
    return filled.logsumexp(dim), present.squeeze(dim)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries of `mask`; zero, connected to the graph, where there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)), exact everywhere: torch's own switches to the identity above 20, with an error of 2e-9."""
    return torch.logaddexp(z, torch.zeros_like(z))

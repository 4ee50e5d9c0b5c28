"""Which pairs of a batch are positive and negative, and sums over masked entries that never make a NaN."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class References(NamedTuple):
    """What anchors are compared with where it is not the batch: embeddings of earlier steps, or synthetic ones."""

    embeddings: Tensor
    """(M, D) unit rows."""

    labels: Tensor
    """(M,) int64; -1 where there is no embedding."""

    own: Tensor
    """(G,) or (G, k) int64: where each anchor's own copy lies, or its copies."""


class Pairs(NamedTuple):
    """Masks over pairs (anchor, reference); an anchor's own copy is in neither. Both (G, M) bool, M = G in a batch."""

    positive: Tensor
    negative: Tensor

    @property
    def valid(self) -> Tensor:
        """(G,) bool: anchors with a positive and a negative."""
        return some(self.positive, 1) & some(self.negative, 1)


def reference_rows(embeddings: Tensor, references: References | None) -> Tensor:
    """What the rows of a batch are compared with: (G, D) themselves, or (M, D)."""
    return embeddings if references is None else references.embeddings


def pairs_of(labels: Tensor, references: References | None = None) -> Pairs:
    """(G,) int64 labels -> masks of positive and negative pairs, within the batch or against references."""
    if references is None:
        same = labels[:, None] == labels[None, :]
        negative = ~same
        return Pairs(same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), negative)
    same = labels[:, None] == references.labels[None, :]
    return Pairs(same.scatter(1, references.own.view(len(labels), -1), False), ~same & (references.labels >= 0))


class Positives(NamedTuple):
    """The positives of every row, gathered into columns; rows that have fewer are padded."""

    columns: Tensor
    """(G, P) int64."""

    present: Tensor
    """(G, P) bool: a positive, not padding."""

    poison: Tensor
    """() 0, or NaN where a row has more than P: a wrong number must not look like a right one."""


def positives_of(positive: Tensor, max_positives: int | None) -> Positives:
    """(G, G) bool -> the positives of every row; without a bound on their number the device is asked for it."""
    counts = positive.sum(1)
    most = int(counts.max()) if max_positives is None else max_positives
    present, columns = positive.byte().topk(max(1, min(most, len(positive))), dim=1)
    return Positives(columns, present > 0, torch.where(counts.max() > present.shape[1], torch.nan, 0.0))


def some(mask: Tensor, dim: int, *, keepdim: bool = False) -> Tensor:
    """`mask.any(dim)`, on the CPU ten times as fast: bytes have a vectorised maximum."""
    return mask.view(torch.uint8).amax(dim, keepdim=keepdim).view(torch.bool)


def masked_logsumexp(values: Tensor, mask: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Log-sum-exp over the entries of `mask` along `dim`, and where there was at least one.

    Lines without an entry give a harmless constant with zero gradient: the logsumexp of nothing is -inf and its
    gradient NaN, which no later `where` removes.
    """
    present = some(mask, dim, keepdim=True)
    filled = torch.where(mask, values, torch.where(present, -torch.inf, 0.0).to(values.dtype))
    return filled.logsumexp(dim), present.squeeze(dim)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries of `mask`; zero, connected to the graph, where there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.count_nonzero().clamp(min=1)


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)), exact everywhere: torch's own switches to the identity above 20, with an error of 2e-9."""
    return -torch.nn.functional.logsigmoid(-z)

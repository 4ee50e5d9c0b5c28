"""What is counted: queries and galleries, the positives of queries, and the negatives at or above them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """Rows of queries or of a gallery, or of a part of one."""

    rows: Tensor
    """(n, D), float32 or float64, finite."""
    labels: Tensor
    """(n,) int64."""
    identity: Tensor | None = None
    """(n,) int64: a query does not find the row that has its identity, and none has a negative one. None: finds all."""
    groups: Tensor | None = None
    """(n,) int64, such as cameras: a query does not find rows of its class and group. None: finds all."""


class Positives(NamedTuple):
    """Similarities of the positives of Q queries, T in all."""

    similarity: Tensor
    """(T,) as the rows' type; query after query, falling within each."""
    offsets: Tensor
    """(Q + 1,) int64: those of query q are at offsets[q] ... offsets[q + 1] - 1."""

    def counts(self) -> Tensor:
        """(Q,) int64, R of each query."""
        return self.offsets.diff()


class Negatives(NamedTuple):
    """Negatives that push the positives down."""

    at_least: Tensor
    """(T,) int64: for each positive the negatives whose similarity is not smaller. Exact for the first positive of a
    query, and for positive i (from 1) where i + at_least <= limit; elsewhere a lower bound that exceeds limit - i."""
    tied: Tensor
    """(Q,) bool: a negative has exactly the similarity of the first positive."""


def sorted_by_class(side: Side) -> tuple[Side, Tensor]:
    """The rows in rising order of their labels, no copy where they are in it; and the row that each was (n,).

    All counting works on sorted sides: who counts one side again and again sorts it once.
    """
    if bool((side.labels.diff() >= 0).all()):
        return side, torch.arange(len(side.labels), device=side.labels.device)
    order = side.labels.argsort(stable=True)
    return Side(*(None if x is None else x[order] for x in side)), order  # type: ignore[arg-type]


def gathered(positives: Positives, order: Tensor) -> Positives:
    """The queries in another order (Q,): query order[i] becomes query i. No copy where nothing moves."""
    if bool((order == torch.arange(len(order), device=order.device)).all()):
        return positives
    counts = positives.counts()[order]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    moved = torch.repeat_interleave(positives.offsets[:-1][order] - offsets[:-1], counts)
    return Positives(positives.similarity[moved + torch.arange(len(moved), device=moved.device)], offsets)


def merged(parts: Sequence[Positives]) -> Positives:
    """The positives of all parts of a gallery. All parts have the same queries."""
    counts = torch.stack([part.counts() for part in parts])
    query = torch.cat([torch.repeat_interleave(torch.arange(len(c), device=c.device), c) for c in counts])
    similarity, order = torch.cat([part.similarity for part in parts]).sort(descending=True, stable=True)
    query, back = query[order].sort(stable=True)
    total = counts.sum(0)
    return Positives(similarity[back], torch.cat([total.new_zeros(1), total.cumsum(0)]))


def added(parts: Sequence[Negatives]) -> Negatives:
    """The negatives of all parts of a gallery."""
    return Negatives(
        torch.stack([part.at_least for part in parts]).sum(0), torch.stack([part.tied for part in parts]).any(0)
    )

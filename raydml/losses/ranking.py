"""Losses that smooth a retrieval metric: every image of the batch is a query, the others are its gallery.

Step functions become sigmoids s(x / T). The soft rank of a positive p of query q is
r_qp = 1 + sum_{z not q, p} s((S_qz - S_qp) / T): time is O(G^2 P), P being the positives of a query; memory is O(G^2),
because queries of large batches come in blocks, recomputed in the backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raydml.config import RecallAtKConfig, SmoothAPConfig
from raydml.distances import cosine
from raydml.losses.masking import Positives, masked_mean, pairs_of, positives_of
from raydml.losses.output import LossOutput, check_batch


class _Ranks(NamedTuple):
    """Soft ranks of the positives of every query."""

    overall: Tensor
    """(G, P): among all images but the query."""
    among_positives: Tensor
    """(G, P): among the query's positives."""
    positives: Positives


# Comparisons of one block of queries; 64 MiB in float32.
_LARGEST = 2**24


def _soft_ranks(embeddings: Tensor, labels: Tensor, temperature: float, max_positives: int | None) -> _Ranks:
    similarity = cosine(embeddings, embeddings)
    positives = positives_of(pairs_of(labels).positive, max_positives)
    own = similarity.gather(1, positives.columns)
    gallery = similarity.masked_fill(torch.eye(len(labels), dtype=torch.bool, device=labels.device), -torch.inf)
    padded = own.masked_fill(~positives.present, -torch.inf)
    # A positive compared with itself adds s(0) = 1/2 to the sums.
    return _Ranks(0.5 + _num_nearer(gallery, own, temperature), 0.5 + _num_nearer(padded, own, temperature), positives)


def _num_nearer(gallery: Tensor, own: Tensor, temperature: float) -> Tensor:
    """(G, M), (G, P) -> (G, P): softly, how many of a query's gallery are nearer than each of its positives."""

    def of_block(gallery: Tensor, own: Tensor) -> Tensor:
        return ((gallery[:, None, :] - own[:, :, None]) / temperature).sigmoid().sum(2)

    num_blocks = -(-gallery.numel() * own.shape[1] // _LARGEST)
    if num_blocks <= 1:
        return of_block(gallery, own)
    blocks = zip(gallery.tensor_split(num_blocks), own.tensor_split(num_blocks), strict=True)
    return torch.cat([checkpoint(of_block, *block, use_reentrant=False) for block in blocks])


class RecallAtKLoss(nn.Module):
    """Recall@k surrogate (Patel, Tolias, Matas 2022).

    1 - mean over ranks k and queries with a positive of (1 / |P_q|) sum_p s((k - r_qp) / T'), the soft share of a
    query's positives among its k nearest. As s(0) = 1/2, a positive exactly at rank k counts half. The authors' release
    differs from this formula of their paper: it divides by min(k, |P_q|) and keeps the query in its own gallery.
    """

    ranks: Tensor

    def __init__(self, config: RecallAtKConfig, *, max_positives: int | None = None) -> None:
        """`max_positives` bounds the positives of a query; None asks the device in every step."""
        super().__init__()
        self.config = config
        self.max_positives = max_positives
        ranks = torch.tensor(config.ranks, dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("ranks", ranks, persistent=False)

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, generator: torch.Generator | None = None, check: bool = False
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput, NaN where a query has more than `max_positives`.

        Deterministic; stats: mean soft rank of a positive.
        """
        del generator
        if check:
            check_batch(embeddings, labels)
        ranks = _soft_ranks(embeddings, labels, self.config.temperature, self.max_positives)
        recall = ((self.ranks - ranks.overall) / self.config.rank_temperature).sigmoid().mean(0)
        value, has_positive = _mean_over_positives(recall, ranks)
        mean_rank = masked_mean(ranks.overall.detach(), ranks.positives.present)
        return LossOutput(_one_minus(value, has_positive) + ranks.positives.poison, {"positive_rank": mean_rank})


class SmoothAPLoss(nn.Module):
    """Smooth-AP (Brown, Xie, Kalogeiton, Zisserman 2020, eq. 6).

    1 - mean over queries with a positive of (1 / |P_q|) sum_p (rank among the positives) / (rank among all), both soft.
    The query is neither its own positive nor in its own gallery, as in an evaluation.
    """

    def __init__(self, config: SmoothAPConfig, *, max_positives: int | None = None) -> None:
        """`max_positives` bounds the positives of a query; None asks the device in every step."""
        super().__init__()
        self.config = config
        self.max_positives = max_positives

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, generator: torch.Generator | None = None, check: bool = False
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput, NaN where a query has more than `max_positives`.

        Deterministic; stats: mean soft rank of a positive.
        """
        del generator
        if check:
            check_batch(embeddings, labels)
        ranks = _soft_ranks(embeddings, labels, self.config.temperature, self.max_positives)
        value, has_positive = _mean_over_positives(ranks.among_positives / ranks.overall, ranks)
        mean_rank = masked_mean(ranks.overall.detach(), ranks.positives.present)
        return LossOutput(_one_minus(value, has_positive) + ranks.positives.poison, {"positive_rank": mean_rank})


def _mean_over_positives(terms: Tensor, ranks: _Ranks) -> tuple[Tensor, Tensor]:
    """(G, P) -> (G,) means over a query's positives, and the queries that have one."""
    count = ranks.positives.present.sum(1)
    return torch.where(ranks.positives.present, terms, 0.0).sum(1) / count.clamp(min=1), count > 0


def _one_minus(per_query: Tensor, has_positive: Tensor) -> Tensor:
    """Zero where no query has a positive: there is nothing to lose."""
    return masked_mean(1.0 - per_query, has_positive)

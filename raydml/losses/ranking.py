"""Losses that smooth a retrieval metric: every image of the batch is a query, the others are its gallery.

Step functions become sigmoids s(x / T). The soft rank of a positive p of query q is
r_qp = 1 + sum_{z not q, p} s((S_qz - S_qp) / T): time is O(G^2 P), P being the positives of a query; memory is O(G^2),
because queries of large batches come in blocks, recomputed in the backward pass.
"""

from __future__ import annotations

from typing import NamedTuple, assert_never

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raydml.config import RecallAtKConfig, SmoothAPConfig
from raydml.distances import cosine
from raydml.losses.calling import on_batch
from raydml.losses.masking import Positives, masked_mean, pairs_of, positives_of
from raydml.losses.output import LossOutput


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


class RankingLoss(nn.Module):
    """Recall@k surrogate (Patel, Tolias, Matas 2022) or Smooth-AP (Brown, Xie, Kalogeiton, Zisserman 2020, eq. 6).

    1 - mean over queries with a positive of (1 / |P_q|) sum_p of, for the recall, the mean over ranks k of
    s((k - r_qp) / T'), the soft share of a query's positives among its k nearest; for the average precision, (rank
    among the positives) / (rank among all), both soft.

    As s(0) = 1/2, a positive exactly at rank k counts half. The release of Recall@k differs from the formula of its
    paper: it divides by min(k, |P_q|) and keeps the query in its own gallery. Here the query is neither its own
    positive nor in its own gallery, as in an evaluation.
    """

    ranks: Tensor

    def __init__(self, config: RecallAtKConfig | SmoothAPConfig, *, max_positives: int | None = None) -> None:
        """`max_positives` bounds the positives of a query; None asks the device in every step."""
        super().__init__()
        self.config = config
        self.max_positives = max_positives
        if isinstance(config, RecallAtKConfig):
            ranks = torch.tensor(config.ranks, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer("ranks", ranks, persistent=False)

    @on_batch
    def forward(self, embeddings: Tensor, labels: Tensor) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput, NaN where a query has more than `max_positives`.

        Deterministic; stats: mean soft rank of a positive.
        """
        found = _soft_ranks(embeddings, labels, self.config.temperature, self.max_positives)
        match self.config:
            case RecallAtKConfig(rank_temperature=temperature):
                terms = ((self.ranks - found.overall) / temperature).sigmoid().mean(0)
            case SmoothAPConfig():
                terms = found.among_positives / found.overall
            case _:
                assert_never(self.config)
        present = found.positives.present
        num_positives = present.sum(1)
        per_query = torch.where(present, terms, 0.0).sum(1) / num_positives.clamp(min=1)
        # Zero where no query has a positive: there is nothing to lose.
        value = masked_mean(1.0 - per_query, num_positives > 0) + found.positives.poison
        return LossOutput(value, {"positive_rank": masked_mean(found.overall.detach(), present)})

"""Margin-based Discriminate Loss, after the abstract of Sun, Tang, Bai (S+SSPR 2018).

RECONSTRUCTION. The formula of the paper is not public and no implementation of it is known; its abstract asks that
all positives and all negatives of a batch be strictly separated by a margin, without sampling. This module is raydml's
own reading of that sentence (specs/losses.md, section 1). No number of the paper can be compared with it.

For each anchor i with positives P_i and negatives N_i, similarity S, margin m and scale g:

    z_i = LSE_{n in N_i}(g S_in) + LSE_{p in P_i}(-g S_ip) + g m
    L_i = softplus(z_i) / g = (1/g) log(1 + sum_{p, n} exp(g (S_in - S_ip + m)))

the smooth form of "every positive is nearer than every negative, by m". The double sum is a product of two sums, so
the cost is O(G^2), never O(|P| |N|). L is the mean over anchors that have a positive and a negative.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydml.config import DiscriminateConfig
from raydml.distances import cosine, euclidean, squared_euclidean
from raydml.losses.calling import on_pairs
from raydml.losses.masking import Pairs, References, masked_logsumexp, masked_mean, pairs_of, reference_rows, softplus
from raydml.losses.output import LossOutput


class DiscriminateLoss(nn.Module):
    """Margin-based Discriminate Loss (reconstruction). See the module for the formula."""

    def __init__(self, config: DiscriminateConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: share of strictly separated anchors."""
        similarity = self._similarity(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        by_anchor = self.config.scope == "anchor"
        z, valid = self._gap(similarity, pairs) if by_anchor else self._gap(*_as_one_row(similarity, pairs))
        per_anchor = (softplus(z) if self.config.surrogate == "softplus" else z.relu()) / self.config.scale
        separated = _strictly_separated(similarity.detach(), pairs, self.config.margin)
        return LossOutput(masked_mean(per_anchor, valid), {"separated": separated})

    def _similarity(self, embeddings: Tensor, references: Tensor) -> Tensor:
        match self.config.similarity:
            case "cosine":
                return cosine(embeddings, references)
            case "euclidean":
                return -euclidean(embeddings, references)
            case "squared_euclidean":
                return -squared_euclidean(embeddings, references)

    def _gap(self, similarity: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """z (rows,) and the rows that have a positive and a negative."""
        scale = self.config.scale
        sharp_n = self.config.negative_scale or scale
        sharp_p = self.config.positive_scale or scale
        nearest_negative, has_negative = masked_logsumexp(sharp_n * similarity, pairs.negative, dim=1)
        farthest_positive, has_positive = masked_logsumexp(-sharp_p * similarity, pairs.positive, dim=1)
        z = scale * (nearest_negative / sharp_n + farthest_positive / sharp_p + self.config.margin)
        return z, has_negative & has_positive


def _as_one_row(similarity: Tensor, pairs: Pairs) -> tuple[Tensor, Pairs]:
    """All pairs of the batch as the pairs of one anchor."""
    return similarity.reshape(1, -1), Pairs(pairs.positive.reshape(1, -1), pairs.negative.reshape(1, -1))


def _strictly_separated(similarity: Tensor, pairs: Pairs, margin: float) -> Tensor:
    """Share of anchors whose farthest positive beats their nearest negative by more than the margin."""
    farthest_positive = similarity.masked_fill(~pairs.positive, torch.inf).amin(1)
    nearest_negative = similarity.masked_fill(~pairs.negative, -torch.inf).amax(1)
    return masked_mean((farthest_positive - nearest_negative > margin).to(similarity.dtype), pairs.valid)

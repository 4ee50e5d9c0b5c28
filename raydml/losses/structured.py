"""Losses on the structure of a batch beyond an anchor's own pairs: both ends of a pair, angles, distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from raydml.config import AngularConfig, HistogramConfig, LiftedStructureConfig
from raydml.distances import cosine, euclidean, inner_products
from raydml.losses.calling import on_pairs
from raydml.losses.masking import (
    Pairs,
    References,
    masked_logsumexp,
    masked_mean,
    pairs_of,
    positives_of,
    reference_rows,
    softplus,
    some,
)
from raydml.losses.output import LossOutput


class LiftedStructureLoss(nn.Module):
    """Lifted structure loss on Euclidean distances D, with margin m.

    `generalised` (Hermans et al. 2017, eq. 9): mean over anchors of [LSE_p(D_ip) + LSE_n(m - D_in)]_+.
    `original` (Song et al. 2016, eq. 4): mean over positive pairs of [LSE(m - D_in, m - D_pn') + D_ip]_+^2 / 2, n and
    n' running over the negatives of both ends: two sums per row instead of a matrix of positives x negatives.
    """

    def __init__(self, config: LiftedStructureConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: share of hinges that still cost."""
        distance = euclidean(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        near, has_negative = masked_logsumexp(self.config.margin - distance, pairs.negative, dim=1)
        if self.config.form == "generalised":
            far, has_positive = masked_logsumexp(distance, pairs.positive, dim=1)
            counted = has_positive & has_negative
            hinge = torch.where(counted, far + near, 0.0).relu()
            terms = hinge
        else:
            # Of a reference the negatives are the anchors of other classes; within the batch that is the same row.
            near_reference = near if references is None else self._near_references(distance, pairs)
            counted = pairs.positive & has_negative[:, None]
            both = torch.logaddexp(near[:, None], near_reference[None, :]) + distance
            hinge = torch.where(counted, both, 0.0).relu()
            terms = 0.5 * hinge.square()
        active = (hinge > 0).count_nonzero() / counted.count_nonzero().clamp(min=1)
        return LossOutput(masked_mean(terms, counted), {"active": active})

    def _near_references(self, distance: Tensor, pairs: Pairs) -> Tensor:
        """(M,): -inf, a sum of nothing, for references that have their class in common with every anchor."""
        near, has_negative = masked_logsumexp(self.config.margin - distance, pairs.negative, dim=0)
        return torch.where(has_negative, near, -torch.inf)


class AngularLoss(nn.Module):
    """Angular loss (Wang et al. 2017, eq. 8) over all positive pairs of the batch.

    Mean over positive pairs (a, p) of log(1 + sum_n exp(4 t (x_a + x_p) x_n - 2 (1 + t) x_a x_p)), t = tan^2 alpha. An
    exponential of a sum is a product, so the sum over n is a matrix product: no triplets. Against a memory the
    negatives come from the memory, the pairs from the batch.
    """

    def __init__(self, config: AngularConfig, *, max_positives: int | None = None) -> None:
        """`max_positives` bounds the positives of an anchor; None asks the device in every step."""
        super().__init__()
        self.config = config
        self.max_positives = max_positives

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput, NaN where an anchor has more than `max_positives`.

        Deterministic; stats: cosine of positive pairs.
        """
        tangent2 = math.tan(math.radians(self.config.angle_deg)) ** 2
        within = pairs_of(labels)
        similarity = cosine(embeddings, embeddings)
        if references is None:
            to_negatives, negative = similarity, within.negative
        else:
            to_negatives = cosine(embeddings, references.embeddings)
            negative = pairs_of(labels, references).negative
        positives = positives_of(within.positive, self.max_positives)
        of_pairs = similarity.gather(1, positives.columns)
        both = _log_sum_of_both_ends(4.0 * tangent2 * to_negatives, negative, positives.columns)
        counted = positives.present & some(negative, 1)[:, None]
        terms = softplus(torch.where(counted, both - 2.0 * (1.0 + tangent2) * of_pairs, 0.0))
        stats = {"positive_cosine": masked_mean(of_pairs.detach(), positives.present)}
        return LossOutput(masked_mean(terms, counted) + positives.poison, stats)


def _log_sum_of_both_ends(exponent: Tensor, negative: Tensor, columns: Tensor) -> Tensor:
    """(G, M), (G, M) bool, (G, P) -> (G, P): log sum_n exp(E_an + E_pn) for pairs (a, p); 0 where a has no negative.

    Both ends of a positive pair have the same negatives. With rows scaled by their maxima the sum of a pair is at least
    exp(-range of E), 4e-11 at the largest angle that the configuration allows: it cannot underflow.
    """
    top = exponent.detach().masked_fill(~negative, -torch.inf).amax(1)
    top = torch.where(top.isfinite(), top, 0.0)
    scaled = torch.where(negative, exponent - top[:, None], -torch.inf).exp()
    of_positives = scaled.index_select(0, columns.flatten()).unflatten(0, columns.shape)
    total = inner_products(of_positives, scaled[:, None, :]).squeeze(2)
    # Zero in padding and where there are no negatives: neither counts.
    return (
        torch.where(total > 0, total, 1.0).log() + top[:, None] + top.index_select(0, columns.flatten()).view_as(total)
    )


class HistogramLoss(nn.Module):
    """Histogram loss (Ustinova & Lempitsky 2016, eq. 2 to 5): the chance that a negative is nearer than a positive.

    Cosines fall linearly into the two nearest of `num_bins` + 1 nodes on [-1, 1]; with h+ and h- the histograms of
    positive and negative pairs, L = sum_r h-_r sum_{q <= r} h+_q.
    """

    def __init__(self, config: HistogramConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: mean cosines of both kinds of pairs."""
        similarity = cosine(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        place = (similarity.clamp(-1.0, 1.0) + 1.0) * (0.5 * self.config.num_bins)
        low = place.detach().floor().clamp(max=self.config.num_bins - 1)
        positive = self._histogram(place - low, low.long(), pairs.positive)
        negative = self._histogram(place - low, low.long(), pairs.negative)
        stats = {
            "positive_cosine": masked_mean(similarity.detach(), pairs.positive),
            "negative_cosine": masked_mean(similarity.detach(), pairs.negative),
        }
        return LossOutput((negative * positive.cumsum(0)).sum(), stats)

    def _histogram(self, fraction: Tensor, low: Tensor, mask: Tensor) -> Tensor:
        """(num_bins + 1,), of sum 1; of sum 0, with a graph, where the mask is empty."""
        # One by one, a million terms of float32 would lose up to a hundredth of their sum.
        upper = torch.where(mask, fraction, 0.0).flatten().double()
        lower = torch.where(mask, 1.0 - fraction, 0.0).flatten().double()
        empty = upper.new_zeros(self.config.num_bins + 1)
        filled = empty.index_add(0, low.flatten(), lower).index_add(0, low.flatten() + 1, upper)
        return (filled / mask.count_nonzero().clamp(min=1)).to(fraction.dtype)

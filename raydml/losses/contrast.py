"""Losses that contrast each anchor's positives with all of its negatives on cosines, by log-sum-exp: O(G^2).

S is the matrix of cosines, P_i and N_i are the positives and negatives of anchor i.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydml.config import CircleConfig, MultiSimilarityConfig, NPairConfig, NTXentConfig, SupConConfig
from raydml.distances import cosine
from raydml.losses.calling import on_pairs
from raydml.losses.masking import (
    Pairs,
    References,
    masked_logsumexp,
    masked_mean,
    pairs_of,
    reference_rows,
    softplus,
)
from raydml.losses.output import LossOutput


def _cosines(embeddings: Tensor, labels: Tensor, references: References | None) -> tuple[Tensor, Pairs]:
    return cosine(embeddings, reference_rows(embeddings, references)), pairs_of(labels, references)


class NPairLoss(nn.Module):
    """N-pair loss (Sohn 2016, eq. 7), for any number of images of a class.

    Mean over positive pairs of log(1 + sum over the other classes c of mean_{n in c} exp(g (S_in - S_ip))): each other
    class counts once, as in the paper, where it brings one image.
    """

    def __init__(self, config: NPairConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: cosine of positive pairs."""
        similarity, pairs = _cosines(embeddings, labels, references)
        share = _class_sizes(labels if references is None else references.labels).to(similarity.dtype).log()
        value = _per_positive(self.config.scale * similarity, pairs, negative_offset=-share)
        return LossOutput(value, {"positive_cosine": masked_mean(similarity.detach(), pairs.positive)})


def _class_sizes(labels: Tensor) -> Tensor:
    """(M,) -> (M,): how many of the labels equal each."""
    ordered = labels.sort().values
    return torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)


def _per_positive(logits: Tensor, pairs: Pairs, *, negative_offset: Tensor | None = None) -> Tensor:
    """Mean over positive pairs of the cross-entropy of the positive among itself and the anchor's negatives."""
    negatives = logits if negative_offset is None else logits + negative_offset
    against, has_negative = masked_logsumexp(negatives, pairs.negative, dim=1)
    terms = softplus(torch.where(pairs.positive, against[:, None] - logits, 0.0))
    return masked_mean(terms, pairs.positive & has_negative[:, None])


class NTXentLoss(nn.Module):
    """NT-Xent (Chen et al. 2020, eq. 1), for any number of positives.

    Mean over positive pairs of -log(e^(S_ip/T) / (e^(S_ip/T) + sum_{n in N_i} e^(S_in/T))).
    """

    def __init__(self, config: NTXentConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: cosine of positive pairs."""
        similarity, pairs = _cosines(embeddings, labels, references)
        value = _per_positive(similarity / self.config.temperature, pairs)
        return LossOutput(value, {"positive_cosine": masked_mean(similarity.detach(), pairs.positive)})


class SupConLoss(nn.Module):
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2).

    Mean over anchors that have a positive of mean_{p in P_i} -log(e^(S_ip/T) / sum_{j != i} e^(S_ij/T)).
    """

    def __init__(self, config: SupConConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: cosine of positive pairs."""
        similarity, pairs = _cosines(embeddings, labels, references)
        logits = similarity / self.config.temperature
        everything, _ = masked_logsumexp(logits, pairs.positive | pairs.negative, dim=1)
        num_positives = pairs.positive.sum(1)
        attraction = torch.where(pairs.positive, logits, 0.0).sum(1) / num_positives.clamp(min=1)
        value = masked_mean(everything - attraction, num_positives > 0)
        return LossOutput(value, {"positive_cosine": masked_mean(similarity.detach(), pairs.positive)})


class MultiSimilarityLoss(nn.Module):
    """Multi-similarity loss (Wang et al. 2019, eq. 15) over the pairs that its miner keeps (eq. 11 and 12).

    Mean over all anchors of (1/a) log(1 + sum_p e^(-a (S_ip - l))) + (1/b) log(1 + sum_n e^(b (S_in - l))). The miner
    keeps positives less similar than the nearest negative + epsilon, and negatives more similar than the farthest
    positive - epsilon.
    """

    def __init__(self, config: MultiSimilarityConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: shares of pairs that the miner keeps."""
        similarity, pairs = _cosines(embeddings, labels, references)
        kept = pairs if self.config.epsilon is None else _hard_pairs(similarity.detach(), pairs, self.config.epsilon)
        alpha, beta, base = self.config.alpha, self.config.beta, self.config.base
        pulled, has_positive = masked_logsumexp(alpha * (base - similarity), kept.positive, dim=1)
        pushed, has_negative = masked_logsumexp(beta * (similarity - base), kept.negative, dim=1)
        per_anchor = (
            torch.where(has_positive, softplus(pulled), 0.0) / alpha
            + torch.where(has_negative, softplus(pushed), 0.0) / beta
        )
        stats = {
            "kept_positives": kept.positive.count_nonzero() / pairs.positive.count_nonzero().clamp(min=1),
            "kept_negatives": kept.negative.count_nonzero() / pairs.negative.count_nonzero().clamp(min=1),
        }
        return LossOutput(per_anchor.mean(), stats)


def _hard_pairs(similarity: Tensor, pairs: Pairs, epsilon: float) -> Pairs:
    """Pairs within epsilon of the anchor's hardest pair of the other kind; none where it has no such pair."""
    farthest_positive = similarity.masked_fill(~pairs.positive, torch.inf).amin(1, keepdim=True)
    nearest_negative = similarity.masked_fill(~pairs.negative, -torch.inf).amax(1, keepdim=True)
    return Pairs(
        pairs.positive & (similarity < nearest_negative + epsilon),
        pairs.negative & (similarity > farthest_positive - epsilon),
    )


class CircleLoss(nn.Module):
    """Circle loss (Sun et al. 2020, eq. 6 to 8).

    Mean over anchors with a positive and a negative of log(1 + sum_n e^(g a_n (S_in - m)) sum_p e^(-g a_p (S_ip - 1 +
    m))), with the weights a_n = [S_in + m]_+ and a_p = [1 + m - S_ip]_+ taken as constants.
    """

    def __init__(self, config: CircleConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: cosine of positive pairs."""
        similarity, pairs = _cosines(embeddings, labels, references)
        margin, scale, constant = self.config.margin, self.config.scale, similarity.detach()
        pull = -scale * (1.0 + margin - constant).relu() * (similarity - (1.0 - margin))
        push = scale * (constant + margin).relu() * (similarity - margin)
        pulled, has_positive = masked_logsumexp(pull, pairs.positive, dim=1)
        pushed, has_negative = masked_logsumexp(push, pairs.negative, dim=1)
        value = masked_mean(softplus(pulled + pushed), has_positive & has_negative)
        return LossOutput(value, {"positive_cosine": masked_mean(constant, pairs.positive)})

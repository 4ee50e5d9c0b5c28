"""Losses on pairs and triplets of a batch, in matrix form: no index tuples, no shape that depends on the labels.

All take Euclidean distances of unit embeddings, and average over the terms that are not zero, so that solved pairs do
not dilute the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydml.config import ContrastiveConfig, MarginConfig, TripletConfig
from raydml.distances import euclidean
from raydml.losses.masking import Pairs, References, masked_mean, pairs_of, reference_rows
from raydml.losses.mining import sample_negatives
from raydml.losses.output import LossOutput, check_batch

# Negatives drawn for an anchor. With more positives than that in a batch, some share a draw.
_MOST_DRAWS = 64


class ContrastiveLoss(nn.Module):
    """Contrastive loss (Hadsell, Chopra, LeCun 2006), linear in the distance as the Reality Check tuned it.

    mean+ [D_ip - m_p]_+ + mean+ [m_n - D_in]_+, each mean over its non-zero terms.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: References | None = None,
        generator: torch.Generator | None = None,
        check: bool = False,
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: shares of pairs that still cost."""
        del generator
        if check:
            check_batch(embeddings, labels)
        distance = euclidean(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        positive = torch.where(pairs.positive, distance - self.config.positive_margin, 0.0).relu()
        negative = torch.where(pairs.negative, self.config.negative_margin - distance, 0.0).relu()
        value = masked_mean(positive, positive > 0) + masked_mean(negative, negative > 0)
        stats = {
            "active_positives": (positive > 0).sum() / pairs.positive.sum().clamp(min=1),
            "active_negatives": (negative > 0).sum() / pairs.negative.sum().clamp(min=1),
        }
        return LossOutput(value, stats)


class TripletLoss(nn.Module):
    """Triplet loss (Schroff et al. 2015), [D_ap - D_an + m]_+ over the triplets that `mining` keeps.

    `all` and `semi_hard` sort the negatives of each anchor once and take sums over triplets from prefix sums:
    O(G^2 log G) for any number of triplets. `hardest` is batch-hard (Hermans et al. 2017).
    """

    def __init__(self, config: TripletConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: References | None = None,
        generator: torch.Generator | None = None,
        check: bool = False,
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: share of triplets that still cost."""
        del generator
        if check:
            check_batch(embeddings, labels)
        distance = euclidean(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        if self.config.mining == "hardest":
            return self._hardest(distance, pairs)
        return self._all(distance, pairs, semi_hard=self.config.mining == "semi_hard")

    def _all(self, distance: Tensor, pairs: Pairs, *, semi_hard: bool) -> LossOutput:
        sorted_negatives = torch.where(pairs.negative, distance, torch.inf).sort(1).values
        prefix = nn.functional.pad(sorted_negatives.cumsum(1), (1, 0))
        # Below this bound a negative costs; pairs that are no positives get a bound below every distance.
        bound = torch.where(pairs.positive, distance + self.config.margin, -1.0)
        count = torch.searchsorted(sorted_negatives.detach(), bound.detach())
        total = prefix.gather(1, count)
        if semi_hard:
            own = torch.where(pairs.positive, distance, -1.0).detach()
            # A negative margin cannot be configured, so the nearer negatives are always among the counted ones.
            nearer = torch.searchsorted(sorted_negatives.detach(), own, right=True).minimum(count)
            count, total = count - nearer, total - prefix.gather(1, nearer)
        num_triplets = (pairs.positive.sum(1) * pairs.negative.sum(1)).sum()
        num_active = count.sum()
        value = (count * bound - total).sum() / num_active.clamp(min=1)
        return LossOutput(value, {"active_triplets": num_active / num_triplets.clamp(min=1)})

    def _hardest(self, distance: Tensor, pairs: Pairs) -> LossOutput:
        valid = pairs.valid
        farthest_positive = torch.where(pairs.positive, distance, 0.0).amax(1)
        nearest_negative = torch.where(pairs.negative, distance, torch.inf).amin(1)
        hinge = torch.where(valid, farthest_positive - nearest_negative + self.config.margin, 0.0).relu()
        active = hinge > 0
        return LossOutput(masked_mean(hinge, active), {"active_triplets": active.sum() / valid.sum().clamp(min=1)})


class MarginLoss(nn.Module):
    """Margin loss with distance-weighted sampling (Wu et al. 2017).

    For every positive pair (a, p) one negative n is drawn; L is the sum of [D_ap - beta + alpha]_+ and
    [beta - D_an + alpha]_+ over these triplets, divided by the number of non-zero terms.
    """

    def __init__(self, config: MarginConfig, *, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.embedding_dim = embedding_dim
        beta = torch.full((num_classes if config.learn_beta == "per_class" else 1,), config.beta)
        self.beta = nn.Parameter(beta, requires_grad=config.learn_beta != "fixed")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: References | None = None,
        generator: torch.Generator | None = None,
        check: bool = False,
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Draws from `generator`; stats: beta, share of active terms."""
        if check:
            per_class = self.config.learn_beta == "per_class"
            check_batch(embeddings, labels, num_classes=len(self.beta) if per_class else None)
        distance = euclidean(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        num_draws = min(_MOST_DRAWS, distance.shape[1])
        draws, has_negative = sample_negatives(
            distance,
            pairs.negative,
            num_draws=num_draws,
            embedding_dim=self.embedding_dim,
            cutoff=self.config.cutoff,
            nonzero_cutoff=self.config.nonzero_cutoff,
            generator=generator,
        )
        # The first positive of an anchor takes the first draw, and so on.
        index = draws.gather(1, (pairs.positive.cumsum(1) - 1) % num_draws)
        drawn = pairs.positive & has_negative[:, None]
        beta = (self.beta[labels] if self.config.learn_beta == "per_class" else self.beta)[:, None]
        excess = torch.stack([distance - beta, beta - distance.gather(1, index)]) + self.config.margin
        terms = torch.where(drawn, excess, 0.0).relu()
        num_active = (terms > 0).sum()
        value = terms.sum() / num_active.clamp(min=1)
        stats = {"beta": self.beta.detach().mean(), "active_terms": num_active / (2 * drawn.sum()).clamp(min=1)}
        return LossOutput(value, stats)

"""Losses on pairs and triplets of a batch, in matrix form: no index tuples, no shape that depends on the labels.

All take Euclidean distances of unit embeddings, and average over the terms that are not zero, so that solved pairs do
not dilute the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydml.config import ContrastiveConfig, MarginConfig, TripletConfig
from raydml.distances import euclidean
from raydml.losses.calling import on_pairs
from raydml.losses.masking import Pairs, References, masked_mean, pairs_of, reference_rows
from raydml.losses.mining import sample_negatives
from raydml.losses.output import LossOutput, check_batch
from raydml.losses.view import View, root_mean_square

# Negatives drawn for an anchor: with more positives than that, in a batch or a memory, some share a draw.
_MOST_DRAWS = 64


class ContrastiveLoss(nn.Module):
    """Contrastive loss (Hadsell, Chopra, LeCun 2006), linear in the distance as the Reality Check tuned it.

    mean+ [D_ip - m_p]_+ + mean+ [m_n - D_in]_+, each mean over its non-zero terms.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: shares of pairs that still cost."""
        distance = euclidean(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        pull, push = distance - self.config.positive_margin, self.config.negative_margin - distance
        # Converted once: products of different types convert in each product, forward and backward.
        pulls = (pairs.positive & (pull > 0)).to(distance.dtype)
        pushes = (pairs.negative & (push > 0)).to(distance.dtype)
        num_pulls, num_pushes = pulls.sum(), pushes.sum()
        value = (pulls * pull).sum() / num_pulls.clamp(min=1) + (pushes * push).sum() / num_pushes.clamp(min=1)
        stats = {
            "active_positives": num_pulls / pairs.positive.count_nonzero().clamp(min=1),
            "active_negatives": num_pushes / pairs.negative.count_nonzero().clamp(min=1),
        }
        return LossOutput(value, stats)


class TripletLoss(nn.Module):
    """Triplet loss (Schroff et al. 2015), [D_ap - D_an + m]_+ over the triplets that `mining` keeps.

    `all` and `semi_hard` count, for each pair, the triplets that cost: from the sorted positives of each anchor, in
    O(G^2 log G) for any number of triplets. The loss is then linear in the distances. `hardest` is batch-hard (Hermans
    et al. 2017).
    """

    def __init__(self, config: TripletConfig) -> None:
        super().__init__()
        self.config = config

    @on_pairs
    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: share of triplets that still cost."""
        distance = euclidean(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        if self.config.mining == "hardest":
            return self._hardest(distance, pairs)
        return self._all(distance, pairs, semi_hard=self.config.mining == "semi_hard")

    def _all(self, distance: Tensor, pairs: Pairs, *, semi_hard: bool) -> LossOutput:
        pulled, pushed = self._uses(distance.detach(), pairs, semi_hard=semi_hard)
        num_triplets = (pairs.positive.sum(1) * pairs.negative.sum(1)).sum()
        num_active = pushed.sum()
        # With `alpha`, because a number times int64 is float32, whatever the distances are.
        total = torch.add(((pulled - pushed) * distance).sum(), num_active, alpha=self.config.margin)
        return LossOutput(total / num_active.clamp(min=1), {"active_triplets": num_active / num_triplets.clamp(min=1)})

    def _uses(self, distance: Tensor, pairs: Pairs, *, semi_hard: bool) -> tuple[Tensor, Tensor]:
        """In how many triplets that cost a pair is the positive one, and in how many the negative one; both (G, M).

        Of an anchor's positives in rising order those that cost with a negative are first, first + 1, ... last - 1:
        from the one that reaches the negative with the margin, to the one that would be beyond it, or to the end.
        """
        num_columns = distance.shape[1]
        # Few positives behind equal entries: on the CPU that sorts nine times faster than the negatives would.
        positives, column = torch.where(pairs.positive, distance, -torch.inf).sort(1)
        first = torch.searchsorted(positives + self.config.margin, distance, right=True)
        first = first.masked_fill(~pairs.negative, num_columns)
        ones, zeros = distance.new_ones(()).expand(distance.shape), distance.new_zeros(len(distance), num_columns + 1)
        starts = zeros.scatter_add(1, first, ones)
        last = torch.full_like(first, num_columns)
        if semi_hard:
            # Without a margin every negative that costs is nearer than the positive: then none is semi-hard.
            last = torch.searchsorted(positives, distance).maximum(first)
            starts = starts.scatter_add(1, last, -ones)
        uses = starts.cumsum(1)[:, :-1]
        return torch.zeros_like(distance).scatter(1, column, uses), last - first

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
    [beta - D_an + alpha]_+ over these triplets, divided by the number of non-zero terms. An anchor draws
    64 negatives at most; of its further positives each shares the draw of an earlier one.
    """

    def __init__(self, config: MarginConfig, *, num_classes: int, embedding_dim: int, num_learners: int = 1) -> None:
        super().__init__()
        self.config = config
        self.embedding_dim = embedding_dim
        beta = torch.full((num_learners, num_classes if config.learn_beta == "per_class" else 1), config.beta)
        self.beta = nn.Parameter(beta, requires_grad=config.learn_beta != "fixed")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: References | None = None,
        generator: torch.Generator | None = None,
        check: bool = False,
        view: View | None = None,
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Draws from `generator`; stats: beta, share of active terms."""
        if check:
            per_class = self.config.learn_beta == "per_class"
            check_batch(
                embeddings,
                labels,
                num_classes=self.beta.shape[1] if per_class else None,
                embedding_dim=self.embedding_dim,
            )
        if view is not None:
            embeddings, references = view.project(embeddings), view.references(references)
        distance = euclidean(embeddings, reference_rows(embeddings, references))
        pairs = pairs_of(labels, references)
        num_draws = min(_MOST_DRAWS, distance.shape[1])
        draws, has_negative = sample_negatives(
            distance,
            pairs.negative,
            num_draws=num_draws,
            embedding_dim=embeddings.shape[1],
            cutoff=self.config.cutoff,
            nonzero_cutoff=self.config.nonzero_cutoff,
            generator=generator,
        )
        boundary = root_mean_square(self.beta, view)
        beta = nn.functional.embedding(labels, boundary) if self.config.learn_beta == "per_class" else boundary
        drawn = pairs.positive & has_negative[:, None]
        num_drawn = drawn.sum(1, keepdim=True)
        # The first positive of an anchor takes the first draw, and so on: (G, num_draws) positives of each draw.
        uses = (num_drawn + torch.arange(num_draws - 1, -1, -1, device=distance.device)) // num_draws
        pull, push = distance - beta, beta - distance.gather(1, draws)
        pulls, pushes = drawn & (pull > -self.config.margin), uses * (push > -self.config.margin)
        num_active = pulls.count_nonzero() + pushes.sum()
        # With `alpha`, because a number times int64 is float32, whatever the distances are.
        total = torch.add((pulls * pull).sum() + (pushes * push).sum(), num_active, alpha=self.config.margin)
        stats = {
            "beta": boundary.detach().mean(),
            "active_terms": num_active / (2 * num_drawn.sum()).clamp(min=1),
        }
        return LossOutput(total / num_active.clamp(min=1), stats)

"""Losses on pairs, triplets and all pairs of a batch. Formulas, sources and shapes are in `raydml.losses`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raydml.config.base import Model


class MemoryConfig(Model):
    """Cross-batch memory (Wang et al. 2020): embeddings of the last steps as further references of every anchor."""

    size: int = Field(default=0, ge=0)
    """Embeddings that are kept, at least a batch; 0 is no memory."""

    weight: float = Field(default=1.0, gt=0.0)
    """Weight of the loss against the memory, beside the loss within the batch."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the memory fills but does not count: the first embeddings drift too fast."""


class PairLoss(Model):
    """What every loss on pairs has: an optional memory."""

    memory: MemoryConfig = MemoryConfig()
    """Cross-batch memory; none where its size is 0."""


class DiscriminateConfig(PairLoss):
    """Margin-based Discriminate Loss; a reconstruction (the paper's formula is not public)."""

    kind: Literal["discriminate"]

    margin: float = Field(default=0.2, ge=0.0, le=2.0)
    """Gap between the farthest positive and the nearest negative, in units of the similarity."""

    scale: float = Field(default=16.0, gt=0.0)
    """Sharpness gamma: the larger, the more the hardest pairs dominate."""

    scope: Literal["anchor", "batch"] = "anchor"
    """Pairs are compared within each anchor, or all pairs of the batch with each other."""

    similarity: Literal["cosine", "euclidean", "squared_euclidean"] = "cosine"
    """Cosine, or minus a distance; then `margin` is a distance (or its square)."""

    surrogate: Literal["softplus", "hinge"] = "softplus"
    """Smooth, or zero as soon as the smooth gap reaches the margin."""

    positive_scale: float | None = Field(default=None, gt=0.0)
    """Own sharpness of the positives; `scale` where None."""

    negative_scale: float | None = Field(default=None, gt=0.0)
    """Own sharpness of the negatives; `scale` where None."""


class ContrastiveConfig(PairLoss):
    """Contrastive loss (Hadsell, Chopra, LeCun 2006) with a margin on both sides, on Euclidean distances."""

    kind: Literal["contrastive"]

    positive_margin: float = Field(default=0.0, ge=0.0, le=2.0)
    """Positives nearer than this cost nothing."""

    negative_margin: float = Field(default=0.5, ge=0.0, le=2.0)
    """Negatives farther than this cost nothing."""

    @model_validator(mode="after")
    def _margins_are_ordered(self) -> ContrastiveConfig:
        if self.positive_margin > self.negative_margin:
            raise ValueError(
                "positive_margin must not exceed negative_margin, "
                f"but got positive_margin={self.positive_margin}, negative_margin={self.negative_margin}"
            )
        return self


class TripletConfig(PairLoss):
    """Triplet loss (Schroff et al. 2015; batch-hard: Hermans et al. 2017) on Euclidean distances."""

    kind: Literal["triplet"]

    margin: float = Field(default=0.1, ge=0.0, le=2.0)
    """Required gap between the negative and the positive distance."""

    mining: Literal["all", "semi_hard", "hardest"] = "all"
    """All triplets; negatives beyond the positive but inside the margin; or the hardest of each anchor."""


class MarginConfig(PairLoss):
    """Margin loss with distance-weighted sampling (Wu et al. 2017) on Euclidean distances."""

    kind: Literal["margin"]

    margin: float = Field(default=0.2, ge=0.0, le=2.0)
    """Half width alpha of the band around the boundary beta in which pairs still cost."""

    beta: float = Field(default=1.2, gt=0.0, le=2.0)
    """Boundary between positive and negative distances (its start, where it is learned)."""

    learn_beta: Literal["fixed", "shared", "per_class"] = "fixed"
    """Keep beta, learn one, or learn one for each class."""

    cutoff: float = Field(default=0.5, gt=0.0, lt=2.0)
    """Distances below this are sampled as if they were this far: bounds the weight of noisy negatives."""

    nonzero_cutoff: float = Field(default=1.4, gt=0.0, le=2.0)
    """Negatives at or beyond this distance are never sampled."""

    @model_validator(mode="after")
    def _cutoffs_are_ordered(self) -> MarginConfig:
        if self.cutoff >= self.nonzero_cutoff:
            raise ValueError(
                "cutoff must be below nonzero_cutoff, "
                f"but got cutoff={self.cutoff}, nonzero_cutoff={self.nonzero_cutoff}"
            )
        return self

"""Losses that compare all pairs of a batch through log-sum-exps. Formulas and sources are in `raydml.losses`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raydml.config.losses.pair import PairLoss


class LiftedStructureConfig(PairLoss):
    """Lifted structure loss (Song et al. 2016), or its generalisation to several positives (Hermans et al. 2017)."""

    kind: Literal["lifted_structure"]

    margin: float = Field(default=1.0, ge=0.0, le=2.0)
    """Euclidean distance up to which negatives are pushed."""

    form: Literal["generalised", "original"] = "generalised"
    """A hinge for each anchor; or a squared one for each positive pair, with the negatives of both ends."""


class NPairConfig(PairLoss):
    """N-pair loss (Sohn 2016) on cosines: each other class counts once, whatever its images."""

    kind: Literal["n_pair"]

    scale: float = Field(default=16.0, gt=0.0)
    """Inverse temperature. The paper has none and leaves embeddings unnormalised; unit rows need one."""


class NTXentConfig(PairLoss):
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020): each positive against all negatives."""

    kind: Literal["nt_xent"]

    temperature: float = Field(default=0.07, gt=0.0)
    """Divides the cosines."""


class SupConConfig(PairLoss):
    """Supervised contrastive loss (Khosla et al. 2020), the outer sum: positives compete with each other too."""

    kind: Literal["supcon"]

    temperature: float = Field(default=0.1, gt=0.0)
    """Divides the cosines."""


class MultiSimilarityConfig(PairLoss):
    """Multi-similarity loss with its miner (Wang et al. 2019)."""

    kind: Literal["multi_similarity"]

    alpha: float = Field(default=2.0, gt=0.0)
    """Sharpness of the positives."""

    beta: float = Field(default=50.0, gt=0.0)
    """Sharpness of the negatives."""

    base: float = Field(default=0.5, ge=-1.0, le=1.0)
    """Cosine lambda that positives should exceed and negatives stay below."""

    epsilon: float | None = Field(default=0.1, ge=0.0)
    """The miner keeps pairs within this cosine of the hardest opposite pair; no miner where None."""


class CircleConfig(PairLoss):
    """Circle loss (Sun et al. 2020)."""

    kind: Literal["circle"]

    margin: float = Field(default=0.4, ge=0.0, lt=1.0)
    """Relaxation m: positives aim beyond a cosine of 1 - m, negatives below m."""

    scale: float = Field(default=80.0, gt=0.0)
    """Scale gamma of the exponents."""


class AngularConfig(PairLoss):
    """Angular loss (Wang et al. 2017) over all positive pairs."""

    kind: Literal["angular"]

    angle_deg: float = Field(default=40.0, gt=0.0, le=60.0)
    """Largest angle alpha at the negative of a triplet, in degrees."""


class HistogramConfig(PairLoss):
    """Histogram loss (Ustinova & Lempitsky 2016): the chance that a negative pair is nearer than a positive one."""

    kind: Literal["histogram"]

    num_bins: int = Field(default=100, ge=2)
    """Bins of the cosine between -1 and 1."""

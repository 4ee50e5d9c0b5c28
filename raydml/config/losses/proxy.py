"""Losses that compare embeddings with learned proxies of the classes. Formulas and sources are in `raydml.losses`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raydml.config.base import Model


class ProxyNCAConfig(Model):
    """Proxy-NCA (Movshovitz-Attias et al. 2017) and Proxy-NCA++ (Teh et al. 2020)."""

    kind: Literal["proxy_nca"]

    scale: float = Field(default=9.0, gt=0.0)
    """Inverse temperature of the squared distances; 1 in Proxy-NCA, 9 in Proxy-NCA++."""

    form: Literal["plus_plus", "original"] = "plus_plus"
    """Whether the own proxy is in the denominator, which makes the quotient a probability."""


class ProxyAnchorConfig(Model):
    """Proxy-Anchor loss (Kim et al. 2020)."""

    kind: Literal["proxy_anchor"]

    margin: float = Field(default=0.1, ge=0.0, le=1.0)
    """Margin delta on the cosine between embedding and proxy."""

    scale: float = Field(default=32.0, gt=0.0)
    """Scale alpha of the exponents."""


class SoftTripleConfig(Model):
    """SoftTriple loss (Qian et al. 2019): several centres for each class."""

    kind: Literal["soft_triple"]

    centers_per_class: int = Field(default=10, ge=1)
    """Centres of a class."""

    scale: float = Field(default=20.0, gt=0.0)
    """Scale lambda of the class similarities."""

    assignment_scale: float = Field(default=10.0, gt=0.0)
    """Sharpness of the choice among the centres of a class: 1 / gamma of the paper, whose gamma is a temperature."""

    margin: float = Field(default=0.01, ge=0.0, le=2.0)
    """Margin delta of the own class."""

    regularizer_weight: float = Field(default=0.2, ge=0.0)
    """Weight tau of the mean distance of a class's centres, which merges those that are not needed."""


class NormalisedSoftmaxConfig(Model):
    """Softmax over cosines to one weight vector for each class (Wang et al. 2017; Zhai & Wu 2019)."""

    kind: Literal["normalised_softmax"]

    temperature: float = Field(default=0.05, gt=0.0)
    """Divides the cosines."""


class CosFaceConfig(Model):
    """CosFace: softmax with a margin on the cosine (Wang et al. 2018)."""

    kind: Literal["cosface"]

    margin: float = Field(default=0.35, ge=0.0, le=2.0)
    """Subtracted from the cosine to the own class."""

    scale: float = Field(default=64.0, gt=0.0)
    """Inverse temperature."""


class ArcFaceConfig(Model):
    """ArcFace: softmax with a margin on the angle (Deng et al. 2019)."""

    kind: Literal["arcface"]

    margin_deg: float = Field(default=28.6, ge=0.0, lt=90.0)
    """Added to the angle to the own class, in degrees; 0.5 radians are 28.6 degrees."""

    scale: float = Field(default=64.0, gt=0.0)
    """Inverse temperature."""


class CurricularFaceConfig(Model):
    """CurricularFace: ArcFace that weighs hard negatives the more, the further the training (Huang et al. 2020)."""

    kind: Literal["curricularface"]

    margin_deg: float = Field(default=28.6, ge=0.0, lt=90.0)
    """Added to the angle to the own class, in degrees."""

    scale: float = Field(default=64.0, gt=0.0)
    """Inverse temperature."""

    momentum: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Share of the old curriculum parameter in the running mean of the cosine to the own class."""

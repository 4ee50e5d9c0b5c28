"""Losses that smooth a retrieval metric. Formulas and sources are in `raydml.losses.ranking`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raydml.config.base import Model


class RecallAtKConfig(Model):
    """Recall@k surrogate (Patel, Tolias, Matas 2022)."""

    kind: Literal["recall_at_k"]

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16)
    """The k whose recalls are averaged."""

    temperature: float = Field(default=0.01, gt=0.0)
    """Softness of a comparison of two cosines."""

    rank_temperature: float = Field(default=1.0, gt=0.0)
    """Softness of the comparison of a rank with k."""

    @model_validator(mode="after")
    def _ranks_are_ranks(self) -> RecallAtKConfig:
        if not self.ranks or min(self.ranks) < 1 or list(self.ranks) != sorted(set(self.ranks)):
            raise ValueError(f"ranks must be distinct positive ranks in rising order, but got {self.ranks}")
        return self


class SmoothAPConfig(Model):
    """Smooth-AP (Brown et al. 2020)."""

    kind: Literal["smooth_ap"]

    temperature: float = Field(default=0.01, gt=0.0)
    """Softness of a comparison of two cosines."""

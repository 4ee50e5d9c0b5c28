"""Spherical Embedding Expansion: how many synthetic embeddings, of whom, and when."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raydml.config.base import Model


class SeeConfig(Model):
    """Spherical Embedding Expansion (Le & Woo 2024); defaults of the authors' scripts, absent where nothing expands."""

    num_expansions: int = Field(default=0, ge=0)
    """Synthetic embeddings of each one that is expanded, at most the embedding dimension - 1; 0 is no expansion."""

    weight: float = Field(default=0.2, ge=0.0)
    """Weight of the loss on synthetic embeddings, beside the loss on real ones."""

    initial_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of a batch that is expanded in the first epoch; the threshold of the cosine, for schedule `threshold`."""

    final_fraction: float = Field(default=0.4, ge=0.0, le=1.0)
    """Share of a batch that is expanded in the end; the first threshold, for schedule `threshold`."""

    schedule: Literal["cosine", "linear", "constant", "threshold"] = "cosine"
    """How the share rises, within 200 epochs at most; or a falling threshold of the cosine to the class."""

    selection: Literal["top", "random", "bottom"] = "top"
    """Who is expanded: the embeddings nearest to their class, any, or the farthest."""

    directions: Literal["mahalanobis", "random"] = "mahalanobis"
    """Max-Mahalanobis centres with the embedding as one vertex; or random directions around the class, for ablation."""

    frames: Literal["shared", "independent"] = "shared"
    """One random frame for a step, turned to each embedding; or one of its own for each, ten times as costly."""

    gradient: Literal["none", "reflect"] = "none"
    """Synthetic embeddings are constants, as in the paper's release; or reflections that pass gradients on."""

    prototypes: Literal["moving_average", "auxiliary"] = "moving_average"
    """The class directions of losses without proxies: running means, or proxies trained beside the loss."""

    prototype_momentum: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Share of the old prototype in a running mean."""

    @model_validator(mode="after")
    def _fractions_are_ordered(self) -> SeeConfig:
        if self.initial_fraction > self.final_fraction:
            raise ValueError(
                "initial_fraction must not exceed final_fraction, "
                f"but got initial_fraction={self.initial_fraction}, final_fraction={self.final_fraction}"
            )
        return self

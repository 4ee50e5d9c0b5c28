"""The network that turns an image into an embedding."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import Field, field_validator

from raydml.config.base import Model


@cache
def backbone_names() -> tuple[str, ...]:
    """The architectures of timm, from a list shipped with raydml so that no torch is loaded to check a name."""
    return tuple(files("raydml.config").joinpath("backbones.txt").read_text(encoding="ascii").split())


class ModelConfig(Model):
    """Backbone and embedding head."""

    backbone: str = "test_resnet"
    """Any architecture of timm, with an optional tag of pretrained weights (`resnet50.a1_in1k`).

    Its dropout and stochastic depth are off: their draws would depend on the number of workers.
    """

    embedding_dim: int = Field(default=64, ge=2, le=65536)
    """Dimension D of the embeddings; they are rows of unit length."""

    weights: str = Field(default="none", min_length=1)
    """`none` (random), `pretrained` (downloaded by timm) or the path of a raydml checkpoint folder."""

    batch_norm: Literal["synchronised", "frozen"] = "synchronised"
    """Statistics of the global batch, whatever the number of workers; or frozen statistics and weights."""

    @field_validator("backbone")
    @classmethod
    def _backbone_is_known(cls, value: str) -> str:
        architecture = value.partition(".")[0]
        known = backbone_names()
        if architecture not in known:
            nearest = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5)
            hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
            raise ValueError(f"timm has no backbone named '{value}'{hint}")
        return value

"""Any loss of pytorch-metric-learning, by name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raydml.config.base import Model

Argument = bool | int | float | str | None


class LibraryConfig(Model):
    """A loss of pytorch-metric-learning by the names of its own documentation; checked before a run starts."""

    kind: Literal["library"]

    name: str = Field(min_length=1)
    """Class in `pytorch_metric_learning.losses`, such as FastAPLoss."""

    arguments: dict[str, Argument] = Field(default_factory=dict)
    """Its arguments; `num_classes` and `embedding_size` come from the data and the model."""

    miner: str | None = None
    """Class in `pytorch_metric_learning.miners`; no miner where None."""

    miner_arguments: dict[str, Argument] = Field(default_factory=dict)
    """Arguments of the miner."""

    @model_validator(mode="after")
    def _arguments_have_a_miner(self) -> LibraryConfig:
        if self.miner is None and self.miner_arguments:
            raise ValueError(f"miner_arguments need a miner, but got miner_arguments={self.miner_arguments}")
        return self

"""One experiment: everything that decides what is trained, and nothing about where it runs."""

from __future__ import annotations

from pydantic import Field, model_validator

from raydml.config.base import Model
from raydml.config.data import DataConfig, GlyphsConfig
from raydml.config.losses import DiscriminateConfig, LossConfig, PairLoss
from raydml.config.model import ModelConfig
from raydml.config.optimization import (
    AdamWConfig,
    CosineConfig,
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)


class ExperimentConfig(Model):
    """One training, from data to evaluation. Two equal experiments train the same model."""

    seed: int = Field(default=0, ge=0, le=2**64 - 1)
    """Seed of the weights, the batches and every random miner."""

    data: DataConfig = GlyphsConfig(kind="glyphs")
    """Images, classes, batches."""

    model: ModelConfig = ModelConfig()
    """Backbone and embedding head."""

    loss: LossConfig = DiscriminateConfig(kind="discriminate")
    """What pulls classes together and apart."""

    optimizer: OptimizerConfig = AdamWConfig(kind="adamw")
    """How parameters move."""

    schedule: ScheduleConfig = CosineConfig(kind="cosine")
    """How the learning rates change over a training."""

    training: TrainingConfig = TrainingConfig()
    """Length and precision."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """Retrieval metrics."""

    @model_validator(mode="after")
    def _memory_holds_a_batch(self) -> ExperimentConfig:
        size = self.loss.memory.size if isinstance(self.loss, PairLoss) else 0
        if 0 < size < self.data.batch_size:
            raise ValueError(
                "loss.memory.size must be 0 or at least data.batch_size, but got "
                f"loss.memory.size={size}, data.batch_size={self.data.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_ends(self) -> ExperimentConfig:
        if self.schedule.warmup_epochs >= self.training.num_epochs:
            raise ValueError(
                "schedule.warmup_epochs must be below training.num_epochs, but got "
                f"schedule.warmup_epochs={self.schedule.warmup_epochs}, "
                f"training.num_epochs={self.training.num_epochs}"
            )
        return self

"""One experiment: everything that decides what is trained, and nothing about where it runs."""

from __future__ import annotations

from pydantic import Field, model_validator

from raydml.config.base import Model
from raydml.config.data import DataConfig, GlyphsConfig
from raydml.config.divide import DivideConfig
from raydml.config.losses import (
    DiscriminateConfig,
    LibraryConfig,
    LossConfig,
    PairLoss,
    RecallAtKConfig,
    SmoothAPConfig,
)
from raydml.config.model import ModelConfig
from raydml.config.optimization import (
    AdamWConfig,
    CosineConfig,
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from raydml.config.see import SeeConfig


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

    see: SeeConfig = SeeConfig()
    """Synthetic embeddings around the class directions; none by default."""

    divide: DivideConfig = DivideConfig()
    """Learners, each with its cluster of images and its slice of the embedding; one by default."""

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
    def _learners_fit(self) -> ExperimentConfig:
        count, dim = self.divide.num_learners, self.model.embedding_dim
        if count > dim:
            raise ValueError(
                "divide.num_learners must not exceed model.embedding_dim, but got "
                f"divide.num_learners={count}, model.embedding_dim={dim}"
            )
        full, conquer = self.divide.boundaries(self.training.num_epochs)
        if count > 1 and full > conquer:
            raise ValueError(
                "divide.full_embedding_epoch must not exceed divide.conquer_epoch, but got "
                f"divide.full_embedding_epoch={full}, divide.conquer_epoch={conquer} "
                f"of training.num_epochs={self.training.num_epochs}"
            )
        return self

    @model_validator(mode="after")
    def _expansions_fit(self) -> ExperimentConfig:
        count, dim, learners = self.see.num_expansions, self.model.embedding_dim, self.divide.num_learners
        if count > dim - 1:
            raise ValueError(
                "see.num_expansions must not exceed model.embedding_dim - 1, but got "
                f"see.num_expansions={count}, model.embedding_dim={dim}"
            )
        if count > 0 and learners > 1 and self.divide.masks == "learned":
            raise ValueError(
                "see.num_expansions above 0 needs divide.masks=fixed, because a learned mask has no slice to expand "
                f"in, but got see.num_expansions={count}, divide.num_learners={learners}"
            )
        smallest = self.divide.smallest_slice(dim)
        if count > smallest - 1:
            raise ValueError(
                "see.num_expansions must not exceed the dimension of the smallest learner - 1, but got "
                f"see.num_expansions={count} and {smallest} dimensions "
                f"(model.embedding_dim={dim}, divide.num_learners={learners})"
            )
        if count > 0 and isinstance(self.loss, RecallAtKConfig | SmoothAPConfig | LibraryConfig):
            raise ValueError(
                "see.num_expansions above 0 needs a loss with proxies or on pairs, "
                f"but got see.num_expansions={count}, loss.kind={self.loss.kind}"
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

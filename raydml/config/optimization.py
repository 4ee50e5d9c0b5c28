"""How parameters move: optimizer, learning-rate schedule, length and precision of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydml.config.base import Model
from raydml.config.wanted import Wanted, wanted_metrics


class OptimizerGroups(Model):
    """What every optimizer has: rates of the model and of the loss's own parameters."""

    lr: float = Field(default=1e-3, gt=0.0)
    """Peak learning rate of backbone and head."""

    weight_decay: float = Field(default=1e-4, ge=0.0)
    """Decay of matrices and kernels; biases and normalisation parameters have none."""

    loss_lr: float = Field(default=1e-2, gt=0.0)
    """Peak learning rate of the loss's parameters: proxies, beta."""

    loss_weight_decay: float = Field(default=0.0, ge=0.0)
    """Decay of the loss's parameters."""

    clip_norm: float | None = Field(default=None, gt=0.0)
    """Largest norm of the gradient of all parameters together; not clipped where None."""


class AdamWConfig(OptimizerGroups):
    """AdamW (Loshchilov & Hutter 2019)."""

    kind: Literal["adamw"]


class SgdConfig(OptimizerGroups):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]

    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Share of the last update that is kept."""


OptimizerConfig = Annotated[AdamWConfig | SgdConfig, Field(discriminator="kind")]


class Schedule(Model):
    """What every schedule has: a linear warm-up."""

    warmup_epochs: float = Field(default=0.0, ge=0.0)
    """Epochs, or a part of one, in which the rates rise linearly from near zero."""


class ConstantConfig(Schedule):
    """The peak rates to the end."""

    kind: Literal["constant"]


class CosineConfig(Schedule):
    """Half a cosine from the peak to `final_factor` times the peak at the last step."""

    kind: Literal["cosine"]

    final_factor: float = Field(default=0.0, ge=0.0, le=1.0)
    """Rate at the end over the peak rate."""


class StepConfig(Schedule):
    """The rates times `factor` after every `every_epochs` epochs."""

    kind: Literal["step"]

    every_epochs: int = Field(default=10, ge=1)
    """Epochs between two drops."""

    factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Rate after a drop over the rate before it."""


ScheduleConfig = Annotated[ConstantConfig | CosineConfig | StepConfig, Field(discriminator="kind")]


class TrainingConfig(Model):
    """Length, precision and bookkeeping of a training."""

    num_epochs: int = Field(default=8, ge=1)
    """Epochs; the learning-rate schedule spans all of them."""

    steps_per_epoch: int | None = Field(default=None, ge=1)
    """Steps of an epoch; as many as cover the training images once where None."""

    log_steps: int = Field(default=50, ge=1)
    """Steps between two looks of the host at the device: the only synchronisation inside an epoch."""

    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """bfloat16 computes backbone and head in it (losses and parameters stay float32); float64 proves that two runs are
    the same computation."""

    chunk_size: int | None = Field(default=None, ge=1)
    """Images that a worker holds in the network at a time: batches beyond its memory, with the same gradient, at the
    price of embedding twice. The whole share where None."""


class EvaluationConfig(Model):
    """Which retrieval metrics are computed on validation and test images."""

    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    """Ranks k of recall@k."""

    metrics: tuple[str, ...] = ()
    """Further ones, of map, mrr, map@K and precision@K, K being a rank."""

    batch_size: int = Field(default=256, ge=1)
    """Images embedded at a time by one worker."""

    @property
    def wanted(self) -> Wanted:
        """The metrics, by kind."""
        return wanted_metrics(self.recall_at, self.metrics)

    @model_validator(mode="after")
    def _metrics_are_of_queries(self) -> EvaluationConfig:
        if self.wanted.whole:
            raise ValueError(
                "metrics must be of map, mrr, map@K, precision@K (those of clusters and geometry belong to "
                f"python -m raydml.evaluate), but got {self.wanted.whole[0]}"
            )
        return self

    @model_validator(mode="after")
    def _ranks_are_ranks(self) -> EvaluationConfig:
        if not self.recall_at or min(self.recall_at) < 1 or list(self.recall_at) != sorted(set(self.recall_at)):
            raise ValueError(f"recall_at must be distinct positive ranks in rising order, but got {self.recall_at}")
        return self

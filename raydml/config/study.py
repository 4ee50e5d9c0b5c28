"""How a space is explored, and on what machines."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raydml.config.base import Model
from raydml.config.places import Place

Scalar = bool | int | float | str
SamplerName = Literal["tpe", "cmaes", "gp", "qmc", "random"]
LEARNING: tuple[SamplerName, ...] = ("tpe", "cmaes", "gp")
"""Samplers that learn from the trials so far."""


class EarlyStopping(Model):
    """ASHA (Li et al. 2020): at each rung only the best share of the trials goes on."""

    grace_epochs: int = Field(default=2, ge=1)
    """Epochs every trial may train: the first rung."""

    reduction_factor: float = Field(default=3.0, gt=1.0)
    """A rung lets the best 1 / reduction_factor pass; rungs are this factor apart."""


def _early_stopping(given: dict[str, Any]) -> EarlyStopping | None:
    """The default: none where there are several objectives, because it would judge by one of them."""
    return None if given.get("minimize") else EarlyStopping()


class SearchConfig(Model):
    """How the search space is explored."""

    metric: str = "val/map@r"
    """Metric to maximise, on validation classes: its value at the last epoch is a trial's objective."""

    minimize: tuple[str, ...] = ()
    """Further objectives, each to be small: `seconds` (training and validation of a trial) and numbers of the space,
    such as `model.embedding_dim`. The report then has the Pareto front; the best trial is still the best by `metric`.
    Seconds are never the same twice: what a sampler that learns from them draws is not either."""

    num_trials: int = Field(default=25, ge=1)
    """Trials of the study in total, pruned and failed ones included."""

    start: tuple[dict[str, Scalar], ...] = ()
    """Points tried first, such as literature values; what a point leaves out comes from the base."""

    sampler: SamplerName = "tpe"
    """What chooses the points: `tpe`, `gp` and `cmaes` learn from the trials so far, `qmc` and `random` do not."""

    seed: int = Field(default=0, ge=0)
    """Seed of the sampler."""

    startup_trials: int = Field(default=6, ge=1)
    """Trials drawn at random (start points included) before the sampler's model takes over."""

    warm_start: tuple[Place, ...] = ()
    """Folders of studies whose trials the sampler learns from too. They count nowhere else."""

    max_hours: float | None = Field(default=None, gt=0.0)
    """Hours of searching, earlier invocations included, after which the search stops at the next epochs; none: null."""

    max_concurrent: int | Literal["auto"] = "auto"
    """Trials at a time; as many as the machines hold where `auto`."""

    early_stopping: EarlyStopping | None = Field(default_factory=_early_stopping)
    """Pruning of hopeless trials; none where null, as it has to be with several objectives."""

    max_retries: int = Field(default=3, ge=0)
    """How often a trial that crashes or loses its process is continued, since its last finished epoch, before it counts
    as failed; five times as often one that loses its machine. One that leaves its machine on a notice never does."""

    keep_checkpoints: int = Field(default=1, ge=1)
    """Finished trials, the best, that keep their checkpoints."""

    @field_validator("max_concurrent")
    @classmethod
    def _at_least_one(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value != "auto" and value < 1:
            raise ValueError(f"max_concurrent must be at least 1, or auto, but got {value}")
        return value


class Resources(Model):
    """What one trial occupies. No part of a study's identity: results do not depend on it."""

    workers_per_trial: int = Field(default=1, ge=1)
    """Data-parallel workers of a trial. One runs inline; more run through Ray Train."""

    min_workers_per_trial: int | None = Field(default=None, ge=1)
    """Where machines are missing a trial starts with fewer workers, at least so many, and goes on with more as soon as
    machines come; none: null. Every change costs a restart of the workers and none of their steps. The curve stays, but
    for rounding: so does what a checkpoint holds."""

    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    """CPU cores of a worker."""

    gpus_per_worker: float | Literal["auto"] = "auto"
    """GPUs of a worker: 1 where the machine has one, else 0, where `auto`."""

    folds_at_a_time: int | Literal["all"] = "all"
    """Models of a trial in memory at a time, one a fold; the others wait in their checkpoints. Where a GPU runs out of
    memory with several, a trial goes on with one at a time by itself."""

    price_per_hour: float | None = Field(default=None, gt=0.0)
    """Price of all machines together for an hour, in any currency: `--estimate` multiplies it. Unknown where null."""

    @property
    def fewest_workers(self) -> int:
        """Workers with which a trial may start: all of them, unless `min_workers_per_trial` says less."""
        return self.workers_per_trial if self.min_workers_per_trial is None else self.min_workers_per_trial

    @model_validator(mode="after")
    def _fewest_of_several(self) -> Resources:
        if self.min_workers_per_trial is not None and self.workers_per_trial == 1:
            raise ValueError(
                "min_workers_per_trial is for trials of several workers, "
                f"but got min_workers_per_trial={self.min_workers_per_trial}, workers_per_trial=1"
            )
        if self.fewest_workers > self.workers_per_trial:
            raise ValueError(
                "min_workers_per_trial must not exceed workers_per_trial, "
                f"but got min_workers_per_trial={self.fewest_workers}, workers_per_trial={self.workers_per_trial}"
            )
        return self

    @field_validator("folds_at_a_time")
    @classmethod
    def _at_least_one_fold(cls, value: int | Literal["all"]) -> int | Literal["all"]:
        if value != "all" and value < 1:
            raise ValueError(f"folds_at_a_time must be at least 1, or all, but got {value}")
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _not_negative(cls, value: float | Literal["auto"]) -> float | Literal["auto"]:
        if value != "auto" and value < 0:
            raise ValueError(f"gpus_per_worker must not be negative, but got {value}")
        return value

    @model_validator(mode="after")
    def _no_fractions_with_nccl(self) -> Resources:
        gpus = self.gpus_per_worker
        if self.workers_per_trial > 1 and gpus != "auto" and gpus != int(gpus):
            raise ValueError(
                "several workers of a trial cannot share a GPU (NCCL refuses it): gpus_per_worker must be whole "
                f"where workers_per_trial > 1, but got {gpus}"
            )
        return self

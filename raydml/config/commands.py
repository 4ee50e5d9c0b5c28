"""Options of the command line that are no part of a study."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raydml.config.base import Model
from raydml.config.study import Resources


class TrainOptions(Model):
    """What `python -m raydml.train` takes besides a study's own paths."""

    split: Literal["train", "trainval"] = "train"
    """`train` leaves a fold out and validates on it; `trainval` trains on all training classes."""

    fold: int | None = Field(default=None, ge=0)
    """The fold that validates; the first where None."""


class EvaluateOptions(Model):
    """What `python -m raydml.evaluate` takes."""

    split: Literal["auto", "train", "val", "test"] = "auto"
    """Classes to evaluate on; `auto` is val for a trial of a search and test for any other run."""

    fold: int | None = Field(default=None, ge=0)
    """Which model, where a run has one for each of several folds."""

    engine: Literal["rank", "faiss"] = "rank"
    """Exact ranks by counting, or from faiss's exact lists of neighbours. They agree."""

    recall_at: tuple[int, ...] | None = None
    """Ranks k of recall@k; those of the run where None."""

    batch_size: int = Field(default=256, ge=1)
    """Images embedded at a time by one actor."""

    resources: Resources = Resources()
    """What one embedding actor occupies: cpus_per_worker and gpus_per_worker."""

    storage: str = "runs"
    """Where the evaluation of a plain embedding file is kept."""

    @model_validator(mode="after")
    def _ranks_are_ranks(self) -> EvaluateOptions:
        ranks = self.recall_at
        if ranks is not None and (not ranks or min(ranks) < 1 or list(ranks) != sorted(set(ranks))):
            raise ValueError(f"recall_at must be distinct positive ranks in rising order, but got {ranks}")
        return self


class ReportOptions(Model):
    """What `python -m raydml.report` takes."""

    out: str | None = None
    """Folder of the report; where None that of the run, or `<storage>/comparison-<hash>` for several runs."""

    metric: str | None = None
    """The metric that a comparison of trainings shows first; that of the search, or MAP@R, where None."""

    storage: str = "runs"
    """Where the comparison of several runs is kept."""

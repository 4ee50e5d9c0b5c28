"""What a report says, as numbers: the one source from which its pages are rendered, and `report.json` itself."""

from __future__ import annotations

from pydantic import JsonValue

from raydml.config import Model, Scalar
from raydml.report.estimates import MeanOfSeeds
from raydml.report.phases import Confirmation, Final, Plan, WinnersPair

Metrics = dict[str, float]


class Change(Model):
    """One setting that is not what it was."""

    path: str
    before: JsonValue
    after: JsonValue


class Provenance(Model):
    """Where numbers come from."""

    fingerprint: str | None
    """Of pixels and labels."""
    versions: dict[str, str]
    commit: str | None
    """Of raydml's checkout; None where it was installed from a package or nobody noted it."""


class Trial(Model):
    """One trial of a search."""

    number: int
    state: str
    """complete, pruned, failed, running."""
    value: float | None
    """Of a pruned trial: its last one."""
    further: Metrics
    """What a complete trial has of `StudyContents.minimize`, by name."""
    values: tuple[float, ...]
    """The searched metric after each epoch that Optuna was told of."""
    epochs: int
    seconds: float
    """Of training and validation, as metrics.jsonl has them."""
    point: dict[str, Scalar]
    failure: str | None


class Curves(Model):
    """Metrics after each epoch, by name."""

    epochs: tuple[int, ...]
    metrics: dict[str, tuple[float, ...]]
    """Only what every epoch has."""


class Best(Model):
    """The complete trial with the best value."""

    number: int
    value: float
    changes: tuple[Change, ...]
    """Against the base of the study."""
    metrics: Metrics
    """After the last epoch, means over folds."""
    folds: dict[int, Metrics]
    """The same for each fold; empty where there was one."""
    curves: Curves


class Importance(Model):
    """How much of the variance of the value each dimension of the space explains."""

    method: str
    num_trials: int
    shares: dict[str, float]
    missing: str | None
    """Why there are none."""


class Budget(Model):
    """What a search has used."""

    states: dict[str, int]
    trials_asked: int
    epochs: int
    """Of all trials; one epoch trains each of the folds."""
    seconds: float


class Dimension(Model):
    """One axis of the space."""

    low: Scalar | None
    high: Scalar | None
    log: bool
    choices: tuple[Scalar, ...]


class StudyContents(Model):
    """A search."""

    name: str
    directory: str
    stamp: str
    """What a reader must know before quoting a number."""
    metric: str
    minimize: tuple[str, ...]
    """Further objectives, each to be small; none where the search had one."""
    base: dict[str, JsonValue]
    protocol: dict[str, JsonValue]
    space: dict[str, Dimension]
    budget: Budget
    trials: tuple[Trial, ...]
    """Best first."""
    best: Best | None
    front: tuple[int, ...]
    """Numbers of the complete trials that no other beats in every objective, best by the metric first."""
    baseline: Metrics
    """Raw pixels on the same validation classes, without a split in the names; empty where none was computed yet."""
    importance: Importance
    plan: Plan
    confirm: Confirmation | None
    """None where the protocol has no such phase, or nothing of it has run."""
    final: Final | None
    """None where the protocol has no such phase, or nothing of it has run."""
    looks: dict[str, int]
    """How often test classes were looked at, by the model's folder within the study; looks by hand count too."""
    identity: str
    provenance: Provenance
    neighbors: tuple[str, ...] = ()
    """Pictures of nearest neighbours of the best trial and of a final run of the winner, as paths below `directory`."""


class ModelMetrics(Model):
    """Final metrics of one model of a run."""

    fold: int | None
    """The fold that was left out of training; None where all classes trained, or nobody noted it."""
    metrics: Metrics
    """`val/...` after the last epoch, and what `raydml.evaluate` found, `test/...`."""


class RunContents(Model):
    """A training."""

    name: str
    directory: str
    seed: int
    epochs: int
    num_epochs: int
    seconds: float
    models: tuple[ModelMetrics, ...]
    """One; one for each fold where it trained them in lockstep."""
    curves: Curves
    config: dict[str, JsonValue]
    provenance: Provenance
    neighbors: tuple[str, ...] = ()
    """Pictures of nearest neighbours, as paths below `directory`."""

    @property
    def finished(self) -> bool:
        """Whether it reached its last epoch: others are no repetition of it."""
        return self.epochs >= self.num_epochs


class Group(Model):
    """Finished runs that differ in nothing but seed and fold."""

    name: str
    settings: dict[str, JsonValue]
    """What distinguishes it from the other groups."""
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: tuple[int | None, ...]
    means: dict[str, MeanOfSeeds]


class Pair(Model):
    """Second group minus first, at the seeds and folds they have in common."""

    first: str
    second: str
    metric: str
    num_pairs: int
    difference: MeanOfSeeds
    p: float | None
    p_adjusted: float | None
    """For the number of pairs of groups (Holm)."""
    detectable: float | None
    """The smallest difference that this many seeds would see with 80 % power."""
    seeds_needed: int | None
    """Seeds that would see half a point with 80 % power."""


class Comparison(Model):
    """What repeated runs say together."""

    metric: str
    """The one that plots and the first table show."""
    common: tuple[Change, ...]
    """Settings of all runs that are not the defaults."""
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]


class Contents(Model):
    """Everything a report says."""

    format: int = 1
    studies: tuple[StudyContents, ...]
    runs: tuple[RunContents, ...]
    comparison: Comparison | None
    """None where no run has finished."""
    winners: tuple[WinnersPair, ...]
    """Every pair of the studies whose winners met the test classes."""
    notes: tuple[str, ...]
    """What was left out, and why."""

"""What a report says of a protocol, as numbers: its parts, the confirming runs, the test classes."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from raydml.config import Model
from raydml.report.estimates import ClassInterval, Difference, MeanOfSeeds

ReadOut = Literal["last", "separated", "concatenated", "selected"]
"""What is read from a model on the test classes: the last epoch's; of one model for each fold the mean of their
metrics, or those of their embeddings put together; the best epoch's on the test classes themselves."""


class Spent(Model):
    """What a phase has used."""

    phase: str
    runs: int
    epochs: int
    seconds: float
    """Of training and validation, as metrics.jsonl has them."""


class Plan(Model):
    """What a protocol asks for, and what it has cost."""

    preset: str
    folds: int
    folds_run: int
    metric: str
    sampler: str
    num_trials: int
    max_hours: float | None
    early_stopping: dict[str, JsonValue] | None
    departures: tuple[str, ...]
    """Where the study is not what its preset says."""
    differences: tuple[str, ...]
    """Preset mlrc: where it is not what Musgrave et al. 2020 ran."""
    spent: tuple[Spent, ...]


class Repeat(Model):
    """One training with a fresh seed."""

    name: str
    """Its folder within the study."""
    seed: int
    state: Literal["not begun", "unfinished", "failed", "not evaluated", "other configuration", "done"]
    """Only what is done is in a mean; `unfinished` still runs or was interrupted."""
    epochs: int
    num_epochs: int
    seconds: float


class Confirmed(Model):
    """A configuration that was trained again."""

    name: str
    """`base`, or the trial's number."""
    trial: int | None
    """Its trial in the search; None for a base that was none."""
    settings: dict[str, JsonValue]
    """Where they differ from the base."""
    search_value: float | None
    """What the search found: inflated, for it was chosen by it."""
    repeats: tuple[Repeat, ...]
    values: dict[int, float]
    """The searched metric of every seed, mean over folds; without a gap from the first repetition on."""
    mean: MeanOfSeeds | None
    inflation: float | None
    """The search value minus the mean."""
    minus_base: Difference | None


class Confirmation(Model):
    """What fresh seeds say of the best configurations of a search."""

    metric: str
    runs_done: int
    runs_asked: int
    """At least; a schedule by width may ask for more."""
    candidates: tuple[Confirmed, ...]
    """The base first."""
    winner: str | None
    """The candidate with the best mean; None where runs are missing."""
    fold_curves: dict[int, tuple[float, ...]]
    """Of the winner: the metric of each fold, epoch by epoch, mean over seeds."""


class OnTest(Model):
    """A metric on the test classes."""

    mean: MeanOfSeeds
    classes: ClassInterval | None
    """None where no table of classes was written."""


class Finalist(Model):
    """A configuration that met the test classes."""

    name: str
    """`winner` or `base`."""
    trial: int | None
    settings: dict[str, JsonValue]
    """Where they differ from the base."""
    config: dict[str, JsonValue]
    """Without the place of the cache."""
    repeats: tuple[Repeat, ...]
    values: dict[ReadOut, dict[str, dict[int, float]]]
    """By metric and seed; means over folds."""
    metrics: dict[ReadOut, dict[str, OnTest]]


class Gain(Model):
    """Winner minus base in a metric on the test classes."""

    seeds: Difference
    classes: ClassInterval | None
    """Bootstrap over classes of the per-class differences."""


class Final(Model):
    """What the test classes say of winner and base."""

    models: Literal["one", "folds"]
    metric: str
    """The one that was searched for, without a split in its name."""
    runs_done: int
    runs_asked: int
    finalists: tuple[Finalist, ...]
    """The winner, then the base; the base alone where it won; none where the winner is not known yet."""
    gains: dict[ReadOut, dict[str, Gain]]
    earlier_winners: int
    """Winners that the test classes were looked at for before this one."""
    retrieval: str | None = None
    """What is found among what; None where the evaluations do not say."""


class WinnersPair(Model):
    """The winners of two studies, at equal seeds."""

    first: str
    second: str
    changes: dict[str, tuple[JsonValue, JsonValue]]
    """Where their configurations differ: first, second."""
    metrics: dict[str, Difference]
    """Second minus first; empty where they cannot be compared."""
    missing: str | None
    """Why they cannot."""

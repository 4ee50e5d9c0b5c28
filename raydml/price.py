"""What a study comes to: trainings, epochs, hours. Pure arithmetic; the speed of a step is measured elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from raydml.config import EarlyStopping
from raydml.space import Study

# Searched paths that change what a step or an epoch takes, or how many steps there are.
_FELT = ("data.", "model.", "divide.", "see.", "evaluation.", "training.", "loss.memory", "loss.name", "loss.miner")


@dataclass(frozen=True)
class Phase:
    """One part of a study's work at most: so many runs, each of some models that advance in lockstep."""

    name: str
    runs: int
    models: int
    epochs: int
    """Of every model, at most."""
    expected_epochs: float
    """With pruning as it is designed."""
    what: str
    """`12 trials x 4 folds`."""
    whole: bool = False
    """Whether it trains on all training classes."""

    @property
    def trainings(self) -> int:
        """Models that are trained."""
        return self.runs * self.models


@dataclass(frozen=True)
class Speed:
    """What a probe measured, in seconds."""

    step_s: float
    epoch_s: float
    """Of an epoch whatever its steps: validation, checkpoint, clustering."""
    run_s: float
    """Of a run before its first step: data, models, workers of its own."""
    start_s: float
    """Of a worker that serves many runs, once."""
    steps: int
    """Of an epoch without the validation classes."""
    steps_of_all: int
    """Of an epoch on all training classes."""
    machine: str
    """What it was measured on."""
    measured: str
    """How: `2 at a time, up to 58 of 58 steps`."""
    seconds: float
    """Of the measurement itself."""


@dataclass(frozen=True)
class Bill:
    """What a phase, or all of them, comes to at most; `expected` are the hours with pruning as it is designed."""

    name: str
    trainings: int
    epochs: int
    hours: float
    expected: float


def longest(study: Study) -> int:
    """Epochs of the longest training that the space holds."""
    searched = study.distributions().get("training.num_epochs")
    return study.base.training.num_epochs if searched is None else int(searched.corners()[-1])


def phases(study: Study) -> tuple[Phase, ...]:
    """All that a study may come to: every trial to its last epoch, as many seeds as are allowed."""
    return tuple(_phases(study))


def _phases(study: Study) -> Iterator[Phase]:
    protocol, trials, folds, epochs = study.protocol, study.search.num_trials, len(study.folds), longest(study)
    expected = expected_epochs(epochs, study.search.early_stopping)
    yield Phase("search", trials, folds, epochs, expected, f"{trials} x {folds} folds")
    if protocol.confirm is not None:
        seeds = protocol.confirm.most
        # The base is one of them whatever its rank.
        chosen = min(protocol.confirm.top, trials) + 1
        what = f"{chosen} configurations x {seeds} seeds x {folds} folds"
        yield Phase("confirm", chosen * seeds, folds, epochs, epochs, what)
    if protocol.final is not None:
        seeds, one = protocol.final.most, protocol.final.models == "one"
        what = f"2 configurations x {seeds} seeds" + ("" if one else f" x {folds} folds")
        yield Phase("final", 2 * seeds, 1 if one else folds, epochs, epochs, what, whole=one)


def expected_epochs(num_epochs: int, stopping: EarlyStopping | None) -> float:
    """Epochs of a trial on average where each rung lets 1 / reduction_factor pass.

    Asynchronous pruning lets more pass while a rung has seen few trials.
    """
    if stopping is None:
        return float(num_epochs)
    total, before, share, rung = 0.0, 0, 1.0, float(stopping.grace_epochs)
    while rung < num_epochs:
        total += share * (math.ceil(rung) - before)
        before, share, rung = math.ceil(rung), share / stopping.reduction_factor, rung * stopping.reduction_factor
    return total + share * (num_epochs - before)


def speed_of(few: tuple[int, float], many: tuple[int, float], *, models: int = 1) -> tuple[float, float]:
    """Seconds of a step, and of an epoch without them, from (steps, seconds) of a short and a longer epoch."""
    extra = many[0] - few[0]
    step = max(0.0, (many[1] - few[1]) / extra) if extra > 0 else 0.0
    # The longer one is nearer to what is asked for: its error is multiplied least.
    return step / models, max(0.0, many[1] - many[0] * step) / models


def bill(phase: Phase, speed: Speed, *, at_a_time: int, max_hours: float | None = None) -> Bill:
    """Hours of a phase at the speed of the base. `max_hours`: where the search stops by itself."""
    steps = speed.steps_of_all if phase.whole else speed.steps
    epoch = phase.models * (speed.epoch_s + steps * speed.step_s)
    run, expected_run = speed.run_s + phase.epochs * epoch, speed.run_s + phase.expected_epochs * epoch
    most = speed.start_s + math.ceil(phase.runs / at_a_time) * run
    # However many are pruned, one is trained to its end.
    pruned = speed.start_s + max(run, phase.runs / at_a_time * expected_run)
    expected = min(most, pruned) if phase.expected_epochs < phase.epochs else most
    limit = math.inf if max_hours is None else max_hours
    epochs = phase.trainings * phase.epochs
    return Bill(phase.name, phase.trainings, epochs, min(limit, most / 3600), min(limit, expected / 3600))


def bills(study: Study, speed: Speed, *, at_a_time: int) -> tuple[Bill, ...]:
    """Every phase of a study, and behind several their sum."""
    each = [
        bill(phase, speed, at_a_time=at_a_time, max_hours=study.search.max_hours if phase.name == "search" else None)
        for phase in phases(study)
    ]
    if len(each) == 1:
        return tuple(each)
    trainings, epochs = sum(b.trainings for b in each), sum(b.epochs for b in each)
    return (*each, Bill("total", trainings, epochs, sum(b.hours for b in each), sum(b.expected for b in each)))


def felt(study: Study) -> tuple[str, ...]:
    """Searched paths at which a trial is faster or slower than the base; of epochs the most are reckoned with."""
    return tuple(path for path in study.space if path.startswith(_FELT) and path != "training.num_epochs")

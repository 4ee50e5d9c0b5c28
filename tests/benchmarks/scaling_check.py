"""Real searches on this machine beside what the simulator says of them: from a probe, and from their own epochs.

One trial at a time, two at a time, and two at a time with pruning, which the simulator repeats on the curves of the
first search: what a sampler without memory draws for a trial, and a configuration's own curve, do not depend on how
many run at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from raydml import probe, tune
from raydml.config import EarlyStopping
from raydml.history import read_history
from raydml.price import Speed
from raydml.record import trial_directory
from raydml.space import Study, read
from tests.benchmarks.scaling_model import Cluster, Driver, Outcome, Work
from tests.benchmarks.scaling_simulation import simulate

_STUDY = Path(__file__).parents[2] / "search_spaces" / "margin.yaml"
_STOPPING = EarlyStopping(grace_epochs=2, reduction_factor=2.0)


@dataclass(frozen=True)
class Size:
    """Of each search."""

    num_trials: int = 8
    num_epochs: int = 8
    steps: int | None = None
    """Of an epoch; those of the shipped study where None."""


@dataclass(frozen=True)
class Check:
    """One search: as it was, and as it was foretold."""

    what: str
    predicted: Outcome
    """Before it ran: epochs as a probe of the base had them."""
    explained: Outcome
    """Afterwards: epochs as it had them itself, which others on this machine may have slowed down."""
    wall_s: float
    """From the first suggestion to the end of the last trial."""
    epochs: int


@dataclass(frozen=True)
class _Found:
    wall_s: float
    curves: Sequence[Sequence[float]]
    epoch_s: Sequence[float]
    """Mean of each trial."""
    checkpoint_bytes: int


def waited_for() -> int | None:
    """Trials whose actors Tune waits for at a time, as raydml.session sets it."""
    text = os.environ["TUNE_MAX_PENDING_TRIALS_PG"]
    return None if text == "auto" else int(text)


def checks(folder: Path, driver: Driver, size: Size) -> tuple[list[Check], Speed, int]:
    """The three searches, the speed of one trial that has the machine for itself, and the bytes of its checkpoint."""
    speeds = {number: probe.measure(_study(folder, size, number, None))[0] for number in (1, 2)}
    alone = _run(_study(folder / "1", size, 1, None))
    curves = np.array(alone.curves)
    two = _run(_study(folder / "2", size, 2, None))
    pruned = _run(_study(folder / "3", size, 2, _STOPPING))
    found = []
    for what, number, stopping, run in (
        ("1 at a time", 1, None, alone),
        ("2 at a time", 2, None, two),
        ("2 at a time, pruned", 2, _STOPPING, pruned),
    ):
        speed = speeds[number]
        of_probe = [speed.epoch_s + speed.steps * speed.step_s] * size.num_trials
        predicted, explained = (
            _simulated(curves, epoch_s, speed, number, stopping, driver) for epoch_s in (of_probe, run.epoch_s)
        )
        found.append(Check(what, predicted, explained, run.wall_s, sum(map(len, run.curves))))
    return found, speeds[1], alone.checkpoint_bytes


def _study(folder: Path, size: Size, at_a_time: int, stopping: EarlyStopping | None) -> Study:
    overrides = [
        f"storage={folder}",
        f"data.cache={folder / 'cache'}",
        "search.sampler=random",
        "search.start=[]",
        f"search.num_trials={size.num_trials}",
        f"training.num_epochs={size.num_epochs}",
        f"search.max_concurrent={at_a_time}",
        *([] if size.steps is None else [f"training.steps_per_epoch={size.steps}"]),
    ]
    study = read(_STUDY, overrides)
    return study.model_copy(update={"search": study.search.model_copy(update={"early_stopping": stopping})})


def _run(study: Study) -> _Found:
    result = tune.search(study, console=Console(quiet=True))
    begun = min(t.datetime_start for t in result.trials if t.datetime_start is not None)
    ended = max(t.datetime_complete for t in result.trials if t.datetime_complete is not None)
    runs = [trial_directory(result.directory, trial.number) for trial in result.trials]
    rows = [read_history(run) for run in runs]
    curves = [[row[study.search.metric] for row in of_one] for of_one in rows]
    epoch_s = [fmean(row["seconds"] for row in of_one) for of_one in rows]
    kept = [file.stat().st_size for run in runs for file in run.glob("checkpoint/*")]
    return _Found((ended - begun).total_seconds(), curves, epoch_s, sum(kept))


def _simulated(
    curves: NDArray[np.float64],
    epoch_s: Sequence[float],
    speed: Speed,
    at_a_time: int,
    stopping: EarlyStopping | None,
    driver: Driver,
) -> Outcome:
    work = Work(curves, np.array(epoch_s), 1.0, speed.run_s, 0.0, stopping)
    cluster = Cluster(at_a_time, at_a_time, actor_s=speed.start_s, starting=waited_for(), idle_s=inf)
    return simulate(work, cluster, driver)

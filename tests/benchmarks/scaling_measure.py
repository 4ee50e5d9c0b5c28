"""What Tune's loop is busy with at each event of a search, measured on this machine: the driver of a simulation.

The searcher, its journal and its display alone, in studies of several sizes; and Tune's loop around them, on real Ray,
with trials that do nothing, as many at a time as keep it busy.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from raydml.budget import Clock
from raydml.config import Scalar
from raydml.config.grammar import validate
from raydml.display import SearchDisplay
from raydml.keeper import Keeper
from raydml.samplers import in_optuna
from raydml.search import Listener, StudySearcher, make_scheduler, open_study
from raydml.session import import_ray
from raydml.space import Study
from raydml.study_folder import StudyFolder
from tests.benchmarks.scaling_model import Driver

import_ray()

from ray import tune  # noqa: E402
from ray.tune.schedulers import TrialScheduler  # noqa: E402

SIZES = (10, 100, 1000)
_METRIC = "val/map@r"
_EPOCHS = 12
_ROUNDS = 8
_AT_A_TIME = 2
_NUM_TRIALS = 40


@dataclass
class _Events:
    """A listener that also notes what happened when."""

    inner: Listener
    times: list[tuple[str, float]] = field(default_factory=list)

    def started(self, number: int, point: Mapping[str, Scalar], num_epochs: int, *, resumed: bool) -> None:
        self.inner.started(number, point, num_epochs, resumed=resumed)
        self.times.append(("start", time.perf_counter()))

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        self.inner.epoch(number, row)
        self.times.append(("report", time.perf_counter()))

    def ended(self, trial: FrozenTrial) -> None:
        self.inner.ended(trial)
        self.times.append(("end", time.perf_counter()))

    def paused(self, trial: FrozenTrial) -> None:
        raise AssertionError("a search without a budget pauses nothing")

    def gap(self, before: str, after: str) -> float:
        """Median seconds from an event of one kind to the next event, where that is of the other kind."""
        found = [b[1] - a[1] for a, b in pairwise(self.times) if (a[0], b[0]) == (before, after)]
        return median(found)


class _Nothing(tune.Trainable):  # type: ignore[misc]
    """A trial whose epochs take no time."""

    def setup(self, config: dict[str, Any]) -> None:
        self._epoch = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self._epoch += 1
        return {_METRIC: 0.5, "epoch": self._epoch, "training_iteration": self._epoch, "done": self._epoch == _EPOCHS}


def _study(num_trials: int, **search: object) -> Study:
    space = {
        "loss.margin": {"low": 0.0, "high": 0.6},
        "loss.scale": {"low": 4, "high": 64, "log": True},
        "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    }
    raw = {
        "name": "driver",
        "base": {"training": {"num_epochs": _EPOCHS}},
        "space": space,
        "search": {"num_trials": num_trials, **search},
        "protocol": "quick",
    }
    return validate(Study, raw)


@contextmanager
def _searcher(study: Study, folder: Path, *, earlier: int) -> Iterator[tuple[StudySearcher, TrialScheduler, _Events]]:
    """As raydml.tune has it, in a folder of its own, after so many trials."""
    memory = open_study(folder / "optuna.journal", name=study.name)
    memory.add_trials(list(_finished(study, earlier)))
    console, scheduler = Console(quiet=True), make_scheduler(study)
    display = SearchDisplay(study, console, earlier=memory.get_trials(), note="")
    with Clock(folder / "clock.json") as clock:
        events = _Events(Keeper(study, StudyFolder(str(folder.parent), folder.name), memory, display, clock))
        yield (
            StudySearcher(
                study,
                memory,
                scheduler=scheduler,
                make_config=lambda number, experiment, point: {},
                listener=events,
                seconds_of=lambda number: 1.0,
            ),
            scheduler,
            events,
        )


def _finished(study: Study, count: int) -> Iterator[FrozenTrial]:
    """A third complete, the others pruned after three epochs."""
    distributions, generator = in_optuna(study.distributions()), np.random.default_rng(0)
    for index in range(count):
        complete = index % 3 == 0
        values = {epoch: float(generator.random()) for epoch in range(1, _EPOCHS + 1 if complete else 4)}
        params = {path: float(generator.uniform(d.low, d.high)) for path, d in study.distributions().items()}
        yield create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            params=params,
            distributions=distributions,
            value=values[max(values)],
            intermediate_values=values,
        )


def searcher_costs(folder: Path, *, earlier: int) -> dict[str, float]:
    """Median seconds of a start (TPE), a report and an end after so many trials, without Ray's loop."""
    times: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(kind: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        times[kind].append(time.perf_counter() - started)

    with _searcher(_study(earlier + _ROUNDS), folder, earlier=earlier) as (searcher, _, _):
        for index in range(_ROUNDS):
            name = str(index)
            with timed("start"):
                searcher.suggest(name)
            for epoch in range(1, _EPOCHS):
                with timed("report"):
                    searcher.on_trial_result(name, _row(epoch))
            with timed("end"):
                searcher.on_trial_complete(name, _row(_EPOCHS))
    return {kind: median(values) for kind, values in times.items()}


def _row(epoch: int) -> dict[str, Any]:
    return {_METRIC: 0.5, "epoch": epoch, "training_iteration": epoch}


def loop_costs(folder: Path) -> dict[str, float]:
    """Median seconds of a start, a report and an end with Ray's loop, in a search that has just begun."""
    study = _study(_NUM_TRIALS, sampler="random", early_stopping=None)
    with _searcher(study, folder, earlier=0) as (searcher, scheduler, events):
        tune.Tuner(
            tune.with_resources(_Nothing, {"CPU": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=_NUM_TRIALS,
                max_concurrent_trials=_AT_A_TIME,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="loop",
                storage_path=str(folder),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        ).fit()
    return {"start": events.gap("end", "start"), "report": events.gap("report", "report")}


def measured_driver(folder: Path) -> Driver:
    """Costs of every event: what the loop adds to the searcher does not depend on the size of the study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    alone = []
    for size in (0, *SIZES):
        place = folder / f"alone-{size}"
        place.mkdir()
        alone.append(searcher_costs(place, earlier=size))
    (folder / "loop").mkdir()
    loop = loop_costs(folder / "loop")
    # Without earlier trials TPE draws at random, as the loop's search does.
    added = {kind: max(0.0, loop[kind] - alone[0][kind]) for kind in loop}
    costs = {kind: [found[kind] + added.get(kind, 0.0) for found in alone[1:]] for kind in ("start", "report", "end")}
    return Driver(SIZES, costs["start"], costs["report"], costs["end"])

"""Tune's loop around an admission: a searcher inside, machines, trials and a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from raydml.admission import Admission, Looks, Observed
from raydml.capacity import Capacity, Machine, NodeType
from raydml.config import Resources

HEAD, MACHINE = Machine(0, 0), Machine(2, 0)
ONE_CPU = Resources(gpus_per_worker=0.0)
PAIR = Resources(workers_per_trial=2, gpus_per_worker=0.0)
ELASTIC = Resources(workers_per_trial=4, min_workers_per_trial=1, gpus_per_worker=0.0)


class Inside(Searcher):  # type: ignore[misc]  # Ray has no types
    """Hands out as many trials as it is asked for, at most `most`."""

    def __init__(self, most: int = 100) -> None:
        super().__init__(metric="val/map@r", mode="max")
        self.most, self.given = most, 0
        self.heard: list[tuple[Any, ...]] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if self.given == self.most:
            return str(Searcher.FINISHED)
        self.given += 1
        return {"task": SimpleNamespace(spec=SimpleNamespace(directory=Path(f"trials/{self.given - 1:04d}")))}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.heard.append(("result", trial_id, result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.heard.append(("complete", trial_id, result, error))


@dataclass
class Trial:
    """What an admission reads of Tune's trials."""

    trial_id: str
    config: dict[str, Any]
    status: str = "PENDING"
    last_result: dict[str, Any] = field(default_factory=dict)
    PENDING = "PENDING"
    PAUSED = "PAUSED"


class Cluster:
    """Machines, a clock and Tune's loop."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *machines: Machine,
        most: int = 0,
        resources: Resources = ONE_CPU,
        limit: int = 100,
        trials: int = 100,
    ) -> None:
        kinds = (NodeType("worker", MACHINE, most),) if most else ()
        self.capacity = Capacity((HEAD, *machines), kinds, head=HEAD)
        self.groups, self.troubles = 0, ()
        self.now, self.said, self.inside, self.trials = 1000.0, [], Inside(trials), []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.admission = Admission(
            self.inside,
            resources,
            self.capacity,
            num_trials=trials,
            limit=limit,
            max_retries=2,
            say=self.said.append,
            observe=self.observe,
        )
        self.looks = Looks(self.admission)

    said: list[str | None]
    trials: list[Trial]
    troubles: tuple[str, ...]

    def observe(self, anyone_waits: bool) -> Observed:
        return Observed(self.capacity, self.groups, self.troubles if anyone_waits else ())

    def has(self, *machines: Machine) -> None:
        self.capacity = Capacity((HEAD, *machines), self.capacity.node_types, head=HEAD)

    def step(self, seconds: float = 1.0, *, place: int = 100) -> None:
        """One turn of Tune's loop; `place` of the waiting trials then find their machines."""
        self.now += seconds
        self.looks.on_step_begin(0, self.trials)
        while isinstance(config := self.admission.suggest(name := f"t{self.inside.given}"), dict):
            self.trials.append(Trial(name, config))
        for trial in [trial for trial in self.trials if trial.status == "PENDING"][:place]:
            trial.status = "RUNNING"

    def end(self, *trials: Trial) -> None:
        for trial in trials:
            self.trials.remove(trial)
            self.admission.on_trial_complete(trial.trial_id, {"done": True})

"""A search without a cluster: a real Optuna journal and Ray's real ASHA, driven as Tune drives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from ray.tune.search import Searcher

from raydml import objectives
from raydml.config import ExperimentConfig, Scalar
from raydml.config.grammar import validate
from raydml.search import StudySearcher, enqueue_start_points, make_scheduler, open_study
from raydml.space import Study

METRIC = "val/map@r"
Curve = Callable[[ExperimentConfig, int], float]


class Silent:
    """A listener that only counts."""

    def __init__(self) -> None:
        self.resumed: list[int] = []
        self.epochs: list[tuple[int, int]] = []
        self.waiting: list[tuple[int, int | None]] = []

    def started(self, number: int, point: Mapping[str, Scalar], num_epochs: int, *, resumed: bool) -> None:
        if resumed:
            self.resumed.append(number)

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        self.epochs.append((number, int(row["training_iteration"])))

    def ended(self, trial: FrozenTrial) -> None:
        pass

    def paused(self, trial: FrozenTrial) -> None:
        self.waiting.append((trial.number, trial.last_step))


SPACE: dict[str, object] = {
    "loss.margin": {"low": 0.0, "high": 0.5},
    "model.embedding_dim": {"choices": [16, 32, 64]},
    "loss.scope": {"choices": ["anchor", "batch"]},
}
NUMBERS = {path: limits for path, limits in SPACE.items() if path != "loss.scope"}


def study_of(space: Mapping[str, object] = SPACE, /, **search: object) -> Study:
    """Four epochs, three dimensions of different kinds."""
    return validate(
        Study,
        {
            "name": "s",
            "base": {"training": {"num_epochs": 4}},
            "space": dict(space),
            "search": {"num_trials": 8, "startup_trials": 3, "early_stopping": None, **search},
            "protocol": "quick",
        },
    )


class Driver:
    """Does to a searcher what Tune does, with a training that is a formula."""

    def __init__(
        self,
        study: Study,
        path: Path,
        *,
        warm: Sequence[FrozenTrial] = (),
        num_epochs: float = inf,
        curve: Curve | None = None,
    ) -> None:
        """After `num_epochs` epochs time is up; `curve` is the training."""
        self.study, self._epochs_left, self._curve = study, num_epochs, curve or value_of
        self.memory = open_study(path, name="s", values=objectives.names(study.search))
        enqueue_start_points(self.memory, study)
        self.scheduler = make_scheduler(study)
        self.listener = Silent()
        self.searcher = StudySearcher(
            study,
            self.memory,
            scheduler=self.scheduler,
            make_config=_config,
            listener=self.listener,
            seconds_of=seconds_of,
            warm=warm,
            out_of_time=lambda: self._epochs_left <= 0,
        )

    def run(self, *, stop_after: int = 10**9) -> int:
        """Runs trials one at a time; after so many epochs it simply ends, like a killed driver."""
        epochs = 0
        for index in range(self.searcher.num_to_run):
            trial_id = f"t{index}-{id(self)}"
            config = self.searcher.suggest(trial_id)
            if isinstance(config, str):
                assert config == Searcher.FINISHED
                return epochs
            trial = _TuneTrial(trial_id)
            self.scheduler.on_trial_add(None, trial)
            for epoch in range(1, 5):
                if epochs == stop_after:
                    return epochs
                value = self._curve(config["experiment"], epoch)
                result = {"training_iteration": epoch, "epoch": epoch, METRIC: value}
                self._epochs_left -= 1
                # In Tune's order: the scheduler is asked only where nothing else stops the trial.
                stop = self.searcher.stop(trial_id, result) or epoch == 4
                stop = stop or self.scheduler.on_trial_result(None, trial, result) == "STOP"
                if stop:
                    self.scheduler.on_trial_complete(None, trial, result)
                    self.searcher.on_trial_complete(trial_id, result)
                    break
                self.searcher.on_trial_result(trial_id, result)
                epochs += 1
        return epochs


class _TuneTrial:
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def _config(number: int, experiment: ExperimentConfig, point: dict[str, Scalar]) -> dict[str, Any]:
    return {"number": number, "experiment": experiment, "point": point}


def value_of(experiment: ExperimentConfig, epoch: int) -> float:
    """A curve that rises, higher near a margin of 0.3 and a dimension of 64."""
    loss = experiment.loss
    assert loss.kind == "discriminate"
    return epoch * (0.1 - (loss.margin - 0.3) ** 2 * 0.1 + experiment.model.embedding_dim / 6400)


def seconds_of(number: int) -> float:
    """As if every third trial took longer."""
    return 1.0 + number % 3


def outcome(memory: optuna.Study) -> list[tuple[object, ...]]:
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in memory.get_trials()]

"""Between Tune and its trials: who is stopped when the search is over, and what is said of disturbed ones."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from raydml.record import NEWS
from raydml.trial import VERDICT
from raydml.tuner import UntilOver, _Restarts
from tests.searches import METRIC


class Controller:
    """What a scheduler sees of Tune: its trials, and a way to stop one."""

    def __init__(self, *statuses: str) -> None:
        self.trials = [Trial("raydml", trial_id=f"t{i}", stub=True) for i in range(len(statuses))]
        for trial, status in zip(self.trials, statuses, strict=True):
            trial.set_status(status)
        self.stopped: list[str] = []

    def get_trials(self) -> Sequence[Trial]:
        return self.trials

    def stop_trial(self, trial: Trial) -> None:
        self.stopped.append(trial.trial_id)
        trial.set_status(Trial.TERMINATED)


def test_what_waits_is_stopped_when_the_search_is_over_and_what_trains_is_not() -> None:
    over = False
    scheduler = UntilOver(FIFOScheduler(), lambda: over)
    tune = Controller(Trial.TERMINATED, Trial.RUNNING, Trial.PENDING, Trial.PAUSED, Trial.ERROR)
    assert scheduler.choose_trial_to_run(tune) is tune.trials[2]
    assert tune.stopped == []
    over = True
    assert scheduler.choose_trial_to_run(tune) is None
    assert tune.stopped == ["t2", "t3"]
    assert scheduler.choose_trial_to_run(tune) is None
    assert tune.stopped == ["t2", "t3"]


def test_until_then_another_decides() -> None:
    """Two trials in a rung of which half pass: the worse is stopped, as by ASHA alone."""
    asha = ASHAScheduler(
        time_attr="training_iteration", metric=METRIC, mode="max", max_t=4, grace_period=1, reduction_factor=2
    )
    scheduler, tune = UntilOver(asha, lambda: False), Controller(Trial.RUNNING, Trial.RUNNING, Trial.PENDING)
    decisions = []
    for trial, value in zip(tune.trials, (0.9, 0.1), strict=False):
        scheduler.on_trial_add(tune, trial)
        decisions.append(scheduler.on_trial_result(tune, trial, {"training_iteration": 1, METRIC: value}))
    assert decisions == ["CONTINUE", "STOP"]
    # News of a group bear an epoch and no value: they are no reason to stop.
    assert scheduler.on_trial_result(tune, tune.trials[1], {"training_iteration": 1, NEWS: ""}) == "CONTINUE"
    scheduler.on_trial_complete(tune, tune.trials[1], {"training_iteration": 1, METRIC: 0.1})
    scheduler.on_trial_error(tune, tune.trials[0])
    scheduler.on_trial_add(tune, tune.trials[2])
    scheduler.on_trial_remove(tune, tune.trials[2])
    assert [name for name in asha._trial_info if name == "t2"] == []


def test_tune_may_pickle_it() -> None:
    scheduler = UntilOver(FIFOScheduler(), threading.Lock().locked)
    assert type(pickle.loads(pickle.dumps(scheduler))) is FIFOScheduler


def disturbed(folder: Path, text: str) -> Any:  # noqa: ANN401
    """A trial as Tune has it behind its first failure."""
    (folder / "error.txt").write_text(f"Failure # 1 (occurred at noon)\n{text}", encoding="utf-8")
    task = SimpleNamespace(spec=SimpleNamespace(directory=Path("trials/0007")))
    return SimpleNamespace(
        trial_id="t", num_failures=1, max_failures=-1, error_file=str(folder / "error.txt"), config={"task": task}
    )


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "raydml.tuner"]


def test_a_disturbed_trial_is_said_to_go_on_or_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given_up: list[str] = []
    restarts, trial = _Restarts(1, given_up.append), disturbed(tmp_path, "The actor died\nkilled by SIGKILL")
    restarts.on_trial_result(1, [], trial, {"training_iteration": 3})
    restarts.on_trial_recover(1, [], trial)
    assert said(caplog) == ["0007 lost its process after epoch 3: killed by SIGKILL; it goes on"]
    assert (trial.config[VERDICT].decision.again, trial.max_failures, given_up) == (True, -1, [])
    trial.num_failures = 2
    restarts.on_trial_recover(1, [], trial)
    assert len(said(caplog)) == 1
    assert (trial.config[VERDICT].decision.again, trial.max_failures, given_up) == (False, 2, ["t"])


def test_what_disturbed_a_group_is_said_by_the_driver_and_its_waiting_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    restarts, trial = _Restarts(1, lambda name: None), SimpleNamespace(trial_id="t")
    for result in (
        {NEWS: "", "training_iteration": 0},
        {METRIC: 0.1, "training_iteration": 1},
        {NEWS: "0007 lost a worker after epoch 1: 100 % gone; it goes on", "training_iteration": 1},
    ):
        restarts.on_trial_result(1, [], trial, result)
    assert said(caplog) == ["0007 lost a worker after epoch 1: 100 % gone; it goes on"]

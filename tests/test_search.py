"""The searcher against a real Optuna journal and Ray's real ASHA, driven as Tune drives it, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from raydml.config import ExperimentConfig, Scalar
from raydml.config.grammar import validate
from raydml.record import point_of
from raydml.search import StudySearcher, enqueue_start_points, make_scheduler, open_study
from raydml.space import Study

METRIC = "val/map@r"


class Silent:
    """A listener that only counts."""

    def __init__(self) -> None:
        self.resumed: list[int] = []
        self.epochs: list[tuple[int, int]] = []

    def started(self, number: int, point: Mapping[str, Scalar], num_epochs: int, *, resumed: bool) -> None:
        if resumed:
            self.resumed.append(number)

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        self.epochs.append((number, int(row["training_iteration"])))

    def ended(self, trial: FrozenTrial) -> None:
        pass


def study_of(**search: object) -> Study:
    """Four epochs, three dimensions of different kinds."""
    return validate(
        Study,
        {
            "name": "s",
            "base": {"training": {"num_epochs": 4}},
            "space": {
                "loss.margin": {"low": 0.0, "high": 0.5},
                "model.embedding_dim": {"choices": [16, 32, 64]},
                "loss.scope": {"choices": ["anchor", "batch"]},
            },
            "search": {"num_trials": 8, "startup_trials": 3, "early_stopping": None, **search},
            "protocol": "quick",
        },
    )


class Driver:
    """Does to a searcher what Tune does, with a training that is a formula."""

    def __init__(self, study: Study, path: Path) -> None:
        self.study = study
        self.memory = open_study(path, name="s")
        enqueue_start_points(self.memory, study)
        self.scheduler = make_scheduler(study)
        self.listener = Silent()
        self.searcher = StudySearcher(
            study, self.memory, scheduler=self.scheduler, make_config=_config, listener=self.listener
        )

    def run(self, *, stop_after: int = 10**9) -> int:
        """Runs trials one at a time; after so many epochs it simply ends, like a killed driver."""
        epochs = 0
        for index in range(self.searcher.num_to_run):
            trial_id = f"t{index}-{id(self)}"
            config = self.searcher.suggest(trial_id)
            trial = _TuneTrial(trial_id)
            self.scheduler.on_trial_add(None, trial)
            for epoch in range(1, 5):
                if epochs == stop_after:
                    return epochs
                result = {"training_iteration": epoch, "epoch": epoch, METRIC: value_of(config["experiment"], epoch)}
                stop = epoch == 4 or self.scheduler.on_trial_result(None, trial, result) == "STOP"
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


def outcome(memory: optuna.Study) -> list[tuple[object, ...]]:
    return [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in memory.get_trials()]


def test_start_points_come_first_once_and_in_order(tmp_path: Path) -> None:
    start = [{"loss.margin": 0.1, "model.embedding_dim": 32}, {"loss.margin": 0.2}]
    Driver(study_of(start=start), tmp_path / "journal")
    driver = Driver(study_of(start=start), tmp_path / "journal")  # a restart must not enqueue them again
    waiting = driver.memory.get_trials(states=(TrialState.WAITING,))
    assert [t.system_attrs["fixed_params"]["loss.margin"] for t in waiting] == [0.1, 0.2]
    driver.run()
    points = [point_of(t, driver.study.distributions()) for t in driver.memory.get_trials()[:2]]
    assert points[0] == {"loss.margin": 0.1, "model.embedding_dim": 32, "loss.scope": "anchor"}
    assert points[1]["model.embedding_dim"] == 64  # the base's


def test_numeric_choices_are_stored_as_their_place_in_the_list(tmp_path: Path) -> None:
    driver = Driver(study_of(), tmp_path / "journal")
    driver.run()
    stored = {t.params["model.embedding_dim"] for t in driver.memory.get_trials()}
    assert stored <= {0, 1, 2}
    assert {t.params["loss.scope"] for t in driver.memory.get_trials()} <= {"anchor", "batch"}


def test_states_are_honest(tmp_path: Path) -> None:
    study = study_of(early_stopping={"grace_epochs": 1, "reduction_factor": 2}, num_trials=12)
    driver = Driver(study, tmp_path / "journal")
    driver.run()
    trials = driver.memory.get_trials()
    assert len(trials) == 12
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        last = max(trial.intermediate_values)
        assert (last == 4) == (trial.state == TrialState.COMPLETE)
        assert trial.value == trial.intermediate_values[last]


def test_a_failure_is_a_fail_with_its_reason(tmp_path: Path) -> None:
    driver = Driver(study_of(), tmp_path / "journal")
    driver.searcher.suggest("a")
    driver.searcher.on_trial_complete("a", {"failure": "the loss is not finite", "done": True})
    driver.searcher.suggest("b")
    driver.searcher.on_trial_complete("b", None, error=True)
    driver.searcher.suggest("c")
    driver.searcher.on_trial_complete("c", {"training_iteration": 2, "epoch": 2, METRIC: 0.1}, error=True)
    trials = driver.memory.get_trials()
    assert [t.state for t in trials] == [TrialState.FAIL] * 3
    assert trials[0].user_attrs["failure"] == "the loss is not finite"
    assert "process died" in trials[1].user_attrs["failure"]
    assert "process died" in trials[2].user_attrs["failure"]


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5, 9, 14])
def test_a_killed_driver_changes_nothing(tmp_path: Path, stop_after: int) -> None:
    study = study_of(
        early_stopping={"grace_epochs": 1, "reduction_factor": 2},
        num_trials=10,
        start=[{"loss.margin": 0.25}],
    )
    undisturbed = Driver(study, tmp_path / "a")
    undisturbed.run()
    Driver(study, tmp_path / "b").run(stop_after=stop_after)
    again = Driver(study, tmp_path / "b")
    again.run()
    assert outcome(again.memory) == outcome(undisturbed.memory)


def test_a_trial_killed_before_its_parameters_were_drawn_draws_the_same_ones(tmp_path: Path) -> None:
    study = study_of()
    undisturbed = Driver(study, tmp_path / "a")
    undisturbed.run()
    driver = Driver(study, tmp_path / "b")
    driver.memory.sampler = driver.searcher._sampler(0)
    driver.memory.ask()  # RUNNING, no parameter yet
    again = Driver(study, tmp_path / "b")
    again.run()
    assert again.listener.resumed == [0]
    assert outcome(again.memory) == outcome(undisturbed.memory)


def test_a_continued_trial_reports_its_old_epochs_without_a_trace(tmp_path: Path) -> None:
    driver = Driver(study_of(num_trials=1), tmp_path / "journal")
    driver.run(stop_after=2)
    again = Driver(driver.study, tmp_path / "journal")
    again.run()
    assert again.listener.resumed == [0]
    assert again.listener.epochs == [(0, 3), (0, 4)]


def test_a_continued_trial_is_not_counted_twice_in_a_rung(tmp_path: Path) -> None:
    # Ray's own restore writes a later value of a continued trial into an earlier rung (ray#30838).
    study = study_of(early_stopping={"grace_epochs": 1, "reduction_factor": 2}, num_trials=2)
    Driver(study, tmp_path / "journal").run(stop_after=3)
    again = Driver(study, tmp_path / "journal")
    again.run()
    rungs = {milestone: len(recorded) for milestone, recorded in again.scheduler._brackets[0]._rungs}
    assert rungs[1] == 2


def test_more_trials_continue_the_same_sequence(tmp_path: Path) -> None:
    all_at_once = Driver(study_of(num_trials=8), tmp_path / "a")
    all_at_once.run()
    Driver(study_of(num_trials=5), tmp_path / "b").run()
    later = Driver(study_of(num_trials=8), tmp_path / "b")
    assert later.searcher.num_to_run == 3
    later.run()
    assert outcome(later.memory) == outcome(all_at_once.memory)


def test_a_suggestion_is_a_function_of_seed_number_and_study(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        driver = Driver(study_of(seed=seed), tmp_path / name)
        driver.run()
        runs.append(outcome(driver.memory))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_half_a_line_and_a_stale_lock_are_cleared(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Driver(study_of(num_trials=2), path).run()
    before = outcome(open_study(path, name="s"))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"op_code":4,"wor')
    (tmp_path / "journal.lock").touch()
    memory = open_study(path, name="s")
    assert outcome(memory) == before
    memory.ask()
    assert len(open_study(path, name="s").get_trials()) == 3


def test_unfinished_trials_run_even_where_fewer_are_asked_for(tmp_path: Path) -> None:
    Driver(study_of(num_trials=4), tmp_path / "journal").run(stop_after=1)
    fewer = Driver(study_of(num_trials=1), tmp_path / "journal")
    assert fewer.searcher.num_to_run == 1
    fewer.run()
    assert not fewer.memory.get_trials(states=(TrialState.RUNNING,))


def test_without_rungs_there_is_no_pruning() -> None:
    assert type(make_scheduler(study_of())).__name__ == "FIFOScheduler"
    too_short = study_of(early_stopping={"grace_epochs": 4, "reduction_factor": 2})
    assert type(make_scheduler(too_short)).__name__ == "FIFOScheduler"

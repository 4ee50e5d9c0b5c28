"""The searcher against a real Optuna journal and Ray's real ASHA, driven as Tune drives it, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from raydml.record import point_of
from raydml.search import make_scheduler, open_study
from tests.searches import METRIC, Driver, outcome, study_of


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


@pytest.mark.parametrize("num_epochs", [0, 1, 4, 6, 9])
def test_a_search_that_is_out_of_time_goes_on_as_if_nothing_had_happened(tmp_path: Path, num_epochs: int) -> None:
    study = study_of(early_stopping={"grace_epochs": 1, "reduction_factor": 2}, num_trials=10)
    undisturbed = Driver(study, tmp_path / "a")
    undisturbed.run()
    short = Driver(study, tmp_path / "b", num_epochs=num_epochs)
    short.run()
    states = [trial.state for trial in short.memory.get_trials()]
    assert states.count(TrialState.RUNNING) == len(short.listener.waiting) <= 1
    assert len(states) < 10
    assert short.searcher.suggest("another") == "FINISHED", "no trial starts when time is up"
    again = Driver(study, tmp_path / "b")
    again.run()
    assert again.listener.resumed == [number for number, _ in short.listener.waiting]
    assert outcome(again.memory) == outcome(undisturbed.memory)


@pytest.mark.parametrize("result", [None, {"news": "", "training_iteration": 0}], ids=["inline", "a group"])
def test_who_waits_for_a_machine_when_time_is_up_goes_on_with_the_next_driver(
    tmp_path: Path, result: dict[str, object] | None
) -> None:
    driver = Driver(study_of(num_trials=2), tmp_path / "journal", num_epochs=1)
    driver.searcher.suggest("a")
    driver._epochs_left = 0
    assert driver.searcher.stop("a", result or {})
    driver.searcher.on_trial_complete("a", result)
    [waiting] = driver.memory.get_trials()
    assert (waiting.state, waiting.intermediate_values) == (TrialState.RUNNING, {})
    assert driver.listener.waiting == [(0, None)]
    again = Driver(study_of(num_trials=2), tmp_path / "journal")
    again.run()
    assert again.listener.resumed == [0]
    assert [trial.state for trial in again.memory.get_trials()] == [TrialState.COMPLETE] * 2


def test_a_trial_out_of_time_is_neither_pruned_nor_complete(tmp_path: Path) -> None:
    driver = Driver(study_of(), tmp_path / "journal", num_epochs=6)
    driver.run()
    complete, waiting = driver.memory.get_trials()
    assert (complete.state, waiting.state) == (TrialState.COMPLETE, TrialState.RUNNING)
    assert list(waiting.intermediate_values) == [1, 2]
    assert driver.listener.waiting == [(1, 2)]


def test_the_last_epoch_completes_a_trial_even_where_it_is_the_last_of_the_time(tmp_path: Path) -> None:
    driver = Driver(study_of(), tmp_path / "journal", num_epochs=4)
    driver.run()
    assert [trial.state for trial in driver.memory.get_trials()] == [TrialState.COMPLETE]


def test_a_failure_is_a_failure_even_where_time_is_up(tmp_path: Path) -> None:
    driver = Driver(study_of(), tmp_path / "journal", num_epochs=1)
    driver.searcher.suggest("a")
    driver._epochs_left = 0
    result = {"failure": "the loss is not finite", "done": True}
    assert driver.searcher.stop("a", result)
    driver.searcher.on_trial_complete("a", result)
    assert [trial.state for trial in driver.memory.get_trials()] == [TrialState.FAIL]


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

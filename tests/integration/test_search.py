"""A whole search as a user runs it: what it prints, and what it leaves on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from optuna_dashboard import wsgi
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raydml.record import point_of
from raydml.space import read
from tests.integration.conftest import FinishedSearch
from tests.integration.studies import (
    command,
    curves_of,
    environment,
    outcome,
    run_here,
    trials_of,
    wait_for,
    write_study,
)


def test_search_ends_with_as_many_trials_as_asked_and_none_running(finished: FinishedSearch) -> None:
    states = [trial.state for trial in trials_of(finished.folder)]
    assert len(states) == 6
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_pruned_trials_are_pruned_with_their_last_value(finished: FinishedSearch) -> None:
    pruned = [trial for trial in trials_of(finished.folder) if trial.state == TrialState.PRUNED]
    assert pruned, "the small study is made so that some trials are pruned"
    curves = curves_of(finished.folder)
    for trial in pruned:
        curve = curves[f"{trial.number:04d}"]
        assert len(curve) < 4
        assert trial.value == pytest.approx(curve[-1]["val/map@r"], abs=1e-12)


def test_complete_trials_have_their_last_epochs_value(finished: FinishedSearch) -> None:
    curves = curves_of(finished.folder)
    for trial in trials_of(finished.folder):
        curve = [row["val/map@r"] for row in curves[f"{trial.number:04d}"]]
        assert list(trial.intermediate_values.values()) == pytest.approx(curve, abs=1e-12)
        if trial.state == TrialState.COMPLETE:
            assert len(curve) == 4
            assert trial.value == pytest.approx(curve[-1], abs=1e-12)


def test_literature_values_are_tried_first(finished: FinishedSearch) -> None:
    assert trials_of(finished.folder)[0].params == {"loss.margin": 0.2, "loss.scale": 16.0}


def test_it_prints_a_leaderboard_the_baseline_and_what_to_do_next(finished: FinishedSearch) -> None:
    text = finished.process.stdout
    assert "synthetic images; exploratory: 1 of 4 folds" in text
    assert "x raw pixels" in text
    assert "python -m raydml.evaluate" in text
    assert "tensorboard --logdir" in text
    assert text.count("starts:") == 6


def test_best_yaml_is_the_best_trial_with_an_empty_space(finished: FinishedSearch) -> None:
    study, best = read(finished.path), read(finished.folder / "best.yaml")
    winner = max(
        (t for t in trials_of(finished.folder) if t.state == TrialState.COMPLETE), key=lambda t: t.value or 0.0
    )
    assert best.space == {}
    assert best.base == study.experiment(point_of(winner, study.distributions()))
    assert best.checkpoint == f"trials/{winner.number:04d}/checkpoint"
    assert (finished.folder / best.checkpoint / "model.safetensors").exists()


def test_only_the_best_trial_keeps_its_checkpoint(finished: FinishedSearch) -> None:
    assert len(list(finished.folder.glob("trials/*/checkpoint"))) == 1


def test_no_scratch_files_stay(finished: FinishedSearch) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    assert {"study.yaml", "identity.json", "optuna.journal", "trials", "best.yaml", "baseline.json"} <= names
    assert ".tune" not in names
    assert not list(finished.folder.rglob("*.part"))


def test_provenance_is_kept(finished: FinishedSearch) -> None:
    identity = json.loads((finished.folder / "identity.json").read_text(encoding="utf-8"))
    assert identity["versions"]["ray"].startswith("2.60.")
    assert len(identity["identity"]["data_fingerprint"]) == 20


def test_tensorboard_has_every_curve_and_the_searched_values(finished: FinishedSearch) -> None:
    curves = curves_of(finished.folder)
    for name, curve in curves.items():
        events = EventAccumulator(str(finished.folder / "trials" / name))
        events.Reload()
        values = [event.value for event in events.Scalars("val/map@r")]
        assert values == pytest.approx([row["val/map@r"] for row in curve], abs=1e-6)
        assert "_hparams_/session_start_info" in events.Tags()["tensors"]
        assert "_hparams_/session_end_info" in events.Tags()["tensors"]


def test_optuna_dashboard_opens_the_study(finished: FinishedSearch) -> None:
    storage = JournalStorage(JournalFileBackend(str(finished.folder / "optuna.journal")))
    application = wsgi(storage)
    status: list[str] = []
    query = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/api/studies",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": None,
    }
    body = b"".join(application(query, lambda code, headers, *_: status.append(code)))
    assert status == ["200 OK"]
    assert json.loads(body)["study_summaries"][0]["study_name"] == "small"


@pytest.mark.usefixtures("ray_here")
def test_the_same_command_again_changes_nothing(finished: FinishedSearch, tmp_path: Path) -> None:
    copy = tmp_path / "runs" / "small"
    shutil.copytree(finished.folder, copy)
    again = run_here("tune", finished.path, f"storage={tmp_path / 'runs'}")
    assert again.returncode == 0, again.stderr
    assert "starts:" not in again.stdout
    assert outcome(copy) == outcome(finished.folder)


@pytest.mark.usefixtures("ray_here")
def test_more_trials_continue_a_finished_study(finished: FinishedSearch, tmp_path: Path) -> None:
    copy = tmp_path / "runs" / "small"
    shutil.copytree(finished.folder, copy)
    more = run_here("tune", finished.path, f"storage={tmp_path / 'runs'}", "search.num_trials=8")
    assert more.returncode == 0, more.stderr
    assert more.stdout.count("starts:") == 2
    assert outcome(copy)[:6] == outcome(finished.folder)
    assert len(trials_of(copy)) == 8


@pytest.mark.usefixtures("ray_here")
def test_another_study_is_a_warm_start(finished: FinishedSearch, tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    one = ("search.max_concurrent=1", "search.start=[]", "search.num_trials=1")
    first = run_here("tune", path, f"search.warm_start=[{finished.folder}]", *one)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"warm start: 6 trials of {finished.folder}\n" in first.stdout
    assert len(trials_of(folder)) == 1
    assert read(folder / "best.yaml").search.warm_start == ()
    other = run_here("tune", path, f"search.warm_start=[{finished.folder}]", "name=other", "optimizer.lr=0.1", *one)
    assert other.returncode == 2
    assert "cannot be compared: base.optimizer.lr is 0.003 there and 0.1 here" in other.stderr
    assert not (tmp_path / "runs" / "other" / "identity.json").exists()


def test_a_second_driver_is_refused(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    first = subprocess.Popen(command("tune", path), env=environment(), stdout=subprocess.DEVNULL)
    try:
        wait_for((tmp_path / "runs" / "small" / "optuna.journal").exists)
        second = run_here("tune", path)
        assert second.returncode == 2
        assert "another process is running this study" in second.stderr
    finally:
        first.kill()
        first.wait()


@pytest.mark.usefixtures("ray_here")
def test_a_trial_whose_loss_is_not_finite_fails_with_its_step_and_the_search_goes_on(
    tmp_path: Path, cache: Path
) -> None:
    path = write_study(tmp_path, cache)
    process = run_here(
        "tune",
        path,
        "space={optimizer.lr: {choices: [3.0e-3, 1.0e+30]}}",
        "search.start=[{optimizer.lr: 1.0e+30}, {optimizer.lr: 3.0e-3}]",
        "search.num_trials=3",
        "search.max_concurrent=1",
    )
    assert process.returncode == 0, process.stdout + process.stderr
    failed, *others = trials_of(tmp_path / "runs" / "small")
    assert failed.state == TrialState.FAIL
    assert "not finite at epoch 1, step 1" in failed.user_attrs["failure"]
    assert "not finite at epoch 1, step 1" in process.stdout
    assert any(trial.state == TrialState.COMPLETE for trial in others)


@pytest.mark.usefixtures("ray_here")
def test_a_search_without_a_complete_trial_says_so_with_exit_code_one(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    process = run_here("tune", path, "optimizer.lr=1.0e+30", "search.num_trials=2")
    assert process.returncode == 1
    assert "no trial completed" in process.stdout
    assert all(trial.state == TrialState.FAIL for trial in trials_of(tmp_path / "runs" / "small"))

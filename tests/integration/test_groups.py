"""Trials of several workers. Each test is one of the four defects of Ray's documented pattern, reproduced against ours.

specs/ray.md, section 0, fact 2: a the deadlock of a busy driver, b the placement groups of pruned trials, c the history
of a resumed trial, d the result of a trial that had finished before the kill.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from raydml.capacity import Worker
from raydml.history import read_history
from raydml.recorded import Task
from raydml.session import import_ray
from raydml.space import read
from raydml.training import RunSpec
from raydml.tune import search
from raydml.workers import WorkerGroup
from tests.integration.studies import command, curves_of, environment, run, run_here, trials_of, wait_for, write_study
from tests.training_cases import train

TWO_WORKERS = "resources.workers_per_trial=2"


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_here")
def test_defects_a_and_b_busy_driver_and_pruned_trials_neither_hang_nor_leak(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The dashboard is off, as everywhere in raydml: Ray's own cleaner of placement groups then never works.
    from raydml.display import SearchDisplay

    path = write_study(tmp_path, cache)
    show = SearchDisplay.epoch

    def slowly(self: SearchDisplay, number: int, row: dict[str, float]) -> None:
        # Longer than a whole training: the workers end while the driver is busy with their first report.
        if row["epoch"] == 1:
            time.sleep(6)
        show(self, number, row)

    monkeypatch.setattr(SearchDisplay, "epoch", slowly)
    study = read(path, [TWO_WORKERS, "search.num_trials=3"])
    result = search(study)
    ray = import_ray()
    states = [group["state"] for group in ray.util.placement_group_table().values()]
    free = ray.available_resources()
    found = [trial.state for trial in result.trials]
    # Which of the later ones is pruned hangs on the last digits of tiny trainings.
    assert len(found) == 3
    assert found[0] == TrialState.COMPLETE
    assert {*found} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert set(states) <= {"REMOVED"}
    assert free["CPU"] == pytest.approx(ray.cluster_resources()["CPU"])


@pytest.mark.endurance  # two minutes, and tests/integration/test_resume.py kills searches too
def test_defect_c_a_killed_search_keeps_the_history_of_the_trial_in_flight(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    overrides = [TWO_WORKERS, "search.num_trials=1", "training.num_epochs=40"]
    driver = subprocess.Popen(command("tune", path, *overrides), env=environment(), stdout=subprocess.DEVNULL)
    history = folder / "trials" / "0000" / "metrics.jsonl"
    wait_for(lambda: history.exists() and len(history.read_text().splitlines()) >= 3)
    driver.kill()
    driver.wait()
    before = curves_of(folder)["0000"]
    again = run("tune", path, *overrides)
    assert again.returncode == 0, again.stdout + again.stderr
    after = curves_of(folder)["0000"]
    assert after[: len(before)] == before
    assert [row["epoch"] for row in after] == list(range(1, 41))
    assert list(trials_of(folder)[0].intermediate_values) == list(range(1, 41))


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_here")
def test_defect_d_a_trial_that_finished_before_the_kill_is_told_and_not_trained_again(
    tmp_path: Path, cache: Path
) -> None:
    path = write_study(tmp_path, cache)
    assert run_here("tune", path, "search.num_trials=1", TWO_WORKERS).returncode == 0
    folder = tmp_path / "runs" / "small"
    # As if the driver had died between the last report and the tell: the journal ends while the trial runs.
    journal = folder / "optuna.journal"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    told = next(index for index, line in enumerate(lines) if '"intermediate_value"' in line)
    journal.write_text("".join(lines[:told]), encoding="utf-8")
    assert trials_of(folder)[0].state == TrialState.RUNNING
    checkpoint = next(folder.glob("trials/0000/checkpoint/meta.json"))
    written = checkpoint.stat().st_mtime_ns
    assert run_here("tune", path, "search.num_trials=1", TWO_WORKERS).returncode == 0
    [trial] = trials_of(folder)
    assert trial.state == TrialState.COMPLETE
    assert len(trial.intermediate_values) == 4
    assert checkpoint.stat().st_mtime_ns == written


@pytest.mark.usefixtures("ray_here")
def test_a_group_is_stopped_in_the_middle_and_frees_its_cpus(tmp_path: Path, cache: Path) -> None:
    study = read(write_study(tmp_path, cache), ["training.num_epochs=10000"])
    group = WorkerGroup(
        Task(RunSpec(study.base, tmp_path / "run"), {}, Worker(1.0, 0.0)), num_workers=2, max_failures=0
    )
    reports = group.epochs()
    assert next(reports)["epoch"] == 1
    group.close()
    ray = import_ray()
    wait_for(lambda: ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"])
    assert 1 <= len(read_history(tmp_path / "run")) < 10000


@pytest.mark.usefixtures("ray_here")
def test_one_and_two_workers_per_trial_search_the_same(tmp_path: Path, cache: Path) -> None:
    """Float64, so that a difference is a difference: same suggestions, same prunings, same curves."""
    outcomes = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        path = write_study(folder, cache)
        process = run_here(
            "tune",
            path,
            f"resources.workers_per_trial={workers}",
            "training.precision=float64",
            "search.num_trials=2",
            "search.max_concurrent=1",
        )
        assert process.returncode == 0, process.stderr
        outcomes.append((trials_of(folder / "runs" / "small"), curves_of(folder / "runs" / "small")))
    (one, curves_one), (two, curves_two) = outcomes
    for a, b in zip(one, two, strict=True):
        assert (a.state, a.params) == (b.state, b.params)
        assert a.intermediate_values == pytest.approx(b.intermediate_values, rel=1e-8)
    for name, curve in curves_one.items():
        # Workers of a pruned group may have finished another epoch before the word reached them.
        for row, other in zip(curve, curves_two[name], strict=False):
            assert row == pytest.approx(other, rel=1e-8)


@pytest.mark.usefixtures("ray_here")
def test_training_code_is_the_same_without_ray_and_reports_wait_for_a_late_reader(tmp_path: Path, cache: Path) -> None:
    study = read(write_study(tmp_path, cache), ["training.precision=float64"])
    rows: list[dict[str, float]] = []
    train(RunSpec(study.base, tmp_path / "plain"), device=torch.device("cpu"), report=rows.append)
    group = WorkerGroup(
        Task(RunSpec(study.base, tmp_path / "ray"), {}, Worker(1.0, 0.0)), num_workers=2, max_failures=0
    )
    wait_for(lambda: not group._thread.is_alive())
    reported = list(group.epochs())
    group.close()
    for a, b in zip(rows, reported, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in b.items() if k != "seconds"}, rel=1e-8
        )

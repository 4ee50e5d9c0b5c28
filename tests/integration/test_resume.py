"""Kill anything, run the same command again: nothing is lost, repeated or changed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from raydml.budget import Clock
from tests.integration.conftest import FinishedSearch
from tests.integration.processes import command_line, signal_to
from tests.integration.studies import (
    command,
    curves_of,
    environment,
    outcome,
    run,
    run_here,
    trials_of,
    wait_for,
    write_study,
)


def start(path: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """A search in the background, one trial at a time."""
    return subprocess.Popen(
        command("tune", path, "search.max_concurrent=1", *overrides),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def killed_behind(path: Path, *overrides: str) -> Iterator[None]:
    """A search in the background, killed at the end of the block, whatever happened there."""
    driver = start(path, *overrides)
    try:
        yield
    finally:
        driver.kill()
        driver.wait()


def epochs_of(folder: Path, trial: int) -> int:
    """Epochs a trial has on disk."""
    path = folder / "trials" / f"{trial:04d}" / "metrics.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def trial_processes(driver: int) -> list[psutil.Process]:
    """The actors of a driver's trials."""
    children = psutil.Process(driver).children(recursive=True)
    return [child for child in children if "ray::InlineTrial" in command_line(child)]


def kill_one_trial(driver: int) -> None:
    """Kills the actor of a running trial as soon as one is seen."""
    found: list[psutil.Process] = []

    def see_one() -> bool:
        found.extend(trial_processes(driver)[:1])
        return bool(found)

    wait_for(see_one)
    signal_to(found[0], "kill")


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda folder: epochs_of(folder, 0) >= 2, id="in the first trial"),
        pytest.param(lambda folder: epochs_of(folder, 3) >= 1, id="after pruned trials"),
    ],
)
def test_a_killed_driver_leaves_the_outcome_of_an_undisturbed_search(
    finished: FinishedSearch, tmp_path: Path, cache: Path, moment: Callable[[Path], bool]
) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    with killed_behind(path):
        wait_for(lambda: moment(folder))
    states = [trial.state for trial in trials_of(folder)]
    ended, was_running = sum(state.is_finished() for state in states), TrialState.RUNNING in states
    assert ended < 6, "it was killed before its end"
    again = run_here("tune", path, "search.max_concurrent=1")
    assert again.returncode == 0, again.stdout + again.stderr
    # Whether a trial was running, too, or none between two of them.
    assert ("the search goes on: " in again.stdout) == (ended > 0)
    assert (" goes on: loss" in again.stdout) == was_running
    assert outcome(folder) == outcome(finished.folder)
    assert curves_of(folder) == curves_of(finished.folder)


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("sampler", ["cmaes", "gp"])
def test_a_killed_search_goes_on_with_every_sampler(tmp_path: Path, cache: Path, sampler: str) -> None:
    """Ten trials: the last ones of cmaes are of its second generation."""
    options = [f"search.sampler={sampler}", "search.startup_trials=2", "search.num_trials=10"]
    options += ["search.max_concurrent=1", "training.steps_per_epoch=1"]
    for name in ("killed", "undisturbed"):
        (tmp_path / name).mkdir()
    killed, undisturbed = (tmp_path / name / "runs" / "small" for name in ("killed", "undisturbed"))
    with killed_behind(write_study(tmp_path / "killed", cache), *options):
        wait_for(lambda: epochs_of(killed, 8) >= 1)
    assert Clock(killed / "clock.json").seconds() > 0.0, "the time until the kill counts"
    for name in ("killed", "undisturbed"):
        process = run_here("tune", write_study(tmp_path / name, cache), *options)
        assert process.returncode == 0, process.stdout + process.stderr
    assert outcome(killed) == outcome(undisturbed)
    assert curves_of(killed) == curves_of(undisturbed)


def test_a_killed_trial_goes_on_from_its_last_epoch(finished: FinishedSearch, tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    driver = start(path)
    try:
        # Ray names a process after what it runs, so one between two steps may be missed by a single look.
        wait_for(lambda: epochs_of(folder, 0) >= 1)
        kill_one_trial(driver.pid)
        assert driver.wait(timeout=240) == 0
    finally:
        driver.kill()
    assert outcome(folder) == outcome(finished.folder)
    assert curves_of(folder) == curves_of(finished.folder)


@pytest.mark.usefixtures("ray_here")
def test_a_process_that_is_lost_between_two_trials_costs_neither(
    finished: FinishedSearch,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tune 2.60 ends the second one as failed. Where it does not, `raydml.admission` need not hand it out again."""
    from ray import tune

    from raydml.trial import InlineTrial

    marker = tmp_path / "killed"

    class Dies(InlineTrial):
        """Once, when it is given its second trial."""

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return InlineTrial.reset_config(self, new_config)

    monkeypatch.setattr(
        "raydml.tuner.trainable_of", lambda resources, cpus, gpus: tune.with_resources(Dies, {"CPU": cpus, "GPU": gpus})
    )
    process = run_here("tune", write_study(tmp_path, cache), "search.max_concurrent=1")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "0001 lost its process before it began; it goes on" in caplog.messages
    assert outcome(tmp_path / "runs" / "small") == outcome(finished.folder)
    assert curves_of(tmp_path / "runs" / "small") == curves_of(finished.folder)


def test_an_interrupted_search_says_that_it_can_go_on(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    driver = subprocess.Popen(
        command("tune", path, "search.max_concurrent=1"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: epochs_of(tmp_path / "runs" / "small", 0) >= 1)
    os.kill(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert "the same command goes on" in errors
    assert not [trial for trial in trials_of(tmp_path / "runs" / "small") if trial.state == TrialState.FAIL]


@pytest.mark.endurance
@pytest.mark.timeout(3600)
def test_twenty_kills_change_nothing(finished: FinishedSearch, tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    chance = random.Random(0)
    kills = 0
    while kills < 20:
        driver = start(path)
        try:
            # Anywhere between the import of torch and the end of a few trials.
            driver.wait(timeout=chance.uniform(2.0, 14.0))
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
            kills += 1
        else:
            # The search ended between two kills: it must be right, and another begins.
            assert outcome(folder) == outcome(finished.folder)
            shutil.rmtree(folder)
    last = run("tune", path, "search.max_concurrent=1")
    assert last.returncode == 0, last.stdout + last.stderr
    assert outcome(folder) == outcome(finished.folder)
    assert curves_of(folder) == curves_of(finished.folder)

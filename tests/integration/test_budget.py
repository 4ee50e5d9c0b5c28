"""Hours of a search with real Ray: when time is up it ends cleanly, and goes on as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState

from raydml import tune
from raydml.budget import Clock
from raydml.session import import_ray, joining
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

import_ray()

from ray.util import placement_group, remove_placement_group  # noqa: E402


@pytest.fixture
def an_epoch_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that stands still but for epochs on disk, each a second: the same on every machine."""

    def clock(path: Path) -> Clock:
        return Clock(path, now=lambda: float(sum(map(len, curves_of(path.parent).values()))))

    monkeypatch.setattr(tune, "Clock", clock)


@pytest.mark.usefixtures("ray_here", "an_epoch_a_second")
def test_a_search_stops_in_time_and_goes_on_with_more(finished: FinishedSearch, tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    one_at_a_time = "search.max_concurrent=1"
    # The fifth epoch is the first of the second trial.
    first = run_here("tune", path, one_at_a_time, f"search.max_hours={5 / 3600}")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "waits at epoch 1/4: time is up" in first.stdout
    assert "time is up: 0.00139 of 0.00138889 hours, 1 of 6 trials ended, 1 waits at the last epoch" in first.stdout
    assert "go on: the same command with search.max_hours=0.00278" in first.stdout
    assert "best: trial 0" in first.stdout
    complete, waiting = trials_of(folder)
    assert (complete.state, waiting.state) == (TrialState.COMPLETE, TrialState.RUNNING)
    assert len(waiting.intermediate_values) == 1
    assert (folder / "trials" / "0001" / "checkpoint").exists()
    assert json.loads((folder / "clock.json").read_text(encoding="utf-8")) == {"seconds": 5.0}

    before = outcome(folder)
    again = run_here("tune", path, one_at_a_time, f"search.max_hours={5 / 3600}")
    assert again.returncode == 0
    assert "time is up" in again.stdout
    assert outcome(folder) == before

    last = run_here("tune", path, one_at_a_time, "search.max_hours=1")
    assert last.returncode == 0, last.stdout + last.stderr
    assert "trial   1 goes on" in last.stdout
    assert "time is up" not in last.stdout
    assert outcome(folder) == outcome(finished.folder)
    assert curves_of(folder) == curves_of(finished.folder)


@contextmanager
def without_machines() -> Iterator[None]:
    """Somebody else has every core of the cluster."""
    ray = import_ray()
    wait_for(lambda: ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"], timeout=30)
    taken = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    ray.get(taken.ready())
    try:
        yield
    finally:
        remove_placement_group(taken)


@pytest.mark.usefixtures("ray_here")
def test_time_is_up_while_every_trial_waits_for_a_machine(tmp_path: Path, cache: Path) -> None:
    path, folder = write_study(tmp_path, cache), tmp_path / "runs" / "small"
    options = ["search.num_trials=1", "training.num_epochs=2"]
    with without_machines():
        process = run_here("tune", path, *options, "search.max_hours=0.001")
    assert process.returncode == 1, process.stdout + process.stderr
    assert "trial   0 waits at epoch 0/2: time is up" in process.stdout
    assert "time is up: 0.00" in process.stdout
    assert "0 of 1 trials ended, 1 waits at the last epoch" in process.stdout
    assert json.loads((folder / "clock.json").read_text(encoding="utf-8"))["seconds"] < 60
    assert [trial.state for trial in trials_of(folder)] == [TrialState.RUNNING]
    again = run_here("tune", path, *options, "search.max_hours=1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "trial   0 goes on" in again.stdout
    assert [trial.state for trial in trials_of(folder)] == [TrialState.COMPLETE]


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_here")
def test_time_is_up_while_every_group_waits_for_machines(tmp_path: Path, cache: Path) -> None:
    """In a process of its own: what its groups have asked for goes with its connection."""
    path, folder = write_study(tmp_path, cache), tmp_path / "runs" / "small"
    options = ["resources.workers_per_trial=2", "search.num_trials=1", "training.num_epochs=2"]
    joined = {**environment(), **joining()}
    line = command("tune", path, *options, "search.max_hours=0.001")
    with without_machines():
        first = subprocess.run(line, env=joined, capture_output=True, text=True, timeout=120, check=False)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "trial   0 waits at epoch 0/2: time is up" in first.stdout
    assert "news" not in first.stdout + first.stderr
    line = command("tune", path, *options, "search.max_hours=1")
    again = subprocess.run(line, env=joined, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [trial.state for trial in trials_of(folder)] == [TrialState.COMPLETE]


@pytest.mark.usefixtures("ray_here")
def test_no_trial_starts_when_time_is_up(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    process = run_here("tune", path, "search.max_hours=1.0e-9")
    assert process.returncode == 1
    assert "no trial completed" in process.stdout
    assert "time is up: " in process.stdout
    assert "starts:" not in process.stdout
    assert [trial.state for trial in trials_of(tmp_path / "runs" / "small")] == [TrialState.WAITING]

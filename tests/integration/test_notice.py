"""A machine that is about to go: the trial on it leaves in the middle of an epoch and goes on on another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from raydml.history import read_history
from raydml.notice import Goes, Raylet, drained, raylet_of
from raydml.record import trial_directory
from raydml.space import read
from raydml.training import RunSpec
from tests.divided_cases import timeless
from tests.integration.clusters import LocalCluster, cluster
from tests.integration.studies import trials_of, wait_for, write_study
from tests.training_cases import train

OVERRIDES = ["search.num_trials=1", "search.max_concurrent=1", "training.num_epochs=2", "training.steps_per_epoch=600"]


@pytest.fixture
def here() -> Iterator[LocalCluster]:
    """A head that runs no trials and two machines that have room for one trial each."""
    with cluster() as found:
        found.start_head("--include-dashboard=false")
        found.join(1, 1)
        yield found


def trial_of(here: LocalCluster) -> psutil.Process:
    """The process of the only trial."""
    wait_for(lambda: bool(here.trials()), timeout=240)
    [process] = here.trials()
    return process


def raylet_above(process: psutil.Process) -> Raylet:
    [raylet] = filter(None, (raylet_of(parent.cmdline()) for parent in process.parents()))
    return raylet


@pytest.mark.endurance
def test_a_trial_leaves_a_machine_that_drains_in_mid_epoch_and_goes_on_on_another(
    here: LocalCluster, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, err = write_study(tmp_path, cache), tmp_path / "out", tmp_path / "err"
    folder = trial_directory(tmp_path / "runs" / "small", 0)
    with here.driver("tune", path, "search.max_retries=0", *OVERRIDES, out=out, err=err) as driver:
        process = trial_of(here)
        wait_for((folder / "metrics.jsonl").exists, timeout=240)
        began = process.cpu_times().user
        # In the middle of the second epoch, which takes some seconds of a core, on however slow a machine.
        wait_for(lambda: process.cpu_times().user > began + 0.5)
        # It stands still meanwhile: to drain takes as long as an epoch.
        process.suspend()
        with monkeypatch.context() as patch:
            for name, value in here.environment().items():
                patch.setenv(name, value)
            assert drained(raylet_above(process), Goes(60.0, "a test"))
        process.resume()
        wait_for(lambda: unfinished(folder) is not None)
        left = unfinished(folder)
        wait_for(lambda: process not in here.trials())
        assert driver.wait(timeout=240) == 0, err.read_text("utf-8")
    assert left is not None
    assert 0 < left["num_steps"] < 600
    assert "0000 left its machine" in err.read_text("utf-8")
    [trial] = trials_of(tmp_path / "runs" / "small")
    assert trial.state.name == "COMPLETE", "a notice is not counted: search.max_retries is zero"
    study = read(path, OVERRIDES)
    plain = RunSpec(study.experiment(trial_point(folder)), tmp_path / "plain")
    train(plain, device=torch.device("cpu"), report=lambda row: None)
    assert timeless(read_history(folder)) == timeless(read_history(tmp_path / "plain")), "bit for bit"


def trial_point(folder: Path) -> dict[str, float]:
    """The start point of the study."""
    assert folder.name == "0000"
    return {"loss.margin": 0.2, "loss.scale": 16.0}


def unfinished(folder: Path) -> dict[str, float] | None:
    """What the checkpoint of a trial says of an epoch that was left; None while none was."""
    try:
        found: dict[str, float] | None = json.loads((folder / "checkpoint" / "meta.json").read_text())["unfinished"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found

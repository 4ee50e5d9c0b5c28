"""A machine that is about to go: the trial on it leaves in the middle of an epoch and goes on on another one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from raydml.history import read_history
from raydml.notice import Goes, Raylet, drained, raylet_of
from raydml.record import trial_directory
from raydml.session import import_ray
from raydml.space import read
from raydml.training import RunSpec, train
from tests.divided_cases import timeless
from tests.integration.studies import command, environment, trials_of, wait_for, write_study

OVERRIDES = ["search.num_trials=1", "search.max_concurrent=1", "training.num_epochs=2", "training.steps_per_epoch=600"]
# A process is named after what it runs: an actor between two steps, Tune's wrapper of the class in a step.
_TRIALS = ("ray::InlineTrial", "ray::ResourceTrainable")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head that runs no trials and two machines that have room for one trial each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    import_ray()
    from ray.cluster_utils import Cluster

    here = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        here.add_node(num_cpus=1)
    yield here.address
    here.shutdown()


def trial_processes(cluster: str) -> list[psutil.Process]:
    """Those of the trials that run, on whatever machine of the cluster."""
    every = list(psutil.process_iter(["cmdline"]))
    trials = [process for process in every if any(name in " ".join(process.info["cmdline"] or ()) for name in _TRIALS)]
    return [process for process in trials if raylet_above(process, cluster) is not None]


def running_trial(cluster: str) -> psutil.Process:
    """The first one that is seen."""
    seen: list[psutil.Process] = []

    def look() -> bool:
        seen[:] = trial_processes(cluster)
        return bool(seen)

    wait_for(look)
    return seen[0]


def raylet_above(process: psutil.Process, cluster: str) -> Raylet | None:
    found = (raylet_of(parent.cmdline()) for parent in process.parents())
    return next((raylet for raylet in found if raylet is not None and raylet.address == cluster), None)


@pytest.mark.endurance
def test_a_trial_leaves_a_machine_that_drains_in_mid_epoch_and_goes_on_on_another(
    cluster: str, tmp_path: Path, cache: Path
) -> None:
    path = write_study(tmp_path, cache)
    folder = trial_directory(tmp_path / "runs" / "small", 0)
    errors = (tmp_path / "errors").open("w+")
    driver = subprocess.Popen(
        command("tune", path, "search.max_retries=0", *OVERRIDES),
        env={**environment(), "RAY_ADDRESS": cluster},
        stdout=subprocess.DEVNULL,
        stderr=errors,
    )
    try:
        wait_for(lambda: (folder / "config.yaml").exists(), timeout=240)
        process = running_trial(cluster)
        raylet = raylet_above(process, cluster)
        assert raylet is not None
        assert drained(raylet, Goes(60.0, "a test"))
        wait_for(lambda: unfinished(folder) is not None)
        left = unfinished(folder)
        wait_for(lambda: not process.is_running())
        assert driver.wait(timeout=120) == 0
    finally:
        driver.kill()
        errors.seek(0)
        said = errors.read()
    assert left is not None
    assert 0 < left["num_steps"] < 600
    assert "0000 left its machine" in said
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

"""`python -m raydml.train`: any number of workers trains the same model, and goes on after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from raydml.history import read_history
from raydml.space import read
from raydml.train import fit
from tests.integration.processes import command_line
from tests.integration.studies import command, environment, run_here, wait_for, write_study


def the_run(folder: Path, name: str) -> Path:
    """The only training of a study."""
    [directory] = (folder / "runs" / name / "train").iterdir()
    return directory


def rows_of(directory: Path) -> list[dict[str, float]]:
    """Curve without times."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(directory)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path, ray_here: None) -> Path:
    """The same experiment in float64 with one and with three workers (5, 5 and 6 of 16 images), told apart by name."""
    folder = tmp_path_factory.mktemp("trained")
    path = write_study(folder, cache)
    for workers in (1, 3):
        resources = f"resources={{workers_per_trial: {workers}, cpus_per_worker: 0.5}}"
        process = run_here("train", path, resources, "training.precision=float64", f"name=w{workers}")
        assert process.returncode == 0, process.stderr
        assert "raw pixels:" in process.stdout
    return folder


def test_three_workers_have_the_curve_of_one(trained: Path) -> None:
    one, three = rows_of(the_run(trained, "w1")), rows_of(the_run(trained, "w3"))
    assert len(one) == 4
    for a, b in zip(one, three, strict=True):
        assert a == pytest.approx(b, rel=1e-8)


def test_three_workers_train_the_model_of_one(trained: Path) -> None:
    one = load_file(the_run(trained, "w1") / "checkpoint" / "model.safetensors")
    three = load_file(the_run(trained, "w3") / "checkpoint" / "model.safetensors")
    assert one.keys() == three.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor.double(), three[name].double(), rtol=1e-7, atol=1e-9), name


def test_workers_are_no_part_of_the_folder(trained: Path) -> None:
    assert the_run(trained, "w1").name == the_run(trained, "w3").name


def test_a_finished_training_is_not_repeated(trained: Path, cache: Path) -> None:
    directory = the_run(trained, "w1")
    written = (directory / "checkpoint" / "meta.json").stat().st_mtime_ns
    path = write_study(trained, cache)
    again = run_here("train", path, "training.precision=float64", "name=w1")
    assert again.returncode == 0
    assert "epoch 4/4" in again.stdout
    assert (directory / "checkpoint" / "meta.json").stat().st_mtime_ns == written


@pytest.mark.usefixtures("ray_here")
def test_a_killed_training_goes_on_exactly(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    arguments = [path, "training.num_epochs=30"]
    undisturbed = run_here("train", *arguments, "name=undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    driver = subprocess.Popen(command("train", *arguments, "name=killed"), env=environment(), stdout=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "killed" / "train"
    wait_for(lambda: any(len(read_history(d)) >= 5 for d in folder.glob("*")))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert run_here("train", *arguments, "name=killed").returncode == 0
    assert rows_of(the_run(tmp_path, "killed")) == rows_of(the_run(tmp_path, "undisturbed"))


def train_workers() -> list[psutil.Process]:
    """Of all groups, those included that have not yet ended behind their training."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "RayTrainWorker" in command_line(child)]


@pytest.mark.usefixtures("ray_here")
def test_a_killed_worker_is_replaced_and_the_training_goes_on(tmp_path: Path, cache: Path) -> None:
    study = read(write_study(tmp_path, cache), ["training.num_epochs=40", "resources.workers_per_trial=2"])
    epochs: list[float] = []
    before = train_workers()

    def kill_one(row: dict[str, float]) -> None:
        epochs.append(row["epoch"])
        if len(epochs) == 3:
            _, second = [worker for worker in train_workers() if worker not in before]
            second.kill()

    fit(study.base, study.resources, storage=study.storage, name=study.name, report=kill_one)
    assert epochs == list(range(1, 41))
    assert [row["epoch"] for row in rows_of(the_run(tmp_path, "small"))] == epochs


@pytest.mark.usefixtures("ray_here")
def test_trainval_trains_on_all_training_classes_and_validates_nothing(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    process = run_here("train", path, "split=trainval")
    assert process.returncode == 0, process.stderr
    rows = rows_of(the_run(tmp_path, "small"))
    assert not [name for name in rows[-1] if name.startswith("val/")]
    meta = json.loads((the_run(tmp_path, "small") / "checkpoint" / "meta.json").read_text(encoding="utf-8"))
    assert meta["shape"]["num_classes"] == 12
    assert meta["fold"] is None


@pytest.mark.usefixtures("ray_here")
def test_a_loss_that_is_not_finite_ends_with_exit_code_one_and_the_step(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    process = run_here("train", path, "optimizer.lr=1.0e+30")
    assert process.returncode == 1
    assert process.stderr.strip().splitlines()[-1] == (
        "error: the training failed: the loss or its gradient is not finite at epoch 1, step 1"
    )

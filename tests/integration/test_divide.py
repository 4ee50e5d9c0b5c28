"""Learners in real runs: searched with margin and expansions; on two workers, killed between two clusterings."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from optuna.trial import TrialState

from raydml.history import read_history
from tests.integration.studies import command, curves_of, environment, run_here, trials_of, wait_for, write_study

# Clustered before epochs 1, 3 and 5 of six; all dimensions from the fourth on, all images in the last.
DIVIDE = (
    "divide={num_learners: 3, recluster_epochs: 2, full_embedding_epoch: 3, conquer_epoch: 5}",
    "training.num_epochs=6",
    "training.precision=float64",
)


def rows_of(storage: Path, name: str) -> list[dict[str, float]]:
    """The only training of a study, times left out."""
    [directory] = (storage / name / "train").iterdir()
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in read_history(directory)]


@pytest.mark.usefixtures("ray_here")
def test_margin_learners_and_expansions_are_searched_together(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    space = (
        "space={loss.margin: {low: 0.0, high: 0.6}, divide.num_learners: {choices: [1, 2, 4]}, "
        "see.num_expansions: {choices: [0, 3]}}"
    )
    start = (
        "search.start=["
        "{divide.num_learners: 1, see.num_expansions: 0}, {divide.num_learners: 1, see.num_expansions: 3}, "
        "{divide.num_learners: 4, see.num_expansions: 0}, {divide.num_learners: 4, see.num_expansions: 3}]"
    )
    process = run_here("tune", path, space, start, "search.num_trials=5", "search.early_stopping=null")
    assert process.returncode == 0, process.stdout + process.stderr
    trials = trials_of(tmp_path / "runs" / "small")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
    curves = curves_of(tmp_path / "runs" / "small")
    for number, (learners, expansions) in enumerate([(1, 0), (1, 3), (4, 0), (4, 3)]):
        rows = curves[f"{number:04d}"]
        assert ("divide/size/3" in rows[0]) == (learners == 4)
        assert ("train/see/selected" in rows[-1]) == (expansions == 3)
    assert len({curves[f"{number:04d}"][-1]["train/loss"] for number in range(4)}) == 4


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_here")
def test_two_workers_that_are_killed_train_the_learners_of_one(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    one = run_here("train", path, *DIVIDE, "name=one")
    assert one.returncode == 0, one.stderr
    assert "epoch 3/6 clusters of" in one.stdout
    arguments = ("train", path, *DIVIDE, "name=two", "resources.workers_per_trial=2")
    driver = subprocess.Popen(command(*arguments), env=environment(), stdout=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "two" / "train"
    wait_for(lambda: any(len(read_history(d)) >= 2 for d in folder.glob("*")))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert run_here(*arguments).returncode == 0
    alone, together = rows_of(tmp_path / "runs", "one"), rows_of(tmp_path / "runs", "two")
    assert [row["epoch"] for row in alone if "divide/excluded" in row] == [1, 3, 5]
    for a, b in zip(alone, together, strict=True):
        assert a == pytest.approx(b, rel=1e-8)

"""How a probe chooses its epochs, and that nothing of it stays. With Ray: tests/integration/test_estimate.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydml import probe
from raydml.capacity import Worker
from raydml.config import ConfigError, ExperimentConfig
from raydml.recorded import Task
from raydml.storage import snapshots_below
from raydml.training import RunSpec
from tests.conftest import changed

HOST = torch.device("cpu")


def chosen(whole: int, *, step_s: float, epoch_s: float) -> list[int]:
    """The epochs that are timed where these are the true seconds."""
    done: list[tuple[int, float]] = []
    while (steps := probe.next_steps(done, whole)) is not None:
        done.append((steps, epoch_s + steps * step_s))
    return [steps for steps, _ in done]


@pytest.mark.parametrize(
    ("whole", "step_s", "epoch_s", "expected"),
    [
        (29, 0.02, 0.1, [4, 8, 29]),
        (1000, 0.02, 5.0, [4, 8, 256]),
        (1000, 0.1, 5.0, [4, 8, 60]),
        (1000, 2.0, 5.0, [4, 8]),
        (1000, 0.0, 5.0, [4, 8, 256]),
        (6, 0.1, 0.1, [3, 6]),
        (2, 0.1, 0.1, [1, 2]),
        (1, 0.1, 0.1, [1]),
    ],
)
def test_epochs_are_as_long_as_it_takes_and_no_longer(
    whole: int, step_s: float, epoch_s: float, expected: list[int]
) -> None:
    assert chosen(whole, step_s=step_s, epoch_s=epoch_s) == expected


def test_a_timing_counts_the_steps_and_the_clustering_that_there_were(tiny: ExperimentConfig, tmp_path: Path) -> None:
    divide = {"num_learners": 2, "recluster_epochs": 1, "full_embedding_epoch": 3, "conquer_epoch": 3}
    config = changed(tiny, training__steps_per_epoch=6, divide={**divide, "round_length": "max"})
    found = probe._of_run(Task(RunSpec(config, tmp_path), {}, Worker(1.0, 0.0)), HOST)
    assert found.asked == 6
    assert found.steps >= 6
    assert 0 < found.divide_s < found.second_s
    assert found.run_s > 0


def test_a_clustering_now_and_then_counts_as_often_as_it_comes(tiny: ExperimentConfig) -> None:
    """Of three epochs, the last in the conquest, one of two is clustered before."""
    divide = {"num_learners": 2, "recluster_epochs": 2, "full_embedding_epoch": 2, "conquer_epoch": 2}
    config = changed(tiny, divide=divide)
    timings = [
        probe.Timing(asked=4, steps=5, run_s=2.0, first_s=9.0, second_s=1.5, divide_s=0.0),
        probe.Timing(asked=8, steps=10, run_s=1.0, first_s=9.0, second_s=2.0 + 3.0, divide_s=3.0),
    ]
    # Points (5, 1.5 s) and (10, 2 s): 0.1 s a step and 1 s besides; 1.25 steps for each of an undivided epoch.
    assert probe._times(config, timings, models=1) == pytest.approx((0.125, 1.0 + 3.0 / 3, 1.0))
    assert probe._times(config, timings, models=2) == pytest.approx((0.0625, 0.5 + 3.0 / 3 / 2, 1.0))
    assert probe._times(tiny, timings, models=1)[1] == pytest.approx(1.0), "one learner clusters nothing"


def test_the_scratch_folder_and_what_was_made_for_it_are_gone(tmp_path: Path) -> None:
    def interrupted() -> None:
        with probe._scratch(str(tmp_path / "deep" / "runs")) as (folder, uri):
            assert uri is None
            assert folder.parent == tmp_path / "deep" / "runs"
            (folder / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    with probe._scratch(str(tmp_path / "runs")):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "what was there stays"
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written to"), probe._scratch(str(tmp_path / "file")):
        pass


def test_at_a_uri_nothing_stays_of_what_the_probes_stored(tiny: ExperimentConfig, tmp_path: Path) -> None:
    config = changed(tiny, training__num_epochs=2)
    with probe._scratch((tmp_path / "storage").as_uri()) as (folder, uri):
        task = Task(RunSpec(config, folder), {}, Worker(1.0, 0.0), uri)
        probe._of_run(probe._with_steps(task, 2, "0-2"), HOST)
        assert uri is not None
        assert snapshots_below(uri) == ["0-2"], "as a trial of the study would"
    assert not [path for path in (tmp_path / "storage").rglob("*") if path.is_file()]
    assert not Path("estimate").exists(), "each process works in a folder of its own"

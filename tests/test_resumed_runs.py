"""Resume is exact: k epochs, a new process and k more are 2k epochs, bit for bit; nothing is lost or trained twice."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import timm
import torch

from raydml import checkpoint
from raydml.config import ConfigError, ExperimentConfig, replace_at
from raydml.epoch import train_epoch
from raydml.history import read_history
from raydml.training import Run, RunSpec
from tests.conftest import tiny_experiment
from tests.test_training import run_to_the_end, without_seconds

HOST = torch.device("cpu")

LOSSES: dict[str, dict[str, object]] = {
    "discriminate": {"kind": "discriminate"},
    "contrastive": {"kind": "contrastive"},
    "triplet": {"kind": "triplet"},
    "semi-hard triplet": {"kind": "triplet", "mining": "semi_hard"},
    "margin, random negatives": {"kind": "margin"},
    "margin, a beta for each class": {"kind": "margin", "learn_beta": "per_class"},
    "proxy-anchor": {"kind": "proxy_anchor"},
}


@pytest.fixture
def config(tiny: ExperimentConfig) -> ExperimentConfig:
    """Four epochs with random crops and a schedule that warms up and falls."""
    config = replace_at(tiny, "data.augment", {"smallest_crop": 0.5, "flip": 0.5})
    config = replace_at(config, "schedule", {"kind": "cosine", "warmup_epochs": 1.5})
    return replace_at(config, "training.num_epochs", 4)


def advance(spec: RunSpec, epochs: int) -> None:
    """A process that lives for some epochs."""
    run = Run(spec, device=HOST)
    for _ in range(epochs):
        run.advance()
    run.close()


def assert_equal_runs(ours: Path, theirs: Path, *, at: str = "checkpoint") -> None:
    assert without_seconds(read_history(ours)) == without_seconds(read_history(theirs))
    weights = [(folder / at / "model.safetensors").read_bytes() for folder in (ours, theirs)]
    assert weights[0] == weights[1]
    states: list[Any] = [torch.load(folder / at / "state.pt", weights_only=True) for folder in (ours, theirs)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    metas = [checkpoint.read_meta(folder / at) for folder in (ours, theirs)]
    for meta in metas:
        meta["history"] = without_seconds(meta["history"])
    assert metas[0] == metas[1]


@pytest.mark.parametrize(("loss", "optimizer"), [*((loss, "adamw") for loss in LOSSES), ("proxy-anchor", "sgd")])
def test_half_and_half_is_the_whole(loss: str, optimizer: str, config: ExperimentConfig, tmp_path: Path) -> None:
    config = replace_at(replace_at(config, "loss", LOSSES[loss]), "optimizer.kind", optimizer)
    run_to_the_end(RunSpec(config, tmp_path / "whole"))
    advance(RunSpec(config, tmp_path / "halves"), 2)
    torch.manual_seed(1)  # another process has drawn other numbers
    rows = run_to_the_end(RunSpec(config, tmp_path / "halves"))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert_equal_runs(tmp_path / "halves", tmp_path / "whole")


@pytest.mark.parametrize(
    ("path", "value"),
    [("training.precision", "float64"), ("optimizer.clip_norm", 0.01), ("model.batch_norm", "frozen")],
)
def test_resume_is_exact_whatever_is_configured(
    path: str, value: object, config: ExperimentConfig, tmp_path: Path
) -> None:
    config = replace_at(config, path, value)
    run_to_the_end(RunSpec(config, tmp_path / "whole"))
    for _ in range(4):
        advance(RunSpec(config, tmp_path / "pieces"), 1)
        advance(RunSpec(config, tmp_path / "pieces"), 2)
    run_to_the_end(RunSpec(config, tmp_path / "pieces"))
    assert_equal_runs(tmp_path / "pieces", tmp_path / "whole")


def test_layers_that_draw_at_random_resume_exactly(
    config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backbone may draw where nothing can be switched off: in a function instead of a layer."""
    monkeypatch.setattr("raydml.models.timm.create_model", partial(timm.create_model, drop_path_rate=0.5))
    monkeypatch.setattr("raydml.models._switch_off_randomness", lambda backbone: None)
    run_to_the_end(RunSpec(config, tmp_path / "whole"))
    torch.manual_seed(7)
    advance(RunSpec(config, tmp_path / "halves"), 2)
    run_to_the_end(RunSpec(config, tmp_path / "halves"))
    assert_equal_runs(tmp_path / "halves", tmp_path / "whole")
    monkeypatch.undo()
    rows = run_to_the_end(RunSpec(config, tmp_path / "without"))
    assert rows[0]["train/loss"] != read_history(tmp_path / "whole")[0]["train/loss"]


class KilledError(RuntimeError):
    """Stands for the death of a process."""


class Trainings:
    """Counts the epochs trained, and dies instead of one of them."""

    def __init__(self, *, dies_at: int | None = None) -> None:
        self.count, self.dies_at = 0, dies_at

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ANN401
        if self.count == self.dies_at:
            raise KilledError
        self.count += 1
        return train_epoch(*args, **kwargs)


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds for three epochs."""
    directory = tmp_path_factory.mktemp("undisturbed")
    run_to_the_end(RunSpec(tiny_experiment(cache), directory, folds=(0, 1)))
    return directory


@pytest.mark.parametrize("finished", [0, 1, 2, 3, 5])
def test_a_crash_between_the_checkpoints_of_two_folds_loses_and_repeats_nothing(
    finished: int, tiny: ExperimentConfig, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(tiny, tmp_path, folds=(0, 1))
    before, after = Trainings(dies_at=finished), Trainings()
    monkeypatch.setattr("raydml.model_training.train_epoch", before)
    with pytest.raises(KilledError):
        run_to_the_end(spec)
    monkeypatch.setattr("raydml.model_training.train_epoch", after)
    rows = run_to_the_end(spec)
    assert (before.count, after.count) == (finished, 6 - finished)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for fold in (0, 1):
        assert_equal_runs(tmp_path, undisturbed, at=f"fold{fold}/checkpoint")


def test_a_crash_after_a_checkpoint_and_before_its_metrics_loses_no_row(tiny: ExperimentConfig, tmp_path: Path) -> None:
    run_to_the_end(RunSpec(tiny, tmp_path / "whole"))
    advance(RunSpec(tiny, tmp_path / "crashed"), 2)
    (tmp_path / "crashed" / "metrics.jsonl").unlink()
    rows = run_to_the_end(RunSpec(tiny, tmp_path / "crashed"))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert_equal_runs(tmp_path / "crashed", tmp_path / "whole")


def test_a_finished_run_reports_again_and_trains_nothing(
    tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = run_to_the_end(RunSpec(tiny, tmp_path))
    monkeypatch.setattr("raydml.model_training.train_epoch", Trainings(dies_at=0))
    assert run_to_the_end(RunSpec(tiny, tmp_path)) == rows


def test_finished_epochs_stay_on_record_while_a_run_resumes(tiny: ExperimentConfig, tmp_path: Path) -> None:
    advance(RunSpec(tiny, tmp_path), 2)
    before = read_history(tmp_path)
    advance(RunSpec(tiny, tmp_path), 1)  # killed again, before it reported what it had found
    assert read_history(tmp_path) == before


def test_a_checkpoint_of_other_data_is_refused(tiny: ExperimentConfig, tmp_path: Path) -> None:
    advance(RunSpec(tiny, tmp_path), 1)
    with pytest.raises(ConfigError, match="other data"):
        Run(RunSpec(replace_at(tiny, "data.render_seed", 5), tmp_path), device=HOST)


@pytest.mark.parametrize(("path", "value"), [("loss.margin", 0.3), ("optimizer.lr", 0.5), ("training.num_epochs", 5)])
def test_a_checkpoint_of_another_experiment_is_refused(
    path: str, value: float, tiny: ExperimentConfig, tmp_path: Path
) -> None:
    advance(RunSpec(tiny, tmp_path), 1)
    with pytest.raises(ConfigError, match=path):
        Run(RunSpec(replace_at(tiny, path, value), tmp_path), device=HOST)


@pytest.mark.parametrize("other", [("train", (1,)), ("trainval", ())], ids=["another fold", "all folds"])
def test_a_checkpoint_of_another_fold_is_refused(
    other: tuple[Literal["train", "trainval"], tuple[int, ...]], tiny: ExperimentConfig, tmp_path: Path
) -> None:
    # It would be validated on classes that it was trained on.
    advance(RunSpec(tiny, tmp_path, folds=(0,)), 1)
    with pytest.raises(ConfigError, match="fold"):
        Run(RunSpec(tiny, tmp_path, *other), device=HOST)


def test_a_resumed_run_moves_to_another_cache_and_other_threads(tiny: ExperimentConfig, tmp_path: Path) -> None:
    advance(RunSpec(tiny, tmp_path / "run"), 1)
    moved = replace_at(replace_at(tiny, "data.cache", str(tmp_path / "cache")), "data.prefetch_threads", 3)
    assert len(run_to_the_end(RunSpec(moved, tmp_path / "run"))) == 3

"""A training that leaves between any two steps goes on elsewhere as if it had not, to the bit."""

from __future__ import annotations

import itertools
import pickle
from functools import partial
from pathlib import Path

import pytest
import timm
import torch

from raydml import checkpoint
from raydml.config import ExperimentConfig
from raydml.epoch import NonFiniteLossError, TrainingLeftError
from raydml.history import read_history
from raydml.training import Run, RunSpec
from tests.conftest import changed
from tests.divided_cases import HOST, SEE, Fields, assert_equal_runs, divided, stored, timeless, weights
from tests.left_cases import Leaver, in_a_group, in_processes, on_a_rank
from tests.ranks import in_groups
from tests.training_cases import train

MEMORY: Fields = {"kind": "margin", "learn_beta": "per_class", "memory": {"size": 40}}
AUGMENT: Fields = {"smallest_crop": 0.5, "flip": 0.5, "brightness": 0.3}
CASES: dict[str, dict[str, object]] = {
    "proxies, sgd": {"loss": {"kind": "proxy_anchor"}, "optimizer": {"kind": "sgd", "lr": 0.01}},
    "memory, threads": {"loss": MEMORY, "data__prefetch_threads": 2},
    "see": {"loss": {"kind": "proxy_anchor"}, "see": SEE},
    "mined": {"loss": {"kind": "library", "name": "MarginLoss", "miner": "DistanceWeightedMiner"}},
}


def assert_it_left_and_is_the_same(config: ExperimentConfig, folder: Path, *patience: int) -> list[tuple[int, int]]:
    whole = folder / "whole"
    if not whole.exists():
        train(RunSpec(config, whole), device=HOST, report=lambda row: None)
    parts = folder / "-".join(map(str, patience))
    rows, left = in_processes(RunSpec(config, parts), itertools.cycle(patience))
    assert timeless(rows) == timeless(read_history(whole))
    assert_equal_runs(parts, whole)
    assert checkpoint.read_meta(parts / "checkpoint")["unfinished"] is None
    return left


@pytest.mark.parametrize("case", CASES)
def test_step_by_step_is_the_whole(case: str, tiny: ExperimentConfig, tmp_path: Path) -> None:
    config = changed(tiny, training__num_epochs=2, data__augment=AUGMENT, **CASES[case])
    left = assert_it_left_and_is_the_same(config, tmp_path, 2)
    assert left == [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4), (2, 5), (2, 6)], "between two epochs too"


def test_layers_that_draw_at_random_go_on(
    tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydml.models.timm.create_model", partial(timm.create_model, drop_path_rate=0.5))
    monkeypatch.setattr("raydml.models._switch_off_randomness", lambda backbone: None)
    config = changed(tiny, training__num_epochs=2)
    assert assert_it_left_and_is_the_same(config, tmp_path, 3) == [(1, 2), (2, 3), (2, 5)]
    assert (tmp_path / "whole" / "metrics.jsonl").exists()
    monkeypatch.undo()
    train(RunSpec(config, tmp_path / "without"), device=HOST, report=lambda row: None)
    assert timeless(read_history(tmp_path / "without")) != timeless(read_history(tmp_path / "whole"))


@pytest.mark.parametrize("values", [{}, {"loss": MEMORY, "see": SEE}], ids=["divided", "divided, memory, see"])
def test_a_division_is_kept(values: Fields, tiny: ExperimentConfig, tmp_path: Path) -> None:
    """Clusterings before epochs 1, 3 and 5; the metrics of one belong to the epoch that was left after it."""
    config = changed(divided(tiny), **values)
    left = assert_it_left_and_is_the_same(config, tmp_path, 2, 3, 5)
    assert {epoch for epoch, _ in left} >= {1, 3, 5}
    assert "divide/imbalance" in read_history(tmp_path / "2-3-5")[0]


def test_folds_in_lockstep_leave_together(tiny: ExperimentConfig, tmp_path: Path) -> None:
    """The second fold leaves while the first has the epoch already: it is not trained again."""
    specs = [RunSpec(tiny, tmp_path / name, folds=(0, 1)) for name in ("whole", "parts")]
    train(specs[0], device=HOST, report=lambda row: None)
    rows, left = in_processes(specs[1], itertools.cycle([6, 3]))
    assert left[:2] == [(1, 1), (1, 3)], "in the second fold, then there again after two more steps"
    assert timeless(rows) == timeless(read_history(specs[0].directory))
    for fold in ("fold0", "fold1"):
        assert_equal_runs_of_fold(*(spec.directory / fold for spec in specs))


def assert_equal_runs_of_fold(ours: Path, theirs: Path) -> None:
    found, expected = weights(ours), weights(theirs)
    assert all((found[name] == expected[name]).all() for name in expected)
    assert str(stored(ours)) == str(stored(theirs))


def test_who_is_asked_before_an_epoch_leaves_without_a_step(tiny: ExperimentConfig, tmp_path: Path) -> None:
    run = Run(RunSpec(divided(tiny), tmp_path), device=HOST, leave=Leaver(1))
    with pytest.raises(TrainingLeftError, match="left in epoch 1, before step 0"):
        run.advance()
    run.close()
    assert not (tmp_path / "checkpoint").exists(), "no clustering was begun"


def test_a_checkpoint_in_the_middle_says_so(tiny: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingLeftError):
        train(RunSpec(tiny, tmp_path), device=HOST, report=lambda row: None, leave=Leaver(6))
    meta = checkpoint.read_meta(tmp_path / "checkpoint")
    assert (meta["epoch"], meta["step"], len(meta["history"])) == (1, 4, 1)
    assert meta["unfinished"]["num_steps"] == 1
    assert meta["unfinished"]["sums"].keys() == {"loss", "gradient_norm", "separated"}
    assert meta["unfinished"]["seconds"] > 0
    assert [row["epoch"] for row in read_history(tmp_path)] == [1]


def test_seconds_are_those_of_all_processes(tiny: ExperimentConfig, tmp_path: Path) -> None:
    spec = RunSpec(tiny, tmp_path)
    with pytest.raises(TrainingLeftError):
        train(spec, device=HOST, report=lambda row: None, leave=Leaver(2))
    before = checkpoint.read_meta(tmp_path / "checkpoint")["unfinished"]["seconds"]
    rows, _ = in_processes(spec, itertools.repeat(1000))
    assert rows[0]["seconds"] > before


def test_a_loss_that_is_not_finite_stops_who_would_leave(tiny: ExperimentConfig, tmp_path: Path) -> None:
    """Otherwise the next process would train on without the step that was left out."""
    config = changed(tiny, optimizer__lr=1e30, training__log_steps=1000)
    with pytest.raises(NonFiniteLossError):
        train(RunSpec(config, tmp_path), device=HOST, report=lambda row: None, leave=Leaver(4))
    assert not (tmp_path / "checkpoint").exists()


def test_every_rank_leaves_at_the_same_step(tiny: ExperimentConfig, tmp_path: Path) -> None:
    """Rank 1 alone is asked to: both leave some steps later, and go on as one training that was not disturbed."""
    config = changed(tiny, training__precision="float64", training__steps_per_epoch=12, training__num_epochs=2)
    zero, one = in_groups(on_a_rank, config, tmp_path, worlds=(2,), folder=tmp_path)[2]
    assert zero["left"] == one["left"] == (1, 8), "asked before the first step, answered eight questions later"
    assert zero["rest"] == zero["whole"]
    assert one["rest"] == one["whole"]


@pytest.mark.timeout(300)
def test_another_number_of_workers_goes_on_in_the_middle_of_an_epoch(tiny: ExperimentConfig, tmp_path: Path) -> None:
    """Two workers, then one, then three, with all that has a state: none of it is of a number of workers."""
    config = changed(divided(tiny, see=SEE), loss=MEMORY, model__batch_norm="synchronised")
    config = changed(config, training__precision="float64", training__steps_per_epoch=4)
    train(RunSpec(config, tmp_path / "whole"), device=HOST, report=lambda row: None)
    patience, parts = {2: 1, 1: 9, 3: 0}, tmp_path / "parts"
    found = in_groups(in_a_group, config, parts, patience, worlds=tuple(patience), folder=tmp_path, timeout_s=240.0)
    epochs = [found[world][0].get("epoch", 0) for world in patience]
    assert epochs[0] < epochs[1] < epochs[2] == 6, "two groups left"
    expected = read_history(tmp_path / "whole")
    for row, other in zip(timeless(read_history(parts)), timeless(expected), strict=True):
        assert row == pytest.approx(other, rel=1e-8)
    others = weights(tmp_path / "whole")
    assert all(torch.allclose(tensor, others[name], rtol=1e-7, atol=1e-9) for name, tensor in weights(parts).items())


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(TrainingLeftError(3, 17)))
    assert (error.epoch, error.step, str(error)) == (3, 17, "the training left in epoch 3, before step 17")

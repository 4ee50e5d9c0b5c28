"""Folds that take turns in memory train what they train all at once, and do so by themselves where they do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from raydml.capacity import Worker
from raydml.config import ConfigError, ExperimentConfig, Resources
from raydml.config.grammar import validate
from raydml.history import read_history
from raydml.identity import identity_of
from raydml.training import Run, RunSpec
from raydml.tune import _trial_config
from tests.conftest import changed, study_folder
from tests.divided_cases import timeless
from tests.fold_cases import HOST, Memory, Row, on_a_rank
from tests.ranks import in_groups
from tests.searches import study_of
from tests.training_cases import train

FOLDS = (0, 1, 2)
CASES: dict[str, dict[str, object]] = {
    "proxies": {"loss": {"kind": "proxy_anchor"}, "data__augment": {"smallest_crop": 0.5, "flip": 0.5}},
    "divided, memory": {
        "training__num_epochs": 4,
        "divide": {"num_learners": 2, "recluster_epochs": 2, "full_embedding_epoch": 3, "conquer_epoch": 3},
        "loss": {"kind": "margin", "learn_beta": "per_class", "memory": {"size": 40}},
    },
    "see": {
        "loss": {"kind": "discriminate"},
        "see": {"num_expansions": 3, "schedule": "constant", "final_fraction": 0.5},
        "optimizer": {"kind": "sgd", "lr": 0.01},
    },
}


def trained(spec: RunSpec) -> list[Row]:
    rows: list[Row] = []
    train(spec, device=HOST, report=rows.append)
    return rows


def assert_equal(ours: Path, theirs: Path) -> None:
    """Curves, weights, proxies, queues, optimizers and divisions of every fold, to the bit."""
    assert timeless(read_history(ours)) == timeless(read_history(theirs))
    for fold in FOLDS:
        at = [folder / f"fold{fold}" / "checkpoint" for folder in (ours, theirs)]
        assert (at[0] / "model.safetensors").read_bytes() == (at[1] / "model.safetensors").read_bytes()
        states = [torch.load(folder / "state.pt", weights_only=True) for folder in at]
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_one_or_two_at_a_time_are_all_at_once_to_the_bit(case: str, tiny: ExperimentConfig, tmp_path: Path) -> None:
    config = changed(tiny, **CASES[case])
    ways: tuple[int | Literal["all"], ...] = ("all", 1, 2)
    for at_a_time in ways:
        torch.manual_seed(len(str(at_a_time)))  # whatever the process drew before
        trained(RunSpec(config, tmp_path / str(at_a_time), folds=FOLDS, folds_at_a_time=at_a_time))
    assert_equal(tmp_path / "1", tmp_path / "all")
    assert_equal(tmp_path / "2", tmp_path / "all")


@pytest.mark.parametrize(("at_a_time", "expected"), [("all", 3), (2, 2), (1, 1), (7, 3)])
def test_no_more_models_and_pixels_are_in_memory_than_asked_for(
    at_a_time: int | Literal["all"], expected: int, tiny: ExperimentConfig, tmp_path: Path
) -> None:
    with Memory() as memory:
        trained(RunSpec(tiny, tmp_path, folds=FOLDS, folds_at_a_time=at_a_time))
    assert (memory.most_models, memory.most_sources) == (expected, 2 * expected)
    assert memory.epochs == 3 * len(FOLDS)


def test_a_closed_run_goes_on_with_another_number_of_folds_at_a_time(tiny: ExperimentConfig, tmp_path: Path) -> None:
    trained(RunSpec(tiny, tmp_path / "whole", folds=FOLDS))
    for at_a_time in (1, 2, 3):
        run = Run(RunSpec(tiny, tmp_path / "parts", folds=FOLDS, folds_at_a_time=at_a_time), device=HOST)
        for _ in range(at_a_time):
            run.advance()
        run.close()
    assert_equal(tmp_path / "parts", tmp_path / "whole")


MOMENTS: dict[str, dict[str, Any]] = {
    "the first step": {},
    "the end of the second fold's second epoch": {"after": 4, "late": True},
    "opening": {"opening": True},
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_folds_that_do_not_fit_take_turns_and_it_is_said_once(
    moment: str, tiny: ExperimentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(RunSpec(tiny, tmp_path / "whole", folds=FOLDS))
    with caplog.at_level(logging.WARNING), Memory(1, **MOMENTS[moment]) as memory:
        trained(RunSpec(tiny, tmp_path / "run", folds=FOLDS))
    assert_equal(tmp_path / "run", tmp_path / "whole")
    (record,) = caplog.records
    assert "out of GPU memory with 3 folds; going on with one fold at a time" in record.getMessage()
    assert "resources.folds_at_a_time=1" in record.getMessage()
    assert memory.epochs == 3 * len(FOLDS), "what was finished is not trained again"


def test_one_model_that_does_not_fit_is_the_end(
    tiny: ExperimentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folds, promises in [((0,), 0), ((0, 1), 1)]:
        with Memory(0), pytest.raises(torch.OutOfMemoryError):
            trained(RunSpec(tiny, tmp_path / str(promises), folds=folds))
        assert len(caplog.records) == promises


def test_workers_start_again_with_one_fold_at_a_time(cache: Path, tmp_path: Path, tiny: ExperimentConfig) -> None:
    """One of two runs out: it says so and ends; the next group of workers agrees on what is on disk."""
    zero, one = in_groups(on_a_rank, cache, tmp_path, worlds=(2,), folder=tmp_path)[2]
    assert zero["error"] == ""
    assert one["error"].startswith("FoldsDoNotFitError: worker 1 of 2 is out of GPU memory with 2 folds; ")
    assert "resources.folds_at_a_time=1" in one["error"]
    for seen in (zero, one):
        assert seen["short"] == seen["whole"], "bit for bit"
        assert seen["stopped"] == seen["whole"], "a checkpoint's row and a new one have the same names"
        assert seen["models"] == 1
    assert "val/map@r" in zero["whole"][0]
    assert "val/map@r" not in one["whole"][0]


def test_a_search_hands_it_to_its_trials(tmp_path: Path) -> None:
    study = study_of({"loss.margin": {"low": 0.0, "high": 0.5}})
    worker = Worker(1.0, 0.0)
    for value in ("all", 2):
        resources = study.resources.model_copy(update={"folds_at_a_time": value})
        asked = study.model_copy(update={"resources": resources})
        task = _trial_config(asked, study_folder(tmp_path), worker, 0, asked.base, {})["task"]
        assert task.spec.folds_at_a_time == value
        assert identity_of(asked, "") == identity_of(study, ""), "results do not depend on it"


@pytest.mark.parametrize("value", [0, -1, 1.5, "some"])
def test_a_number_of_folds_or_all(value: object) -> None:
    with pytest.raises(ConfigError, match="folds_at_a_time"):
        validate(Resources, {"folds_at_a_time": value})

"""The curve on test classes that papers select on: only where asked for, and then what an evaluation finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydml import checkpoint, training
from raydml.config import ConfigError, DataConfig, ExperimentConfig, replace_at
from raydml.data import opening, subsets
from raydml.data.cache import ImageSet
from raydml.metrics import retrieval_metrics
from raydml.training import Run, RunSpec
from tests.conftest import tiny_experiment
from tests.ranks import in_groups
from tests.test_resumed_runs import advance, assert_equal_runs
from tests.test_training import run_to_the_end, without_seconds

Rows = list[dict[str, float]]


@pytest.fixture
def wide(tiny: ExperimentConfig) -> ExperimentConfig:
    """In float64, where a batch of another size rounds no other way."""
    return in_float64(tiny)


def in_float64(config: ExperimentConfig) -> ExperimentConfig:
    return replace_at(replace_at(config, "evaluation.batch_size", 7), "training.precision", "float64")


def spec_of(config: ExperimentConfig, folder: Path, *, tested: bool = True) -> RunSpec:
    return RunSpec(config, folder, split="trainval", folds=(), test_every_epoch=tested)


def of_test(row: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("test/"): value for name, value in row.items() if name.startswith("test/")}


def test_the_curve_ends_at_what_an_evaluation_of_the_checkpoint_finds(
    wide: ExperimentConfig, tmp_path: Path, device: torch.device
) -> None:
    rows = run_to_the_end(spec_of(wide, tmp_path), device)
    images = opening.open_images(wide.data, with_test=True)
    subset = subsets.test_subset(images, wide.data)
    pixels = torch.from_numpy(images.images[subset.index]).permute(0, 3, 1, 2).to(device)
    model = checkpoint.load_objective(tmp_path / "checkpoint")[0].to(device).model
    with torch.no_grad():
        direct = retrieval_metrics(model(pixels), subset.labels)
    names = {"recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision", "tied_queries"}
    for row in rows:
        assert of_test(row).keys() == names
    assert of_test(rows[-1]) == pytest.approx({name: direct[name] for name in names}, abs=1e-9)
    assert of_test(rows[0]) != of_test(rows[-1])


def test_a_resumed_curve_is_the_whole_one(tiny: ExperimentConfig, tmp_path: Path) -> None:
    run_to_the_end(spec_of(tiny, tmp_path / "whole"))
    advance(spec_of(tiny, tmp_path / "halves"), 2)
    rows = run_to_the_end(spec_of(tiny, tmp_path / "halves"))
    assert len(rows) == 3
    assert_equal_runs(tmp_path / "halves", tmp_path / "whole")


def test_looking_changes_nothing_else(tiny: ExperimentConfig, tmp_path: Path) -> None:
    seen = run_to_the_end(spec_of(tiny, tmp_path / "seen"))
    unseen = run_to_the_end(spec_of(tiny, tmp_path / "unseen", tested=False))
    rest = [{name: value for name, value in row.items() if not name.startswith("test/")} for row in seen]
    assert without_seconds(rest) == without_seconds(unseen)
    weights = [(tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in ("seen", "unseen")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("split", ["train", "trainval"])
def test_without_it_no_test_image_is_opened(
    split: str, tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[ImageSet] = []

    def noted(config: DataConfig, *, with_test: bool = False, known: str | None = None) -> ImageSet:
        opened.append(opening.open_images(config, with_test=with_test, known=known))
        return opened[-1]

    monkeypatch.setattr(training, "open_images", noted)
    folds = (0,) if split == "train" else ()
    rows = run_to_the_end(RunSpec(tiny, tmp_path / "run", split, folds))  # type: ignore[arg-type]
    assert not any(of_test(row) for row in rows)
    assert [set(images.labels) for images in opened] == [set(range(12))]
    run_to_the_end(spec_of(tiny, tmp_path / "tested"))
    assert set(opened[-1].labels) == set(range(24)), "the trap sees what is opened"


def test_only_a_model_of_all_training_classes_may_look(tiny: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="test_every_epoch: only with split=trainval, but got split=train"):
        RunSpec(tiny, tmp_path, test_every_epoch=True)


@pytest.mark.parametrize(("before", "said"), [(True, "evaluating"), (False, "without evaluating")])
def test_half_a_curve_is_refused(before: bool, said: str, tiny: ExperimentConfig, tmp_path: Path) -> None:
    advance(spec_of(tiny, tmp_path, tested=before), 1)
    with pytest.raises(ConfigError, match=f"this checkpoint was trained {said} the test classes every epoch"):
        Run(spec_of(tiny, tmp_path, tested=not before), device=torch.device("cpu"))


def curve_of_ranks(cache: Path, folder: Path) -> Rows:
    """The same run by every rank of a group."""
    size = torch.distributed.get_world_size()
    return without_seconds(run_to_the_end(spec_of(in_float64(tiny_experiment(cache)), folder / str(size))))


def test_three_ranks_have_the_curve_of_one(wide: ExperimentConfig, cache: Path, tmp_path: Path) -> None:
    """96 images of 12 classes: 32 of them on each rank, none twice."""
    alone = without_seconds(run_to_the_end(spec_of(wide, tmp_path / "alone")))
    [ranks] = in_groups(curve_of_ranks, cache, tmp_path, worlds=(3,), folder=tmp_path).values()
    for row, expected in zip(ranks[0], alone, strict=True):
        assert row == pytest.approx(expected, rel=1e-8)
    assert not any(of_test(row) for rows in ranks[1:] for row in rows)

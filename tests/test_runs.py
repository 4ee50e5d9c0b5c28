"""What RUN means: which folder or file stands for which one model, and what is said where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import raydml
from raydml import yamlfile
from raydml.config import ConfigError, replace_at
from raydml.config.grammar import validate
from raydml.runs import TrainedModel, resolve, resolve_folds
from raydml.space import Study
from raydml.training import RunSpec
from tests.conftest import tiny_experiment
from tests.training_cases import train

Place = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The checkpoint of one real epoch."""
    config = replace_at(replace_at(tiny_experiment(cache), "training.num_epochs", 1), "training.steps_per_epoch", 1)
    spec = RunSpec(config, tmp_path_factory.mktemp("run"), "train", (0,))
    train(spec, device=torch.device("cpu"), report=lambda row: None)
    return spec.checkpoints()[0]


@pytest.fixture
def place(trained: Path) -> Place:
    """Puts a copy of the checkpoint where a run would have left it."""

    def copy(folder: Path, *, fold: int | None = 0) -> Path:
        shutil.copytree(trained, folder)
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        (folder / "meta.json").write_text(json.dumps({**meta, "fold": fold}), encoding="utf-8")
        return folder

    return copy


def best_yaml(folder: Path, checkpoint: str | None) -> Path:
    """What a search leaves beside its trials."""
    study = validate(Study, {"name": "s", "protocol": "quick", "checkpoint": checkpoint})
    path = folder / "best.yaml"
    path.write_text(yamlfile.dumps(study), encoding="utf-8")
    return path


def refusal(run: Path | str, *, fold: int | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(run, fold=fold)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_folder_stands_for_itself(tmp_path: Path, place: Place) -> None:
    checkpoint = place(tmp_path / "model", fold=3)
    assert resolve(checkpoint) == TrainedModel(checkpoint, 3)
    assert resolve(str(checkpoint)).directory == tmp_path


def test_a_run_with_one_model_stands_for_it(tmp_path: Path, place: Place) -> None:
    run = tmp_path / "s" / "train" / "0123456789ab"
    checkpoint = place(run / "checkpoint", fold=None)
    found = resolve(run)
    assert found == TrainedModel(checkpoint, None)
    assert (found.directory, found.study, found.default_split) == (run, tmp_path / "s", "test")


def test_a_run_with_several_folds_needs_one_of_them(tmp_path: Path, place: Place) -> None:
    run = tmp_path / "s" / "trials" / "0007"
    for fold in (0, 2):
        place(run / f"fold{fold}" / "checkpoint", fold=fold)
    found = resolve(run, fold=2)
    assert found == TrainedModel(run / "fold2" / "checkpoint", 2)
    assert (found.study, found.default_split) == (tmp_path / "s", "val")
    for wrong in (None, 1):
        message = refusal(run, fold=wrong)
        assert message.startswith(f"{run}: ")
        assert "0, 2" in message
        assert "fold=" in message


def test_a_fold_that_a_single_model_has_not_left_out_is_refused(tmp_path: Path, place: Place) -> None:
    """Asked for fold 1, the model of fold 0 is a wrong answer."""
    run = tmp_path / "s" / "train" / "abc"
    place(run / "checkpoint", fold=0)
    assert resolve(run, fold=0).fold == 0
    assert "fold" in refusal(run, fold=1)


def test_all_folds_of_a_run_come_in_their_order(tmp_path: Path, place: Place) -> None:
    run = tmp_path / "s" / "final" / "winner-seed0"
    for fold in (10, 2, 0):
        place(run / f"fold{fold}" / "checkpoint", fold=fold)
    found = resolve_folds(run)
    assert found == tuple(TrainedModel(run / f"fold{fold}" / "checkpoint", fold) for fold in (0, 2, 10))
    best_yaml(tmp_path / "s", "final/winner-seed0/fold0/checkpoint")
    assert resolve_folds(tmp_path / "s") == resolve_folds(tmp_path / "s" / "best.yaml") == found


def test_all_folds_of_a_single_model_are_refused(tmp_path: Path, place: Place) -> None:
    place(tmp_path / "one" / "checkpoint")
    place(tmp_path / "study" / "trials" / "0003" / "checkpoint")
    best_yaml(tmp_path / "study", "trials/0003/checkpoint")
    for run in (tmp_path / "one", tmp_path / "one" / "checkpoint", tmp_path / "study", tmp_path):
        with pytest.raises(ConfigError, match="fold=all needs a run with one model for each of several folds"):
            resolve_folds(run)
    with pytest.raises(ConfigError, match="nothing: no such run"):
        resolve_folds(tmp_path / "nothing")


def test_folds_that_a_kill_left_at_different_epochs_are_no_model_together(tmp_path: Path, place: Place) -> None:
    for fold in (0, 1):
        place(tmp_path / f"fold{fold}" / "checkpoint", fold=fold)
    path = tmp_path / "fold1" / "checkpoint" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "epoch": 3}), encoding="utf-8")
    with pytest.raises(ConfigError, match="its folds have been trained for 1 to 3 epochs"):
        resolve_folds(tmp_path)


def test_a_study_stands_for_its_best_trial(tmp_path: Path, place: Place) -> None:
    study = tmp_path / "s"
    checkpoint = place(study / "trials" / "0003" / "checkpoint")
    place(study / "train" / "abc" / "checkpoint")
    best = best_yaml(study, "trials/0003/checkpoint")
    for run in (study, best):
        found = resolve(run)
        assert found.checkpoint == checkpoint
        assert (found.study, found.default_split) == (study, "val")


def test_a_study_of_several_folds_gives_the_one_asked_for(tmp_path: Path, place: Place) -> None:
    for fold in (0, 1):
        place(tmp_path / "trials" / "0003" / f"fold{fold}" / "checkpoint", fold=fold)
    best = best_yaml(tmp_path, "trials/0003/fold0/checkpoint")
    for run in (tmp_path, best):
        assert resolve(run, fold=1).checkpoint == tmp_path / "trials" / "0003" / "fold1" / "checkpoint"


def test_a_moved_study_still_finds_its_best(tmp_path: Path, place: Place) -> None:
    place(tmp_path / "here" / "trials" / "0000" / "checkpoint")
    best_yaml(tmp_path / "here", "trials/0000/checkpoint")
    moved = shutil.move(tmp_path / "here", tmp_path / "there")
    assert resolve(moved).checkpoint == tmp_path / "there" / "trials" / "0000" / "checkpoint"


def test_a_best_whose_checkpoint_is_gone_says_which(tmp_path: Path) -> None:
    message = refusal(best_yaml(tmp_path, "trials/0003/checkpoint"))
    assert message == f"{tmp_path / 'best.yaml'}: its checkpoint trials/0003/checkpoint is not there"


def test_a_study_file_names_no_checkpoint(tmp_path: Path) -> None:
    message = refusal(best_yaml(tmp_path, None))
    assert message.startswith(f"{tmp_path / 'best.yaml'}: names no checkpoint")


def test_the_only_training_of_a_study_is_its_model(tmp_path: Path, place: Place) -> None:
    checkpoint = place(tmp_path / "train" / "abc" / "checkpoint")
    assert resolve(tmp_path).checkpoint == checkpoint


def test_several_trainings_are_listed(tmp_path: Path, place: Place) -> None:
    for name in ("abc", "def"):
        place(tmp_path / "train" / name / "checkpoint")
    message = refusal(tmp_path)
    assert message == f"{tmp_path}: holds several trainings: name one of train/abc, train/def"


def test_nothing_there_says_what_could_be(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing") == f"{tmp_path / 'nothing'}: no such run"
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: neither ")
    for thing in (".parquet", "checkpoint", "run", "study"):
        assert thing in message


def test_an_unreadable_checkpoint_is_named(tmp_path: Path, place: Place) -> None:
    checkpoint = place(tmp_path / "model")
    (checkpoint / "meta.json").write_text("{", encoding="utf-8")
    assert refusal(checkpoint).startswith(f"{checkpoint}: no whole checkpoint")
    (checkpoint / "meta.json").write_text('{"format": 99}', encoding="utf-8")
    assert refusal(checkpoint).startswith(f"{checkpoint}: checkpoint format 99")


@pytest.mark.parametrize("checkpoint", ["checkpoint", "fold1/checkpoint", "train/abc/checkpoint"])
def test_a_folder_swap_that_a_crash_interrupted_is_finished(tmp_path: Path, place: Place, checkpoint: str) -> None:
    """Between two renames the old checkpoint has another name for an instant."""
    place(tmp_path / f"{checkpoint}.previous", fold=1)
    assert resolve(tmp_path, fold=1).checkpoint == tmp_path / checkpoint


@pytest.mark.parametrize(
    ("checkpoint", "study", "split"),
    [
        ("/runs/s/trials/0007/checkpoint", "/runs/s", "val"),
        ("/runs/s/trials/0007/fold1/checkpoint", "/runs/s", "val"),
        ("/runs/s/train/abc/checkpoint", "/runs/s", "test"),
        ("/runs/s/confirm/0007-seed2/checkpoint", "/runs/s", "val"),
        ("/runs/s/confirm/base-seed0/fold1/checkpoint", "/runs/s", "val"),
        ("/runs/s/final/winner-seed0/checkpoint", "/runs/s", "test"),
        ("/runs/s/final/base-seed4/fold3/checkpoint", "/runs/s", "test"),
        ("/models/mine", None, "test"),
        # The storage may be called anything: only a run's own place in a study counts.
        ("/data/trials/runs/s/train/abc/checkpoint", "/data/trials/runs/s", "test"),
        ("/data/train/runs/s/trials/0007/checkpoint", "/data/train/runs/s", "val"),
        ("/srv/train/models/mine/checkpoint", None, "test"),
    ],
)
def test_trials_and_confirmations_are_looked_at_on_validation_classes_and_anything_else_on_test(
    checkpoint: str, study: str | None, split: str
) -> None:
    model = TrainedModel(Path(checkpoint), 0)
    assert model.default_split == split
    assert model.study == (Path(study) if study else None)


def test_a_loaded_model_gives_unit_rows(trained: Path) -> None:
    model = raydml.load(trained.parent)
    images = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = model(images)
    assert rows.shape == (5, 16)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(model(images / 255.0), rows)
    # Ready to use: no dropout, no statistics of the batch, no gradient.
    torch.testing.assert_close(model(images[:2]), rows[:2])
    assert not model.training
    assert not rows.requires_grad
    assert (rows[0] - rows[1]).abs().max() > 1e-3


def test_loading_names_the_run_that_has_no_single_model(tmp_path: Path, place: Place) -> None:
    for fold in (0, 1):
        place(tmp_path / f"fold{fold}" / "checkpoint", fold=fold)
    assert not raydml.load(tmp_path, fold=1).training
    with pytest.raises(ConfigError, match="fold="):
        raydml.load(tmp_path)

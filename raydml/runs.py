"""What RUN on a command line means: embeddings, a checkpoint, a run, or a study with a best trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from raydml import checkpoint, yamlfile
from raydml.config import ConfigError
from raydml.config.places import refused_credentials
from raydml.inside import require_inside
from raydml.layout import RUNS


@dataclass(frozen=True)
class TrainedModel:
    """One trained model on disk."""

    checkpoint: Path
    """Checkpoint folder."""
    fold: int | None
    """The fold left out of its training; None where all training classes trained."""

    @property
    def directory(self) -> Path:
        """The folder the checkpoint lies in: evaluations go beside it."""
        return self.checkpoint.parent

    @property
    def study(self) -> Path | None:
        """The folder of the study it belongs to, where it lies in one."""
        run = self._run()
        return run.parent.parent if run.parent.name in RUNS else None

    @property
    def default_split(self) -> Literal["val", "test"]:
        """`val` for a trial of a search and for what confirms it, which must not see test classes; else `test`."""
        return RUNS.get(self._run().parent.name, "test")

    def _run(self) -> Path:
        """`<study>/trials/0007`, `<study>/train/<hash>` ..., if the checkpoint lies where a run leaves it."""
        above = self.directory
        return above.parent if above.name.startswith("fold") else above


def resolve(run: str | Path, *, fold: int | None = None) -> TrainedModel:
    """The one model that a checkpoint folder, run folder, study folder or best.yaml stands for.

    `fold` chooses where a run has several. Raises ConfigError naming what there is to choose from.
    """
    folder = _checkpoint_folder(_existing(run), fold)
    left_out = checkpoint.read_meta(folder)["fold"]
    if fold is not None and fold != left_out:
        raise ConfigError(f"{run}: its only model has {_left_out(left_out)}, but got fold={fold}")
    return TrainedModel(folder, left_out)


def resolve_folds(run: str | Path) -> tuple[TrainedModel, ...]:
    """The models of a run that has one for each of several folds, by fold; a study stands for its best trial.

    Raises ConfigError where there are no such models, or one of them is ahead of another.
    """
    path = _existing(run)
    best = path if path.is_file() else path / "best.yaml"
    folds = _checkpoints(path, "fold*")
    if not folds and best.is_file():
        folds = _checkpoints(_of_best(best, None).parent.parent, "fold*")
    if len(folds) < 2:
        raise ConfigError(f"{run}: fold=all needs a run with one model for each of several folds")
    metas = [checkpoint.read_meta(folder) for folder in folds]
    epochs = sorted({meta["epoch"] for meta in metas})
    if len(epochs) > 1:
        raise ConfigError(
            f"{run}: its folds have been trained for {epochs[0]} to {epochs[-1]} epochs: train it to the end"
        )
    models = [TrainedModel(folder, meta["fold"]) for folder, meta in zip(folds, metas, strict=True)]
    return tuple(sorted(models, key=lambda model: model.fold or 0))


def _existing(run: str | Path) -> Path:
    if (refused := refused_credentials(str(run))) is not None:
        raise ConfigError(f"RUN: {refused}")
    path = Path(run).expanduser().resolve()
    if not path.exists():
        raise ConfigError(f"{run}: no such run")
    return path


def _left_out(fold: int | None) -> str:
    return "left no fold out" if fold is None else f"left out fold {fold}"


def load_model(run: str | Path, *, fold: int | None = None) -> nn.Module:
    """The trained model of a run in evaluation mode on the CPU."""
    objective, _, _ = checkpoint.load_objective(resolve(run, fold=fold).checkpoint)
    model: nn.Module = objective.model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(torch.float32)


def _checkpoint_folder(path: Path, fold: int | None) -> Path:
    if path.is_file():
        return _of_best(path, fold)
    if (path / "model.safetensors").exists():
        return path
    if checkpoint.exists(path / "checkpoint"):
        return path / "checkpoint"
    folds = _checkpoints(path, "fold*")
    if folds:
        return _of_fold(path, folds, fold)
    if (path / "best.yaml").exists():
        return _of_best(path / "best.yaml", fold)
    return _of_only_training(path)


def _checkpoints(path: Path, pattern: str) -> list[Path]:
    return [run / "checkpoint" for run in sorted(path.glob(pattern)) if checkpoint.exists(run / "checkpoint")]


def _of_fold(path: Path, folds: list[Path], fold: int | None) -> Path:
    names = [folder.parent.name.removeprefix("fold") for folder in folds]
    if fold is None or str(fold) not in names:
        raise ConfigError(f"{path}: this run has one model for each of the folds {', '.join(names)}: give fold=...")
    return path / f"fold{fold}" / "checkpoint"


def _of_best(path: Path, fold: int | None) -> Path:
    relative = yamlfile.load(path).get("checkpoint")
    if not isinstance(relative, str):
        raise ConfigError(f"{path}: names no checkpoint; only the best.yaml of a search does")
    folder = require_inside(path.parent, relative, said_by=f"{path}: checkpoint")
    if not checkpoint.exists(folder):
        raise ConfigError(f"{path}: its checkpoint {relative} is not there")
    if fold is not None and folder.parent.name.startswith("fold"):
        trial = folder.parent.parent
        return _of_fold(trial, _checkpoints(trial, "fold*"), fold)
    return folder


def _of_only_training(path: Path) -> Path:
    runs = _checkpoints(path, "train/*")
    if len(runs) == 1:
        return runs[0]
    if runs:
        choices = ", ".join(str(run.parent.relative_to(path)) for run in runs)
        raise ConfigError(f"{path}: holds several trainings: name one of {choices}")
    raise ConfigError(
        f"{path}: neither embeddings (.parquet), nor a checkpoint, nor a run, nor a study with a finished trial"
    )

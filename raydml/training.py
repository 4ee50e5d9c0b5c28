"""A training run, epoch by epoch: one model, or one for each of several folds in lockstep.

It trains, validates, keeps checkpoints and metrics, and goes on where an earlier process stopped. It does not know who
drives it: Ray Train with N workers, a reused Tune actor, or a test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout

from raydml import atomic, yamlfile
from raydml.config import ConfigError, ExperimentConfig
from raydml.data.building import Progress
from raydml.data.cache import ImageSet
from raydml.data.opening import open_images
from raydml.data.subsets import trainval_subset
from raydml.distributed import barrier, rank
from raydml.epoch import Leave, stay
from raydml.fold_models import FoldModels
from raydml.history import read_history
from raydml.model_training import ModelTraining, data_shape
from raydml.objective import build_objective, require_possible
from raydml.torch_defects import require_right_bfloat16


class TrainingFailedError(RuntimeError):
    """A training ended before its last epoch; the message says why."""


class TrainingDivergedError(TrainingFailedError):
    """It would stop at the same place again: TrainingStoppedError, told by a group of workers."""


_LOCK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class RunSpec:
    """What to train and where to keep it. Plain data: it travels to workers."""

    config: ExperimentConfig
    directory: Path
    split: Literal["train", "trainval"] = "train"
    """`train` leaves a fold out and validates on it; `trainval` takes all training classes and validates nothing."""
    folds: tuple[int, ...] = (0,)
    """The folds of `train`, one model each."""
    folds_at_a_time: int | Literal["all"] = "all"
    """Models in memory; the others wait in their checkpoints. Results do not depend on it."""
    test_every_epoch: bool = False
    """Evaluates the test classes after every epoch, as papers that select on test do: the preset `legacy`."""
    fingerprint: str | None = None
    """That of the images, where somebody found it already: workers then list nothing, and refuse other images."""

    def __post_init__(self) -> None:
        """Raises ConfigError where a model could be chosen by test classes and validation classes at once."""
        if self.test_every_epoch and self.split != "trainval":
            raise ConfigError(f"test_every_epoch: only with split=trainval, but got split={self.split}")

    def checkpoints(self) -> tuple[Path, ...]:
        """Checkpoint folder of each model."""
        if self.split == "train" and len(self.folds) > 1:
            return tuple(self.directory / f"fold{fold}" / "checkpoint" for fold in self.folds)
        return (self.directory / "checkpoint",)


class Run:
    """A training run that `advance` takes one epoch further."""

    def __init__(self, spec: RunSpec, *, device: torch.device, leave: Leave = stay) -> None:
        """Opens data and checkpoints. Every worker of a process group must make its own, with an equal spec."""
        self.spec, self._leave = spec, leave
        self._lock: FileLock | None = None
        if rank() == 0:
            spec.directory.mkdir(parents=True, exist_ok=True)
            # A killed run's process may live a moment longer than its driver; two must not write here, and what it
            # still writes must not be half read.
            self._lock = FileLock(spec.directory / ".lock", timeout=_LOCK_TIMEOUT_S)
            try:
                self._lock.acquire()
            except Timeout:
                raise ConfigError(f"{spec.directory}: another process is training here") from None
            atomic.write_text(spec.directory / "config.yaml", yamlfile.dumps(spec.config))
        barrier()
        self.history: list[dict[str, float]] = []
        self._on_record = len(read_history(spec.directory))
        try:
            self._models = self._make_models(device)
            self._models.open()
        except BaseException:
            self.close()
            raise

    def _make_models(self, device: torch.device) -> FoldModels:
        spec = self.spec
        images = open_images(spec.config.data, with_test=spec.test_every_epoch, known=spec.fingerprint)
        folds = spec.folds if spec.split == "train" else (None,)
        models = list(zip(folds, spec.checkpoints(), strict=True))
        # The closure must not hold the run, or a closed run would keep its models until the garbage is collected.
        leave = self._leave

        def opened(place: int) -> ModelTraining:
            fold, checkpoint = models[place]
            tests = spec.test_every_epoch
            return ModelTraining(spec.config, images, fold, checkpoint, device, test_every_epoch=tests, leave=leave)

        return FoldModels(
            opened,
            len(models),
            at_a_time=len(models) if spec.folds_at_a_time == "all" else spec.folds_at_a_time,
            directory=spec.directory,
        )

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run."""
        return self.spec.config.training.num_epochs

    @property
    def reopens(self) -> bool:
        """Whether the next epoch may open checkpoints that the last one wrote."""
        return self._models.take_turns

    def advance(self) -> dict[str, float] | None:
        """Metrics of the next epoch, trained now unless a checkpoint already has it; None behind the last one.

        Keys: `epoch` (from 1), `step`, `seconds`, `train/...`, `val/...` or, where asked for, `test/...`; with several
        folds their means, and `fold<k>/...` for each. Workers of rank > 0 get neither `val/` nor `test/`. Raises
        NonFiniteLossError, and TrainingLeftError where it was to leave: another Run goes on at that step.
        """
        epoch = len(self.history) + 1
        if epoch > self.num_epochs:
            return None
        metrics = self._combined(epoch, self._models.metrics_of(epoch))
        self.history.append(metrics)
        if rank() == 0 and epoch > self._on_record:
            lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.history)
            atomic.write_text(self.spec.directory / "metrics.jsonl", lines)
        return metrics

    def _combined(self, epoch: int, of_each: list[dict[str, float]]) -> dict[str, float]:
        # A checkpoint has what rank 0 validated, a training of now has it on rank 0 only: others may meet both.
        mine = [name for name in of_each[0] if rank() == 0 or not name.startswith(("val/", "test/"))]
        names = [name for name in mine if name not in ("epoch", "step", "seconds")]
        combined: dict[str, float] = {"epoch": epoch, "step": of_each[0]["step"]}
        combined |= {name: float(np.mean([metrics[name] for metrics in of_each])) for name in names}
        if len(of_each) > 1:
            for fold, metrics in zip(self.spec.folds, of_each, strict=True):
                combined |= {f"fold{fold}/{name}": metrics[name] for name in names}
        return {**combined, "seconds": sum(metrics["seconds"] for metrics in of_each)}

    def close(self) -> None:
        """Lets another process write here."""
        if self._lock is not None:
            self._lock.release()


def require_trainable(
    *configs: ExperimentConfig, on_cpu: bool = False, known: str | None = None, progress: Progress | None = None
) -> ImageSet:
    """Opens the data and builds every model once, where a user can read why it cannot be done. Raises ConfigError.

    Weights that have to be downloaded are in the cache of this machine then. All configurations must have the data of
    the first, whose pixels are looked at once. What needs no pixels is checked before any image is decoded; what would
    be wrong on a CPU where `on_cpu` says that the training is there. `known` and `progress` are as for `open_images`.
    """
    for config in configs:
        require_possible(config)
    images = open_images(configs[0].data, known=known, progress=progress)
    shape = data_shape(configs[0], images, trainval_subset(images, configs[0].data))
    for config in configs:
        model = build_objective(config, shape).model
        if on_cpu and config.training.precision == "bfloat16":
            size, cpu = shape.image_size, torch.device("cpu")
            require_right_bfloat16(model, in_channels=shape.in_channels, image_size=size, device=cpu)
    return images


def final_metrics(history: list[dict[str, float]]) -> Mapping[str, float]:
    """The last epoch's validation metrics."""
    return {name: value for name, value in history[-1].items() if name.startswith("val/")} if history else {}

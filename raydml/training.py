"""A training run, epoch by epoch: one model, or one for each of several folds in lockstep.

It trains, validates, keeps checkpoints and metrics, and goes on where an earlier process stopped. It does not know who
drives it: Ray Train with N workers, a reused Tune actor, or a test.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout

from raydml import atomic, checkpoint, seeds, yamlfile
from raydml.config import ConfigError, ExperimentConfig, FolderConfig, dump
from raydml.config.grammar import differences
from raydml.data.batches import PixelSource, class_balanced_batches, num_steps, sequential_batches, training_batches
from raydml.data.cache import ImageSet
from raydml.data.catalog import Subset, fold_subsets, open_images, trainval_subset
from raydml.distributed import barrier, gather_ragged, rank, world_size
from raydml.epoch import TrainingState, embed, new_state, train_epoch
from raydml.metrics import retrieval_metrics
from raydml.objective import DataShape, build_objective, require_possible
from raydml.torch_defects import require_right_bfloat16

# Images from which the mean and deviation of the pixels are taken: more would not move the third digit.
_STATISTICS_IMAGES = 2048


class TrainingFailedError(RuntimeError):
    """A training ended before its last epoch; the message says why."""


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

    def checkpoints(self) -> tuple[Path, ...]:
        """Checkpoint folder of each model."""
        if self.split == "train" and len(self.folds) > 1:
            return tuple(self.directory / f"fold{fold}" / "checkpoint" for fold in self.folds)
        return (self.directory / "checkpoint",)


class Run:
    """A training run that `advance` takes one epoch further."""

    def __init__(self, spec: RunSpec, *, device: torch.device) -> None:
        """Opens data and checkpoints. Every worker of a process group must make its own, with an equal spec."""
        self.spec = spec
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
            self._models = self._open_models(device)
        except BaseException:
            self.close()
            raise

    def _open_models(self, device: torch.device) -> list[_Model]:
        spec = self.spec
        images = open_images(spec.config.data)
        folds = spec.folds if spec.split == "train" else (None,)
        return [
            _Model(spec.config, images, fold, path, device)
            for fold, path in zip(folds, spec.checkpoints(), strict=True)
        ]

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run."""
        return self.spec.config.training.num_epochs

    def advance(self) -> dict[str, float] | None:
        """Metrics of the next epoch, trained now unless a checkpoint already has it; None behind the last one.

        Keys: `epoch` (from 1), `step`, `seconds`, `train/...`, `val/...`; with several folds their means, and
        `fold<k>/...` for each. Workers of rank > 0 get no `val/`. Raises NonFiniteLossError.
        """
        epoch = len(self.history) + 1
        if epoch > self.num_epochs:
            return None
        metrics = self._combined(epoch, [model.metrics_of(epoch) for model in self._models])
        self.history.append(metrics)
        if rank() == 0 and epoch > self._on_record:
            lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.history)
            atomic.write_text(self.spec.directory / "metrics.jsonl", lines)
        return metrics

    def _combined(self, epoch: int, of_each: list[dict[str, float]]) -> dict[str, float]:
        names = [name for name in of_each[0] if name not in ("epoch", "step", "seconds")]
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


def _require_same(directory: Path, config: ExperimentConfig, trained: ExperimentConfig, fold: int | None) -> None:
    """Raises ConfigError where a checkpoint is another experiment's or another fold's."""
    if checkpoint.read_meta(directory)["fold"] != fold:
        raise ConfigError(f"{directory}: this checkpoint is of another fold than fold={fold}")
    for path, found, wanted in differences(dump(trained), dump(config)):
        if path != "data.cache":
            raise ConfigError(f"{directory}: this checkpoint has {path}={found}, but got {wanted}")


class _Model:
    """One model of a run: its data, its state, its checkpoint."""

    def __init__(
        self,
        config: ExperimentConfig,
        images: ImageSet,
        fold: int | None,
        directory: Path,
        device: torch.device,
    ) -> None:
        self._fold = fold
        if fold is None:
            subsets: tuple[Subset, Subset | None] = trainval_subset(images, config.data), None
        else:
            subsets = fold_subsets(images, config.data, fold)
        self._train, self._val = subsets
        self._directory, self._device, self._fingerprint = directory, device, images.fingerprint
        self._source = PixelSource(images.images, self._train.index, device=device)
        self._val_source = None if self._val is None else PixelSource(images.images, self._val.index, device=device)
        self._state = self._open(config, images)

    def _open(self, config: ExperimentConfig, images: ImageSet) -> TrainingState:
        if checkpoint.exists(self._directory):
            state = checkpoint.load(self._directory, device=self._device, fingerprint=self._fingerprint)
            _require_same(self._directory, config, state.config, self._fold)
            return state
        steps = config.training.steps_per_epoch or num_steps(len(self._train.index), config.data.batch_size)
        shape = data_shape(config, images, self._train)
        return new_state(config, shape, steps_per_epoch=steps, device=self._device)

    def metrics_of(self, epoch: int) -> dict[str, float]:
        """Metrics of an epoch (from 1): from the checkpoint's history, else trained now."""
        state = self._state
        if epoch <= len(state.history):
            return state.history[epoch - 1]
        started = time.perf_counter()
        metrics = {f"train/{name}": value for name, value in self._train_epoch().items()}
        if self._val is not None:
            metrics |= {f"val/{name}": value for name, value in self._validate().items()}
        row = {"epoch": epoch, "step": state.step, **metrics, "seconds": round(time.perf_counter() - started, 4)}
        state.history.append(row)
        if rank() == 0:
            checkpoint.save(state, self._directory, fingerprint=self._fingerprint, fold=self._fold)
        return row

    def _train_epoch(self) -> dict[str, float]:
        state, data = self._state, self._state.config.data
        rows = class_balanced_batches(
            self._train.labels,
            batch_size=data.batch_size,
            samples_per_class=data.samples_per_class,
            num_steps=state.steps_per_epoch,
            seed=state.config.seed,
            epoch=state.epoch,
        )
        batches = training_batches(
            self._source,
            self._train.labels,
            rows,
            augment=data.augment,
            seed=state.config.seed,
            epoch=state.epoch,
            rank=rank(),
            world_size=world_size(),
        )
        # Dropout and the like draw from the global generator: seeded here, an epoch is the same after a resume.
        with torch.random.fork_rng():
            torch.manual_seed(seeds.derive(seeds.Purpose.LAYERS, state.config.seed, state.epoch, rank()))
            return train_epoch(state, batches, device=self._device)

    def _validate(self) -> dict[str, float]:
        """Rank r embeds images r, r + R, ...: no padding, so no image counts twice. Metrics on rank 0."""
        assert self._val is not None
        assert self._val_source is not None
        config = self._state.config
        mine = np.arange(rank(), len(self._val.index), world_size())
        batches = sequential_batches(self._val_source, self._val.labels, mine, batch_size=config.evaluation.batch_size)
        part = embed(self._state.objective.model, batches, image_size=self._state.shape.image_size)
        embeddings, labels = gather_ragged(part.embeddings), gather_ragged(part.labels)
        order = gather_ragged(part.index).argsort()
        if rank() != 0:
            return {}
        metrics = retrieval_metrics(embeddings[order], labels[order], recall_at=config.evaluation.recall_at)
        # Counts of queries are the same every epoch: they are no curve.
        return {name: value for name, value in metrics.items() if not name.startswith("num_")}


def require_trainable(*configs: ExperimentConfig, on_cpu: bool = False) -> ImageSet:
    """Opens the data and builds every model once, where a user can read why it cannot be done. Raises ConfigError.

    Weights that have to be downloaded are in the cache of this machine then. All configurations must have the data of
    the first, whose pixels are looked at once. What needs no pixels is checked before any image is decoded; what would
    be wrong on a CPU where `on_cpu` says that the training is there.
    """
    for config in configs:
        require_possible(config)
    images = open_images(configs[0].data)
    shape = data_shape(configs[0], images, trainval_subset(images, configs[0].data))
    for config in configs:
        model = build_objective(config, shape).model
        if on_cpu and config.training.precision == "bfloat16":
            size, cpu = shape.image_size, torch.device("cpu")
            require_right_bfloat16(model, in_channels=shape.in_channels, image_size=size, device=cpu)
    return images


def train(spec: RunSpec, *, device: torch.device, report: Callable[[dict[str, float]], None]) -> None:
    """Runs to the end, reporting every epoch; epochs that a checkpoint already has are reported again."""
    run = Run(spec, device=device)
    try:
        while (metrics := run.advance()) is not None:
            report(metrics)
    finally:
        run.close()


def read_history(directory: Path) -> list[dict[str, float]]:
    """The metrics of every epoch that a run finished; none where it has not finished one."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def data_shape(config: ExperimentConfig, images: ImageSet, train: Subset) -> DataShape:
    """What model and loss need of the training images; mean and deviation of pixels over an even sample of them."""
    stride = max(1, len(train.index) // _STATISTICS_IMAGES)
    sample = images.images[train.index[::stride]].astype(np.float64) / 255.0
    std = sample.std(axis=(0, 1, 2))
    return DataShape(
        num_classes=train.num_classes,
        in_channels=images.images.shape[3],
        image_size=input_size(config, images),
        mean=tuple(float(x) for x in sample.mean(axis=(0, 1, 2))),
        std=tuple(float(x) if x > 0 else 1.0 for x in std),
    )


def input_size(config: ExperimentConfig, images: ImageSet) -> int:
    """Height and width of the network's input."""
    return config.data.input_size if isinstance(config.data, FolderConfig) else int(images.images.shape[1])


def final_metrics(history: list[dict[str, float]]) -> Mapping[str, float]:
    """The last epoch's validation metrics."""
    return {name: value for name, value in history[-1].items() if name.startswith("val/")} if history else {}

"""One model of a run: its images, its state, its checkpoint, advanced epoch by epoch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from raydml import checkpoint, seeds
from raydml.clustering import redivided
from raydml.config import ConfigError, ExperimentConfig, Photos, dump
from raydml.config.grammar import differences
from raydml.data.batches import Batch, class_balanced_batches, num_steps, training_batches
from raydml.data.cache import ImageSet
from raydml.data.cluster_batches import cluster_batches
from raydml.data.decoding import Pixels
from raydml.data.pixels import PixelSource
from raydml.data.subsets import Subset, fold_subsets, test_subset, trainval_subset
from raydml.distributed import gather_ragged, rank, world_size
from raydml.divide import clusters_before, drop_singletons, stage_of
from raydml.epoch import Leave, TrainingLeftError, TrainingState, embed_share, new_state, stay, train_epoch
from raydml.identity import PLACES
from raydml.learners import class_subsets
from raydml.losses import ClassSubset
from raydml.objective import DataShape
from raydml.retrieval import RetrievalProtocol, protocol_metrics, protocol_of
from raydml.splits import Indices

# Images from which the mean and deviation of the pixels are taken: more would not move the third digit.
_STATISTICS_IMAGES = 2048
_STATISTICS_AT_A_TIME = 16


def _require_same(directory: Path, config: ExperimentConfig, trained: ExperimentConfig, fold: int | None) -> None:
    """Raises ConfigError where a checkpoint is another experiment's or another fold's."""
    if checkpoint.read_meta(directory)["fold"] != fold:
        raise ConfigError(f"{directory}: this checkpoint is of another fold than fold={fold}")
    for path, found, wanted in differences(dump(trained), dump(config)):
        if path not in PLACES:
            raise ConfigError(f"{directory}: this checkpoint has {path}={found}, but got {wanted}")


class _HeldOut:
    """Images that a model is evaluated on after every epoch."""

    def __init__(
        self, name: Literal["val", "test"], protocol: RetrievalProtocol, subset: Subset, source: PixelSource
    ) -> None:
        self.name, self.protocol = name, protocol
        self.labels, self.source = subset.labels, source


class ModelTraining:
    """One model of a run: its data, its state, its checkpoint."""

    def __init__(
        self,
        config: ExperimentConfig,
        images: ImageSet,
        fold: int | None,
        directory: Path,
        device: torch.device,
        *,
        test_every_epoch: bool = False,
        leave: Leave = stay,
    ) -> None:
        self._fold = fold
        self._leave = leave
        self._held_out: _HeldOut | None = None

        def source_of(subset: Subset) -> PixelSource:
            return PixelSource(images.images, subset.index, device=device, input_size=input_size(config, images))

        if fold is not None:
            self._train, val = fold_subsets(images, config.data, fold)
            self._held_out = _HeldOut("val", protocol_of(config.data, images, val, "val"), val, source_of(val))
        else:
            self._train = trainval_subset(images, config.data)
            if test_every_epoch:
                test = test_subset(images, config.data)
                protocol = protocol_of(config.data, images, test, "test")
                self._held_out = _HeldOut("test", protocol, test, source_of(test))
        self._directory, self._device, self._fingerprint = directory, device, images.fingerprint
        self._source = source_of(self._train)
        self._used: Indices = np.zeros(0, dtype=np.int64)
        self._subsets: Sequence[ClassSubset] = ()
        self._state = self._open(config, images)
        self._use_division()

    def _open(self, config: ExperimentConfig, images: ImageSet) -> TrainingState:
        if checkpoint.exists(self._directory):
            state = checkpoint.load(self._directory, device=self._device, fingerprint=self._fingerprint)
            _require_same(self._directory, config, state.config, self._fold)
            self._require_one_curve(state.history)
            return state
        steps = config.training.steps_per_epoch or num_steps(len(self._train.index), config.data.batch_size)
        shape = data_shape(config, images, self._train)
        return new_state(config, shape, steps_per_epoch=steps, device=self._device)

    def _require_one_curve(self, history: Sequence[Mapping[str, float]]) -> None:
        tested = self._held_out is not None and self._held_out.name == "test"
        if any(any(name.startswith("test/") for name in row) != tested for row in history):
            state = "without evaluating" if tested else "evaluating"
            raise ConfigError(f"{self._directory}: this checkpoint was trained {state} the test classes every epoch")

    def metrics_of(self, epoch: int) -> dict[str, float]:
        """Metrics of an epoch (from 1): from the checkpoint's history, else trained now.

        Raises TrainingLeftError where it was to leave; what it trained of the epoch is in the checkpoint.
        """
        state = self._state
        if epoch <= len(state.history):
            return state.history[epoch - 1]
        if self._leave():
            # A clustering may take longer than there is time.
            raise TrainingLeftError(epoch, state.step)
        begun = state.unfinished
        started = time.perf_counter() - (0.0 if begun is None else begun.seconds)
        metrics = self._divide() if begun is None else dict(begun.before)
        try:
            trained = self._train_epoch()
        except TrainingLeftError:
            assert state.unfinished is not None, "it left in the middle of an epoch"
            seconds = time.perf_counter() - started
            state.unfinished = replace(state.unfinished, before=metrics, seconds=seconds)
            self._save()
            raise
        metrics |= {f"train/{name}": value for name, value in trained.items()}
        if self._held_out is not None:
            found = self._evaluate(self._held_out)
            metrics |= {f"{self._held_out.name}/{name}": value for name, value in found.items()}
        row = {"epoch": epoch, "step": state.step, **metrics, "seconds": round(time.perf_counter() - started, 4)}
        state.history.append(row)
        self._save()
        return row

    def _save(self) -> None:
        if rank() == 0:
            checkpoint.save(self._state, self._directory, fingerprint=self._fingerprint, fold=self._fold)

    def _divide(self) -> dict[str, float]:
        """Clusters the images anew where that is due; what there is to know about it."""
        state = self._state
        config, num_epochs = state.config.divide, state.config.training.num_epochs
        if config.num_learners == 1 or not clusters_before(config, state.epoch, num_epochs):
            return {}
        clustering = redivided(state, self._source, self._train.labels)
        state.division = clustering.division
        self._use_division()
        return clustering.stats

    def _use_division(self) -> None:
        """Derives from the division what batches and losses need of it."""
        division = self._state.division
        if division is None:
            return
        labels = torch.from_numpy(self._train.labels)
        used = drop_singletons(division.learners, labels)
        self._used = used.numpy()
        self._subsets = class_subsets(used, labels, num_learners=division.num_learners, device=self._device)

    def _batches(self) -> tuple[list[Indices], list[int] | None]:
        """Rows of every global batch of the next epoch, and whose they are where images are divided."""
        state, data = self._state, self._state.config.data
        divide, num_epochs = state.config.divide, state.config.training.num_epochs
        if state.division is None or stage_of(divide, state.epoch, num_epochs) == "conquer":
            rows = class_balanced_batches(
                self._train.labels,
                batch_size=data.batch_size,
                samples_per_class=data.samples_per_class,
                num_steps=state.steps_per_epoch,
                seed=state.config.seed,
                epoch=state.epoch,
            )
            return list(rows), None
        batches = cluster_batches(
            self._train.labels,
            self._used,
            batch_size=data.batch_size,
            samples_per_class=data.samples_per_class,
            num_steps=state.steps_per_epoch,
            round_length=divide.round_length,
            seed=state.config.seed,
            epoch=state.epoch,
        )
        return [batch.rows for batch in batches], [batch.learner for batch in batches]

    def _train_epoch(self) -> dict[str, float]:
        state = self._state
        rows, learners = self._batches()
        batches = training_batches(
            self._source,
            self._train.labels,
            rows,
            augment=state.config.data.augment,
            seed=state.config.seed,
            epoch=state.epoch,
            rank=rank(),
            world_size=world_size(),
            learners=learners,
            threads=state.config.data.prefetch_threads,
            first=0 if state.unfinished is None else state.unfinished.num_steps,
        )
        with closing(batches), torch.random.fork_rng():
            metrics = train_epoch(
                state,
                self._seeded(batches),
                device=self._device,
                num_steps=len(rows),
                subsets=self._subsets,
                leave=self._leave,
            )
        if learners is not None:
            metrics["passes"] = sum(map(len, rows)) / len(self._train.labels)
        return metrics

    def _seeded(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Dropout and the like draw from the global generator: seeded here, a step is the same after a resume."""
        seed = self._state.config.seed
        for step, batch in enumerate(batches, self._state.step):
            torch.manual_seed(seeds.derive(seeds.Purpose.LAYERS, seed, step, rank()))
            yield batch

    def _evaluate(self, images: _HeldOut) -> dict[str, float]:
        """Every rank embeds its share; metrics on rank 0."""
        part = embed_share(self._state, images.source, images.labels)
        embeddings, labels = gather_ragged(part.embeddings), gather_ragged(part.labels)
        order = gather_ragged(part.index).argsort()
        if rank() != 0:
            return {}
        wanted = self._state.config.evaluation.wanted
        found = protocol_metrics(images.protocol, embeddings[order], labels[order], wanted=wanted)
        # Counts of queries are the same every epoch: they are no curve.
        return {name: value for name, value in found.means().items() if not name.startswith("num_")}


def data_shape(config: ExperimentConfig, images: ImageSet, train: Subset) -> DataShape:
    """What model and loss need of the training images; mean and deviation of pixels over an even sample of them."""
    stride = max(1, len(train.index) // _STATISTICS_IMAGES)
    mean, std = _statistics(images.images, train.index[::stride])
    return DataShape(
        num_classes=train.num_classes,
        in_channels=images.images.shape[3],
        image_size=input_size(config, images),
        mean=tuple(mean),
        std=tuple(x if x > 0 else 1.0 for x in std),
    )


def _statistics(images: Pixels, index: Indices) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel, on a scale where 255 is 1. Counts levels: a few images are in memory."""
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)
    for start in range(0, len(index), _STATISTICS_AT_A_TIME):
        pixels = images[index[start : start + _STATISTICS_AT_A_TIME]]
        for channel in range(len(counts)):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255.0
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(axis=1)
    return mean.tolist(), np.sqrt(variance).tolist()


def input_size(config: ExperimentConfig, images: ImageSet) -> int:
    """Height and width of the network's input."""
    return config.data.input_size if isinstance(config.data, Photos) else int(images.images.shape[1])

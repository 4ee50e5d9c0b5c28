"""Data-parallel training of one experiment through Ray Train: `python -m raydml.train STUDY.yaml`."""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports: bad input and --check need neither torch nor Ray. And not behind them: what is defined in
    # __main__ would travel to workers by value, as other classes than those of the importable module.
    import sys

    from raydml.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

import hashlib
import json
import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from raydml import atomic, autoscaler, session
from raydml.baseline import raw_pixel_metrics
from raydml.capacity import (
    Capacity,
    fitting_trials,
    present_trials,
    require_images_for,
    surely_without_gpu,
    told,
    worker_of,
    workers_told,
)
from raydml.config import ConfigError, ExperimentConfig, Resources, dump
from raydml.data.building import Progress
from raydml.data.files import Files
from raydml.data.opening import open_images
from raydml.data.subsets import fold_subsets
from raydml.history import read_history
from raydml.identity import PLACES, without_paths
from raydml.recorded import Task
from raydml.session import capacity_ahead, connected
from raydml.study_folder import StudyFolder
from raydml.training import RunSpec, TrainingFailedError, final_metrics, require_trainable
from raydml.waiting import Reminder, line

_LOGGER = logging.getLogger(__name__)
# How often a lost worker is replaced; the training goes on from its last epoch.
_MAX_FAILURES = 3


__all__ = ["Result", "TrainingFailedError", "fit", "run_spec"]


@dataclass(frozen=True)
class Result:
    """What a training leaves."""

    directory: Path
    """Run folder: config.yaml, metrics.jsonl, event file, checkpoint folder."""
    uri: str | None
    """Where the folder is kept; `directory` is then a copy without checkpoints, until this process ends."""
    metrics: dict[str, float]
    """Validation metrics of the last epoch; none for `trainval`."""
    history: list[dict[str, float]]
    """Metrics of every epoch."""
    baseline: dict[str, float] | None
    """Metrics of raw pixels on the same validation images; none for `trainval`."""

    def named(self) -> tuple[str, str]:
        """The place of the run, for a message and as an argument of a command."""
        return (str(self.directory),) * 2 if self.uri is None else (Files(self.uri).named(), shlex.quote(self.uri))


def run_spec(
    config: ExperimentConfig,
    *,
    storage: str,
    name: str,
    split: Literal["train", "trainval"] = "train",
    fold: int | None = None,
) -> RunSpec:
    """The training and its folder `<storage>/<name>/train/<hash>`: the same experiment has the same folder.

    Raises ConfigError where split and fold contradict each other or there is no such fold.
    """
    if split == "trainval" and fold is not None:
        raise ConfigError(f"fold: split=trainval trains on all folds, but got fold={fold}")
    if fold is not None and fold >= config.data.num_folds:
        raise ConfigError(f"fold: must be below data.num_folds={config.data.num_folds}, but got {fold}")
    folds = () if split == "trainval" else (fold or 0,)
    # Two places may hold other images: nobody has looked yet.
    raw = without_paths(dump(config), PLACES - {"data.root", "data.images"})
    identity = json.dumps({"config": raw, "split": split, "folds": folds}, sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return RunSpec(config, Path(storage).expanduser().resolve() / name / "train" / digest, split, folds)


def fit(
    config: ExperimentConfig,
    resources: Resources,
    *,
    storage: str,
    name: str,
    split: Literal["train", "trainval"] = "train",
    fold: int | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
) -> Result:
    """Trains one experiment with Ray Train; goes on where an earlier run of the same experiment stopped.

    `report` gets every epoch's metrics, those of an earlier run included, `progress` the number of images decoded for
    it. Raises ConfigError for bad input, StorageError where a URI does not answer, and TrainingFailedError naming the
    reason where it cannot end.
    """
    require_images_for(config, resources)
    folder = StudyFolder(storage, name)
    spec = run_spec(config, storage=str(folder.path.parent), name=name, split=split, fold=fold)
    own = spec.directory.relative_to(folder.path).as_posix()
    folder.open(lambda path: path == own)
    uri = folder.uri_of(spec.directory)
    rows = read_history(spec.directory)
    if len(rows) < config.training.num_epochs:
        on_cpu = surely_without_gpu(resources, capacity_ahead())
        images = require_trainable(config, on_cpu=on_cpu, progress=progress)
        spec = replace(spec, fingerprint=images.fingerprint)
        atomic.make_folder(spec.directory)
        with connected(verbose=verbose) as capacity:
            fitting_trials(resources, capacity)
            task = Task(spec, {}, worker_of(resources, capacity), uri)
            _train(task, resources, capacity, report)
        folder.take(spec.directory)
    elif report is not None:
        for row in rows:
            report(row)
    history = read_history(spec.directory)
    return Result(spec.directory, uri, dict(final_metrics(history)), history, _baseline(spec))


def _baseline(spec: RunSpec) -> dict[str, float] | None:
    if spec.split == "trainval":
        return None
    images = open_images(spec.config.data, known=spec.fingerprint)
    held_out = fold_subsets(images, spec.config.data, spec.folds[0])[1]
    return raw_pixel_metrics(images, held_out, wanted=spec.config.evaluation.wanted)


def _train(
    task: Task, resources: Resources, capacity: Capacity, report: Callable[[dict[str, float]], None] | None
) -> None:
    from raydml.workers import WorkerGroup

    group = WorkerGroup(
        task,
        num_workers=resources.workers_per_trial,
        fewest=resources.fewest_workers,
        max_failures=_MAX_FAILURES,
    )
    reminder = Reminder()
    try:
        for found in group.reports():
            if isinstance(found, str):
                if words := found or _waits(task, resources, capacity, reminder):
                    _LOGGER.warning(words)
            elif report is not None:
                report(found)
    finally:
        group.close()


def _waits(task: Task, resources: Resources, capacity: Capacity, reminder: Reminder) -> str | None:
    """What is said of workers that wait for machines, if it is time to say it."""
    seen, troubles = session.now(capacity), autoscaler.troubles()
    room = present_trials(resources, seen) > 0
    if not reminder.due(time.monotonic(), anyone=True, room=room, troubles=troubles):
        return None
    name = task.spec.directory.name
    return line([name], task.worker, workers_told(resources), told(seen), troubles)

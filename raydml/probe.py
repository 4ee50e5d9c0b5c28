"""A short training of a study's base, as a trial has it: what a step takes, and what an epoch and a run take besides.

Through Ray, on as many workers as the search has at a time, because they slow each other down. Epochs of few steps and
of more tell steps from what comes once an epoch; only second epochs count, because the first one warms up.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from raydml.capacity import Worker, surely_without_gpu, worker_of
from raydml.config import ConfigError, ExperimentConfig, Resources, replace_at
from raydml.config.places import resolved_storage
from raydml.data.batches import num_steps
from raydml.data.subsets import fold_subsets, trainval_subset
from raydml.divide import clusters_before
from raydml.plan import trials_at_a_time
from raydml.price import Speed, speed_of
from raydml.recorded import Task, recorded
from raydml.session import capacity_ahead, connected, import_ray
from raydml.space import Study
from raydml.storage import RemoteFolder, below, snapshots_below
from raydml.study_folder import is_uri
from raydml.training import RunSpec, TrainingFailedError, require_trainable
from raydml.workers import WorkerGroup

ray = import_ray()

from ray.exceptions import RayTaskError  # noqa: E402

__all__ = ["TrainingFailedError", "measure", "next_steps"]

_FEW_STEPS = 4
# The longest of its epochs: a tenth of a second of noise is then a hundredth of what is measured.
_LONG_S = 6.0
_MOST_PROBES = 8


@dataclass(frozen=True)
class Timing:
    """Two epochs of a run of its own."""

    asked: int
    """Steps of an undivided epoch."""
    steps: int
    """Steps that the second epoch had."""
    run_s: float
    """Before the first epoch, and what that took longer than the second; without clustering."""
    first_s: float
    second_s: float
    divide_s: float
    """Clustering of the images, where that is due."""


def measure(study: Study, *, verbose: bool = False) -> tuple[Speed, int]:
    """Speed of the base, and how many trials run at a time. Nothing of it stays.

    Raises ConfigError as the search would, TrainingFailedError where the base cannot be trained.
    """
    images = require_trainable(*study.structures(), on_cpu=surely_without_gpu(study.resources, capacity_ahead()))
    base = study.base
    train, everything = fold_subsets(images, base.data, 0)[0], trainval_subset(images, base.data)
    steps, of_all = (
        base.training.steps_per_epoch or num_steps(len(subset.index), base.data.batch_size)
        for subset in (train, everything)
    )
    started = time.perf_counter()
    with connected(verbose=verbose) as capacity, _scratch(resolved_storage(study.storage)) as (folder, uri):
        worker = worker_of(study.resources, capacity)
        at_a_time = trials_at_a_time(study, capacity, study.search.num_trials)
        task = Task(replace(_spec(study, folder), fingerprint=images.fingerprint), {}, worker, uri)
        try:
            if study.resources.workers_per_trial == 1:
                copies = min(at_a_time, _MOST_PROBES)
                timings, start_s = _inline(task, steps, copies)
            else:
                copies, start_s = 1, 0.0
                timings = [_run_all(partial(_of_group, task, study.resources), steps)]
        except RayTaskError as error:
            raise TrainingFailedError(" ".join(str(error.cause).split())) from None
        machine = ray.get(_remote(_machine, worker).remote())
    speeds = [_times(base, of_one, models=max(1, len(task.spec.folds))) for of_one in timings]
    return Speed(
        step_s=fmean(step for step, _, _ in speeds),
        epoch_s=fmean(epoch for _, epoch, _ in speeds),
        run_s=fmean(run for _, _, run in speeds),
        start_s=start_s,
        steps=steps,
        steps_of_all=of_all,
        machine=machine,
        measured=f"{copies} at a time, epochs of {timings[0][0].asked} to {timings[0][-1].asked} of {steps} steps",
        seconds=time.perf_counter() - started,
    ), at_a_time


def next_steps(done: list[tuple[int, float]], whole: int) -> int | None:
    """Steps of the next epochs to be timed, from (steps, seconds) of those before; never more than a whole epoch's."""
    if not done:
        return max(1, min(_FEW_STEPS, whole // 2))
    steps = done[-1][0]
    if steps == whole or len(done) > 2:
        return None
    if len(done) == 1:
        return min(2 * steps, whole)
    per_step, _ = speed_of(*done)
    # Of a few steps noise may be all: not much more than a step of them is then ventured.
    wanted = int(min(_LONG_S / max(per_step, 1e-6), 32 * steps, whole))
    return wanted if wanted > steps else None


def _run_all(run: Callable[[int], Timing], whole: int) -> list[Timing]:
    found: list[Timing] = []
    while (steps := next_steps([(t.asked, t.second_s - t.divide_s) for t in found], whole)) is not None:
        found.append(run(steps))
    return found


def _times(base: ExperimentConfig, timings: list[Timing], *, models: int) -> tuple[float, float, float]:
    """Seconds of a step, of an epoch besides, of a run besides."""
    points = [(t.steps, t.second_s - t.divide_s) for t in timings]
    step_s, epoch_s = speed_of(points[0], points[-1], models=models)
    # A round of learners may have more or fewer steps than an undivided epoch.
    step_s *= timings[-1].steps / timings[-1].asked
    epochs = base.training.num_epochs
    often = sum(clusters_before(base.divide, epoch, epochs) for epoch in range(epochs)) / epochs
    clustering = max(t.divide_s for t in timings) if base.divide.num_learners > 1 else 0.0
    return step_s, epoch_s + often * clustering / models, timings[-1].run_s


def _spec(study: Study, folder: Path) -> RunSpec:
    """One fold; two that take turns where a trial's folds do."""
    at_a_time = study.resources.folds_at_a_time
    turns = at_a_time != "all" and at_a_time < len(study.folds)
    base = replace_at(study.base, "training.num_epochs", max(2, study.base.training.num_epochs))
    return RunSpec(base, folder, "train", (0, 1) if turns else (0,), 1 if turns else "all")


def _with_steps(task: Task, steps: int, name: str) -> Task:
    spec = task.spec
    config = replace_at(spec.config, "training.steps_per_epoch", steps)
    uri = None if task.uri is None else below(task.uri, name)
    return replace(task, spec=replace(spec, config=config, directory=spec.directory / name), uri=uri)


def _inline(task: Task, steps: int, copies: int) -> tuple[list[list[Timing]], float]:
    """Timings of every copy, and the seconds that a worker's start takes."""
    started = time.perf_counter()
    remote = _remote(_probe_worker, task.worker)
    found = ray.get([remote.remote(task, steps, copy) for copy in range(copies)])
    waited = time.perf_counter() - started - max(inside for _, inside in found)
    warming = [of_one[0].run_s - of_one[-1].run_s for of_one, _ in found]
    return [of_one for of_one, _ in found], max(0.0, waited) + max(0.0, fmean(warming))


def _remote(function: Callable[..., object], worker: Worker) -> Any:  # noqa: ANN401
    return ray.remote(num_cpus=worker.cpus, num_gpus=worker.gpus, max_retries=0)(function)


def _probe_worker(task: Task, steps: int, copy: int) -> tuple[list[Timing], float]:
    """Runs on a worker, as an inline trial does."""
    started = time.perf_counter()
    torch.set_num_threads(max(1, int(task.worker.cpus)))
    device = torch.device("cuda" if task.worker.gpus > 0 else "cpu")
    found = _run_all(lambda few: _of_run(_with_steps(task, few, f"{copy}-{few}"), device), steps)
    return found, time.perf_counter() - started


def _of_run(task: Task, device: torch.device) -> Timing:
    started = time.perf_counter()
    with recorded(task, device=device) as run:
        clock, rows = [time.perf_counter()], []
        for _ in range(2):
            row = run.advance()
            assert row is not None
            clock.append(time.perf_counter())
            rows.append(row)
    return _timing(task.spec, started, clock, rows)


def _of_group(task: Task, resources: Resources, steps: int) -> Timing:
    started = time.perf_counter()
    task = _with_steps(task, steps, f"group-{steps}")
    group = WorkerGroup(
        task,
        num_workers=resources.workers_per_trial,
        fewest=resources.fewest_workers,
        max_failures=0,
    )
    try:
        clock, rows = [started], []
        for row in islice(group.epochs(), 2):
            clock.append(time.perf_counter())
            rows.append(row)
    finally:
        group.close()
    if len(rows) < 2:
        raise TrainingFailedError("the workers ended before their second epoch")
    return _timing(task.spec, started, clock, rows)


def _timing(spec: RunSpec, started: float, clock: list[float], rows: list[dict[str, float]]) -> Timing:
    clustering = [row.get("divide/seconds", 0.0) for row in rows]
    first, second = (after - before for before, after in pairwise(clock))
    steps = spec.config.training.steps_per_epoch
    assert steps is not None
    usual = second - clustering[1]
    opening = clock[0] - started + max(0.0, first - clustering[0] - usual)
    return Timing(steps, int(rows[1]["step"] - rows[0]["step"]), opening, first, second, max(clustering))


def _machine() -> str:
    """What a worker computes on."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    names = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "").splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


@contextmanager
def _scratch(storage: str) -> Iterator[tuple[Path, str | None]]:
    """A folder where the runs of the study would be, on a disk as fast, and that no study has; gone afterwards.

    With the URI where the storage is one: the folder is then one of each process.
    """
    if is_uri(storage):
        uri = below(storage, f".estimate-{uuid.uuid4().hex[:8]}")
        try:
            yield Path("estimate"), uri
        finally:
            for run in snapshots_below(uri):
                RemoteFolder(below(uri, run), Path()).remove()
        return
    with _local_scratch(Path(storage).resolve()) as folder:
        yield folder, None


@contextmanager
def _local_scratch(storage: Path) -> Iterator[Path]:
    made = [folder for folder in (storage, *storage.parents) if not folder.exists()]
    try:
        storage.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".estimate-", dir=storage))
    except OSError as error:
        raise ConfigError(f"storage: {storage} cannot be written to: {error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()

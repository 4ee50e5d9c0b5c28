"""What a machine or cluster has, what a trial needs, and how many trials run at a time. Pure arithmetic, no ray."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from raydml.config import ConfigError, ExperimentConfig, Resources

# Room for the tasks that feed an embedding pool: actors that take every core starve them, silently.
_FEEDING_CPUS = 1.0


@dataclass(frozen=True)
class Capacity:
    """CPU cores and GPUs, of this machine or of a whole cluster."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Worker:
    """What one worker occupies, with `auto` decided."""

    cpus: float
    gpus: float


def this_machine() -> Capacity:
    """Cores this process may use, and NVIDIA GPUs, without loading torch or a driver library."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = Path("/proc/driver/nvidia/gpus")
    gpus = len(list(devices.iterdir())) if devices.is_dir() else 0
    if visible is not None:
        gpus = min(gpus, len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"]))
    return Capacity(float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else _count(), float(gpus))


def _count() -> float:
    return float(os.cpu_count() or 1)


def require_images_for(config: ExperimentConfig, resources: Resources) -> None:
    """Raises ConfigError where a worker would have no image of a batch; shares may differ by one."""
    batch, workers = config.data.batch_size, resources.workers_per_trial
    if batch < workers:
        raise ConfigError(
            "resources.workers_per_trial must not exceed base.data.batch_size, "
            f"but got workers_per_trial={workers}, data.batch_size={batch}"
        )


def worker_of(resources: Resources, capacity: Capacity) -> Worker:
    """One worker of a trial: with a GPU where `auto` finds any."""
    if resources.gpus_per_worker == "auto":
        return Worker(resources.cpus_per_worker, 1.0 if capacity.gpus >= 1 else 0.0)
    return Worker(resources.cpus_per_worker, float(resources.gpus_per_worker))


def surely_without_gpu(resources: Resources, capacity: Capacity | None) -> bool:
    """Whether a worker has no GPU whatever the machines are; None stands for machines that are not known yet."""
    unknown = Capacity(math.inf, math.inf)
    return worker_of(resources, unknown if capacity is None else capacity).gpus == 0


def fitting_trials(resources: Resources, capacity: Capacity) -> int:
    """How many trials the machines hold at a time. Raises ConfigError where they can never hold one."""
    worker = worker_of(resources, capacity)
    workers = resources.workers_per_trial
    fits = [_whole(capacity.cpus / (worker.cpus * workers))]
    if worker.gpus > 0:
        fits.append(_whole(capacity.gpus / (worker.gpus * workers)))
    if min(fits) < 1:
        raise ConfigError(
            f"resources: a trial needs {workers} x {worker.cpus:g} CPUs and {workers} x {worker.gpus:g} GPUs, "
            f"but there are {capacity.cpus:g} CPUs and {capacity.gpus:g} GPUs "
            f"(workers_per_trial={workers}, cpus_per_worker={worker.cpus:g}, gpus_per_worker={worker.gpus:g})"
        )
    return min(fits)


def concurrency(resources: Resources, capacity: Capacity, *, limit: int | None, num_trials: int) -> int:
    """Trials at a time: what the machines hold, at most `limit` and never more than there are."""
    fitting = fitting_trials(resources, capacity)
    return max(1, min(fitting, limit or fitting, num_trials))


def embedding_actors(resources: Resources, capacity: Capacity) -> tuple[int, Worker]:
    """Number and size of the actors that embed a gallery; a core is left for the tasks that feed them.

    Where there are too few cores the actors reserve less than asked for. Raises ConfigError where there are too few
    GPUs for one.
    """
    worker = worker_of(resources, capacity)
    free = max(0.0, capacity.cpus - _FEEDING_CPUS)
    if worker.gpus > 0:
        number = _whole(capacity.gpus / worker.gpus)
        if number < 1:
            raise ConfigError(
                f"resources: an embedding actor needs {worker.gpus:g} GPUs, but there are {capacity.gpus:g} GPUs "
                f"(gpus_per_worker={worker.gpus:g})"
            )
        return number, Worker(min(worker.cpus, free / number), worker.gpus)
    cpus = min(worker.cpus, free)
    return max(1, _whole(free / cpus)) if cpus > 0 else 1, Worker(cpus, 0.0)


@dataclass(frozen=True)
class Machine:
    """One machine of a cluster."""

    cpus: float
    gpus: float
    memory_bytes: float


def counting_actors(
    resources: Resources, capacity: Capacity, machines: Sequence[Machine], num_bytes: int, most: int
) -> tuple[int, Worker]:
    """Number, at most `most`, and size of the actors that hold shards of a gallery, `num_bytes` with one each.

    Raises ConfigError where no machine has room for one.
    """
    worker = worker_of(resources, capacity)
    number = sum(_fitting(worker, machine, num_bytes) for machine in machines)
    if number < 1:
        cpus, gpus, memory = (max((getattr(m, f.name) for m in machines), default=0.0) for f in fields(Machine))
        raise ConfigError(
            f"shards: an actor needs {worker.cpus:g} CPUs, {worker.gpus:g} GPUs and {num_bytes / 1e9:.1f} GB, "
            f"but the largest machines have {cpus:g} CPUs, {gpus:g} GPUs and {memory / 1e9:.1f} GB: more shards are "
            f"smaller (cpus_per_worker={worker.cpus:g}, gpus_per_worker={worker.gpus:g})"
        )
    return min(number, most), worker


def _fitting(worker: Worker, machine: Machine, num_bytes: int) -> int:
    fits = [_whole(machine.cpus / worker.cpus), _whole(machine.memory_bytes / num_bytes)]
    return min([*fits, _whole(machine.gpus / worker.gpus)] if worker.gpus > 0 else fits)


def _whole(ratio: float) -> int:
    # 3 x 0.1 is a little more than 0.3: a trial must not be lost to the last bit.
    return math.floor(ratio + 1e-9)

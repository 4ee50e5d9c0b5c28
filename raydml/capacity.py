"""What machines have and may become, what a trial needs, and how many trials run at a time. Pure arithmetic, no ray."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from raydml.config import ConfigError, ExperimentConfig, Resources

# Room for the tasks that feed an embedding pool: actors that take every core starve them, silently.
_FEEDING_CPUS = 1.0


@dataclass(frozen=True)
class Machine:
    """One machine. A worker lies on one: what two machines have left over holds none."""

    cpus: float
    gpus: float
    memory_bytes: float = math.inf
    """Inf where nobody says."""


@dataclass(frozen=True)
class NodeType:
    """Machines of a kind that an autoscaler starts, those that run included."""

    name: str
    machine: Machine
    most: int


@dataclass(frozen=True)
class Capacity:
    """The machines there are, and those that an autoscaler may have at a time."""

    machines: tuple[Machine, ...]
    node_types: tuple[NodeType, ...] = ()
    most_workers: float = math.inf
    """Machines of all node types together."""
    head: Machine | None = None
    """The one machine of a growing cluster that no autoscaler starts; it is one of `machines`."""

    @classmethod
    def single(cls, cpus: float, gpus: float) -> Capacity:
        """That of one machine."""
        return cls((Machine(cpus, gpus),))

    @property
    def cpus(self) -> float:
        """CPU cores of the machines there are."""
        return sum(machine.cpus for machine in self.machines)

    @property
    def gpus(self) -> float:
        """GPUs of the machines there are."""
        return sum(machine.gpus for machine in self.machines)

    @property
    def known(self) -> bool:
        """Whether anything is known that could hold a worker: a head without CPUs holds none."""
        kinds = (*self.machines, *(kind.machine for kind in self.node_types if kind.most > 0))
        return any(machine.cpus > 0 or machine.gpus > 0 for machine in kinds)

    def grown(self, worker: Worker) -> tuple[Machine, ...]:
        """The machines when the cluster is as large as it may become, of the types that hold most of such workers.

        Never fewer than there are: machines may have joined by hand.
        """
        if not self.node_types:
            return self.machines
        left, found = self.most_workers, [] if self.head is None else [self.head]
        for kind in sorted(self.node_types, key=lambda kind: -slots(worker, [kind.machine])):
            number = int(min(kind.most, left))
            left -= number
            found += [kind.machine] * number
        return max((tuple(found), self.machines), key=lambda machines: slots(worker, machines))


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
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Capacity.single(float(cpus), float(gpus))


def require_images_for(config: ExperimentConfig, resources: Resources) -> None:
    """Raises ConfigError where a worker would have no image of a batch; shares may differ by one."""
    batch, workers = config.data.batch_size, resources.workers_per_trial
    if batch < workers:
        raise ConfigError(
            "resources.workers_per_trial must not exceed base.data.batch_size, "
            f"but got workers_per_trial={workers}, data.batch_size={batch}"
        )


def worker_of(resources: Resources, capacity: Capacity) -> Worker:
    """One worker of a trial: with a GPU where `auto` finds a machine that has one, or may have one started."""
    if resources.gpus_per_worker != "auto":
        return Worker(resources.cpus_per_worker, float(resources.gpus_per_worker))
    kinds = (*capacity.machines, *(kind.machine for kind in capacity.node_types if kind.most > 0))
    return Worker(resources.cpus_per_worker, 1.0 if any(machine.gpus >= 1 for machine in kinds) else 0.0)


def surely_without_gpu(resources: Resources, capacity: Capacity | None) -> bool:
    """Whether a worker has no GPU whatever the machines are; None stands for machines that are not known yet."""
    unknown = Capacity.single(math.inf, math.inf)
    return worker_of(resources, unknown if capacity is None else capacity).gpus == 0


def slots(worker: Worker, machines: Iterable[Machine], num_bytes: float = 0.0) -> int:
    """Workers that the machines hold, each on one of them; `num_bytes` is a worker's share of the memory."""
    return sum(_fitting(worker, machine, num_bytes) for machine in machines)


def _fitting(worker: Worker, machine: Machine, num_bytes: float) -> int:
    has = ((machine.cpus, worker.cpus), (machine.gpus, worker.gpus), (machine.memory_bytes, num_bytes))
    fits = [offered / asked for offered, asked in has if asked > 0]
    return _whole(min(fits))


def trials_of(resources: Resources, num_workers: int) -> int:
    """Trials at a time of so many workers: as many as are whole; where none is, one that may start with fewer.

    What whole ones leave over stays free: a trial of few workers would grow, and start again, with each that ends.
    """
    return max(num_workers // resources.workers_per_trial, int(num_workers >= resources.fewest_workers))


def present_trials(resources: Resources, capacity: Capacity) -> int:
    """How many trials the machines that are there hold at a time. A trial's workers may lie on several."""
    return trials_of(resources, slots(worker_of(resources, capacity), capacity.machines))


def possible_trials(resources: Resources, capacity: Capacity) -> int:
    """How many they hold when they are as many as they may become; 0 where those that held one are gone."""
    worker = worker_of(resources, capacity)
    return trials_of(resources, slots(worker, capacity.grown(worker)))


def fitting_trials(resources: Resources, capacity: Capacity) -> int:
    """As `possible_trials`. Raises ConfigError where the machines can never hold one."""
    if possible := possible_trials(resources, capacity):
        return possible
    worker, fewest = worker_of(resources, capacity), resources.fewest_workers
    held = slots(worker, capacity.grown(worker))
    asked = (
        f"resources: a trial needs {fewest} x {worker.cpus:g} CPUs and {fewest} x {worker.gpus:g} GPUs, "
        f"each worker on one machine, but "
    )
    least = "" if resources.min_workers_per_trial is None else f"min_workers_per_trial={fewest}, "
    given = (
        f"(workers_per_trial={resources.workers_per_trial}, {least}cpus_per_worker={worker.cpus:g}, "
        f"gpus_per_worker={worker.gpus:g})"
    )
    raise ConfigError(f"{asked}{_too_small(held, capacity)} {given}")


def workers_told(resources: Resources) -> str:
    """`2`, or `1 to 2`: workers of a trial."""
    fewest, most = resources.fewest_workers, resources.workers_per_trial
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def _too_small(held: int, capacity: Capacity) -> str:
    if held:
        return f"all machines together hold {held} such workers at most: {told(capacity)}"
    return f"no machine holds one: {told(capacity)}"


def told(capacity: Capacity) -> str:
    """`2 x (4 CPUs, 1 GPUs), and an autoscaler that may have up to 3 gpu (8 CPUs, 1 GPUs)`."""
    kinds = Counter(capacity.machines)
    present = ", ".join(f"{number} x {_shown(kind)}" for kind, number in kinds.items()) or "none"
    types = ", ".join(f"up to {kind.most} {kind.name} {_shown(kind.machine)}" for kind in capacity.node_types)
    limit = f", {capacity.most_workers:g} in all" if capacity.node_types and capacity.most_workers < math.inf else ""
    return f"machines: {present}" + (f"; an autoscaler may have {types}{limit}" if types else "")


def _shown(machine: Machine) -> str:
    return f"({machine.cpus:g} CPUs, {machine.gpus:g} GPUs)"


def embedding_actors(resources: Resources, capacity: Capacity) -> tuple[int, Worker]:
    """Number and size of the actors that embed a gallery; a core is left for the tasks that feed them.

    Where there are too few cores the actors reserve less than asked for. Raises ConfigError where no machine has the
    GPUs for one.
    """
    worker = worker_of(resources, capacity)
    if worker.gpus > 0:
        return _on_gpus(worker, capacity.grown(Worker(0.0, worker.gpus)))
    return _on_cores(worker, capacity.grown(worker))


def _on_gpus(worker: Worker, machines: Sequence[Machine]) -> tuple[int, Worker]:
    """As many as the GPUs hold; what cores these machines have is shared."""
    without_cores = Worker(0.0, worker.gpus)
    holding = {machine: slots(without_cores, [machine]) for machine in set(machines)}
    number = slots(without_cores, machines)
    if number < 1:
        most = max((machine.gpus for machine in machines), default=0.0)
        raise ConfigError(
            f"resources: an embedding actor needs {worker.gpus:g} GPUs, but there are {most:g} GPUs "
            f"on the largest machine (gpus_per_worker={worker.gpus:g})"
        )
    fed_elsewhere = any(machine.cpus >= _FEEDING_CPUS and not holding[machine] for machine in machines)
    kept = 0.0 if fed_elsewhere else _FEEDING_CPUS
    free = min(max(0.0, machine.cpus - kept) / fits for machine, fits in holding.items() if fits)
    return number, Worker(min(worker.cpus, free), worker.gpus)


def _on_cores(worker: Worker, machines: Sequence[Machine]) -> tuple[int, Worker]:
    """As many as fit beside a core of one machine, of which the fewest are then lost."""
    lost = [
        slots(worker, [machine]) - slots(worker, [Machine(machine.cpus - _FEEDING_CPUS, machine.gpus)])
        for machine in machines
        if machine.cpus >= _FEEDING_CPUS
    ]
    number = slots(worker, machines) - min(lost, default=0)
    if number >= 1 and lost:
        return number, worker
    free = max((machine.cpus - _FEEDING_CPUS for machine in machines), default=0.0)
    return 1, Worker(min(worker.cpus, max(0.0, free)), 0.0)


def counting_actors(resources: Resources, capacity: Capacity, num_bytes: int, most: int) -> tuple[int, Worker]:
    """Number, at most `most`, and size of the actors that hold shards of a gallery, `num_bytes` with one each.

    Raises ConfigError where no machine has room for one.
    """
    worker = worker_of(resources, capacity)
    machines = capacity.grown(worker)
    number = slots(worker, machines, num_bytes)
    if number < 1:
        able = [machine for machine in machines if slots(worker, [machine])] or machines
        cpus, gpus, memory = (max((getattr(m, f.name) for m in able), default=0.0) for f in fields(Machine))
        raise ConfigError(
            f"shards: an actor needs {worker.cpus:g} CPUs, {worker.gpus:g} GPUs and {num_bytes / 1e9:.1f} GB, "
            f"but the largest machines have {cpus:g} CPUs, {gpus:g} GPUs and {memory / 1e9:.1f} GB: more shards are "
            f"smaller (cpus_per_worker={worker.cpus:g}, gpus_per_worker={worker.gpus:g})"
        )
    return min(number, most), worker


def _whole(ratio: float) -> int:
    # 3 x 0.1 is a little more than 0.3: a trial must not be lost to the last bit.
    return math.floor(ratio + 1e-9)

"""Placement is per machine, on those that are there and those that may come: tables."""

from __future__ import annotations

import math

import pytest

from raydml.capacity import (
    Capacity,
    Machine,
    NodeType,
    Worker,
    counting_actors,
    embedding_actors,
    fitting_trials,
    present_trials,
    slots,
    told,
)
from raydml.config import ConfigError, Resources
from tests.test_capacity import resources

SMALL, GPU, LARGE = Machine(4, 0), Machine(8, 1), Machine(64, 8)
HEAD = Machine(0, 0)


def growing(*types: tuple[Machine, int], present: tuple[Machine, ...] = (), most: float = math.inf) -> Capacity:
    """A cluster that begins with a head without CPUs."""
    kinds = tuple(NodeType(f"type{place}", machine, number) for place, (machine, number) in enumerate(types))
    return Capacity((HEAD, *present), kinds, most, HEAD)


@pytest.mark.parametrize(
    ("asked", "capacity", "trials"),
    [
        # A worker lies on one machine: 3 x 4 CPUs are 12, and hold none of 6, one of 3 each.
        (resources(cpus=3, gpus=0), Capacity((SMALL,) * 3), 3),
        (resources(cpus=2, gpus=0), Capacity((SMALL,) * 3), 6),
        # A trial's workers may lie on several machines.
        (resources(workers=2, cpus=3, gpus=0), Capacity((SMALL,) * 3), 1),
        (resources(workers=3, cpus=3, gpus=0), Capacity((SMALL,) * 3), 1),
        (resources(workers=2, cpus=2, gpus=0), Capacity((SMALL,) * 3), 3),
        # Fractions of a GPU, limited by GPUs and by cores.
        (resources(gpus=0.25), Capacity((GPU,) * 2), 8),
        (resources(cpus=4, gpus=0.25), Capacity((GPU,) * 2), 4),
        (resources(gpus=0.3), Capacity((GPU,) * 2), 6),
        (resources(cpus=1, gpus=1), Capacity((GPU, LARGE, SMALL)), 9),
        (resources(cpus=16, gpus=1), Capacity((GPU, LARGE)), 4),
        # What a cluster may become: a head that holds nothing, workers that are not there yet.
        (resources(cpus=4, gpus=1), growing((GPU, 4)), 4),
        (resources(cpus=4), growing((GPU, 4)), 4),  # auto: a GPU, because there may be one
        (resources(cpus=4, gpus=0), growing((GPU, 4)), 8),
        (resources(workers=8, gpus=1), growing((GPU, 4), (LARGE, 1)), 1),
        (resources(gpus=1), growing((GPU, 4), (LARGE, 2)), 20),
        # All types together are limited: those that hold most come first.
        (resources(gpus=1), growing((GPU, 4), (LARGE, 2), most=3), 17),
        (resources(gpus=1), growing((GPU, 4), (LARGE, 2), most=1), 8),
        # Those that run are of the types, and not counted twice; those that joined by hand count.
        (resources(gpus=1), growing((GPU, 4), present=(GPU, GPU)), 4),
        (resources(gpus=1), growing((GPU, 4), present=(LARGE,)), 8),
        # A head with cores is a machine too.
        (resources(gpus=0), Capacity((SMALL,), (NodeType("more", SMALL, 2),), math.inf, SMALL), 12),
    ],
)
def test_workers_are_placed_machine_by_machine(asked: Resources, capacity: Capacity, trials: int) -> None:
    assert fitting_trials(asked, capacity) == trials


@pytest.mark.parametrize(
    ("asked", "capacity", "says"),
    [
        (resources(cpus=6, gpus=0), Capacity((SMALL,) * 3), "no machine holds one: machines: 3 x (4 CPUs, 0 GPUs) ("),
        (
            resources(workers=4, cpus=3, gpus=0),
            Capacity((SMALL,) * 3),
            "all machines together hold 3 such workers at most: machines: 3 x (4 CPUs, 0 GPUs) (",
        ),
        (
            resources(gpus=2),
            growing((GPU, 4), (SMALL, 2), most=5),
            "; an autoscaler may have up to 4 type0 (8 CPUs, 1 GPUs), up to 2 type1 (4 CPUs, 0 GPUs), 5 in all (",
        ),
        # Enough CPUs on one and GPUs on the other machine, but not together.
        (resources(cpus=16, gpus=1), Capacity((Machine(32, 0), GPU)), "no machine holds one: machines: 1 x (32 CPUs"),
        (resources(), Capacity(()), "no machine holds one: machines: none ("),
    ],
)
def test_what_fits_no_machine_is_refused_with_the_machines(asked: Resources, capacity: Capacity, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fitting_trials(asked, capacity)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_trials_that_fit_now_are_counted_by_the_machines_that_are_there() -> None:
    capacity = growing((GPU, 4), present=(GPU, SMALL))
    assert present_trials(resources(gpus=0), capacity) == 12
    assert present_trials(resources(), capacity) == 1
    assert present_trials(resources(workers=2), capacity) == 0
    assert present_trials(resources(), growing((GPU, 4))) == 0


@pytest.mark.parametrize(
    ("capacity", "known", "cpus", "gpus"),
    [
        (Capacity(()), False, 0, 0),
        (Capacity((HEAD,)), False, 0, 0),
        (Capacity((HEAD, SMALL)), True, 4, 0),
        (growing((GPU, 4)), True, 0, 0),
        (growing((GPU, 0)), False, 0, 0),
        (growing((GPU, 4), present=(GPU, LARGE)), True, 72, 9),
    ],
)
def test_a_head_without_cores_tells_nothing_of_its_workers(
    capacity: Capacity, known: bool, cpus: float, gpus: float
) -> None:
    assert (capacity.known, capacity.cpus, capacity.gpus) == (known, cpus, gpus)


def test_memory_is_one_more_resource_of_a_machine() -> None:
    worker = Worker(1, 0)
    assert slots(worker, [Machine(4, 0, 10e9)], 3e9) == 3
    assert slots(worker, [Machine(4, 0)], 3e9) == 4
    assert slots(worker, [Machine(4, 0, 10e9)]) == 4


@pytest.mark.parametrize(
    ("asked", "capacity", "number", "cpus"),
    [
        # The core that feeds them is left where it costs least.
        (resources(cpus=4, gpus=0), Capacity((Machine(4, 0), Machine(5, 0))), 2, 4),
        (resources(cpus=4, gpus=0), Capacity((Machine(4, 0), Machine(4, 0))), 1, 4),
        (resources(cpus=4, gpus=0), Capacity((Machine(4, 0), Machine(0, 0))), 1, 3),
        (resources(cpus=2), growing((GPU, 4)), 4, 2),
        (resources(cpus=8), growing((GPU, 4)), 4, 7),
        (resources(cpus=8), growing((GPU, 4), present=(SMALL,)), 4, 7),
        (resources(cpus=8), Capacity((GPU, GPU, SMALL)), 2, 8),  # fed from the machine without a GPU
        (resources(cpus=8), Capacity((GPU, LARGE)), 9, 7),
        (resources(gpus=0), growing((SMALL, 3)), 11, 1),
    ],
)
def test_embedding_actors_lie_on_machines_that_may_come(
    asked: Resources, capacity: Capacity, number: int, cpus: float
) -> None:
    found, worker = embedding_actors(asked, capacity)
    assert found == number
    assert worker.cpus == pytest.approx(cpus)


def test_actors_that_hold_shards_lie_on_machines_that_may_come() -> None:
    assert counting_actors(resources(gpus=0), growing((SMALL, 3)), int(50e9), 100)[0] == 12
    limited = growing((Machine(4, 0, 100e9), 3))
    assert counting_actors(resources(gpus=0), limited, int(50e9), 100)[0] == 6
    with pytest.raises(ConfigError, match=r"150.0 GB, but the largest machines have 4 CPUs, 0 GPUs and 100.0 GB"):
        counting_actors(resources(gpus=0), limited, int(150e9), 100)


def test_what_there_is_is_told_in_one_line() -> None:
    assert told(Capacity((SMALL, GPU, SMALL))) == "machines: 2 x (4 CPUs, 0 GPUs), 1 x (8 CPUs, 1 GPUs)"

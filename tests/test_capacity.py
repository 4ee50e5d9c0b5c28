"""How many trials, workers and actors fit on a machine: arithmetic in tables."""

from __future__ import annotations

import os
import re

import pytest

from raydml.capacity import (
    Capacity,
    Machine,
    NodeType,
    Worker,
    counting_actors,
    embedding_actors,
    fitting_trials,
    possible_trials,
    present_trials,
    surely_without_gpu,
    this_machine,
    trials_of,
    worker_of,
    workers_told,
)
from raydml.config import ConfigError, Resources


def resources(workers: int = 1, cpus: float = 1, gpus: float | None = None, fewest: int | None = None) -> Resources:
    return Resources(
        workers_per_trial=workers,
        min_workers_per_trial=fewest,
        cpus_per_worker=cpus,
        gpus_per_worker="auto" if gpus is None else float(gpus),
    )


@pytest.mark.parametrize(
    ("gpus_per_worker", "capacity", "worker"),
    [
        (None, Capacity.single(4, 0), Worker(2, 0)),
        (None, Capacity.single(4, 1), Worker(2, 1)),
        (None, Capacity.single(4, 8), Worker(2, 1)),
        (None, Capacity.single(4, 0.5), Worker(2, 0)),
        (0, Capacity.single(4, 8), Worker(2, 0)),
        (0.25, Capacity.single(4, 1), Worker(2, 0.25)),
        (2, Capacity.single(4, 0), Worker(2, 2)),
    ],
)
def test_auto_takes_one_gpu_where_there_is_one(
    gpus_per_worker: float | None, capacity: Capacity, worker: Worker
) -> None:
    assert worker_of(resources(cpus=2, gpus=gpus_per_worker), capacity) == worker


@pytest.mark.parametrize(
    ("gpus_per_worker", "capacity", "sure"),
    [
        (None, Capacity.single(4, 0), True),
        (None, Capacity.single(4, 1), False),
        (None, None, False),
        (0, Capacity.single(4, 8), True),
        (0, None, True),
        (1, Capacity.single(4, 0), False),
    ],
)
def test_a_cluster_that_is_not_joined_yet_may_have_gpus(
    gpus_per_worker: float | None, capacity: Capacity | None, sure: bool
) -> None:
    assert surely_without_gpu(resources(gpus=gpus_per_worker), capacity) is sure


@pytest.mark.parametrize(
    ("asked", "capacity", "trials"),
    [
        (resources(), Capacity.single(2, 0), 2),
        (resources(), Capacity.single(16, 1), 1),  # the GPU is what runs out
        (resources(), Capacity.single(2, 8), 2),  # the cores are
        (resources(gpus=0), Capacity.single(16, 1), 16),
        (resources(gpus=0.25), Capacity.single(16, 1), 4),
        (resources(cpus=4), Capacity.single(10, 0), 2),
        (resources(cpus=0.5), Capacity.single(2, 0), 4),
        (resources(workers=2), Capacity.single(8, 4), 2),
        (resources(workers=4, cpus=2, gpus=0), Capacity.single(17, 0), 2),
        # What is exact on paper is exact: 0.3 / 0.1 is 2.999... in floating point
        (resources(cpus=0.1), Capacity.single(0.3, 0), 3),
        (resources(cpus=0.1, workers=3), Capacity.single(0.3, 0), 1),
        (resources(cpus=0.1 * 3), Capacity.single(0.3, 0), 1),
        (resources(gpus=0.1), Capacity.single(100, 0.7), 7),
        (resources(cpus=1.0001), Capacity.single(3, 0), 2),
    ],
)
def test_trials_fit_as_often_as_the_scarcest_resource_allows(asked: Resources, capacity: Capacity, trials: int) -> None:
    assert fitting_trials(asked, capacity) == trials


@pytest.mark.parametrize(
    ("asked", "capacity", "numbers"),
    [
        (resources(workers=64), Capacity.single(2, 0), ("64 x 1 CPUs", "2 CPUs", "workers_per_trial=64")),
        (resources(cpus=2.5), Capacity.single(2, 0), ("1 x 2.5 CPUs", "2 CPUs", "cpus_per_worker=2.5")),
        (resources(gpus=1), Capacity.single(2, 0), ("1 x 1 GPUs", "0 GPUs", "gpus_per_worker=1")),
        (resources(gpus=0.5), Capacity.single(2, 0.4), ("0.5 GPUs", "0.4 GPUs", "gpus_per_worker=0.5")),
        (resources(workers=3), Capacity.single(8, 2), ("3 x 1 GPUs", "2 GPUs", "(workers_per_trial=3, cpus")),
        (resources(workers=8, fewest=3), Capacity.single(2, 0), ("3 x 1 CPUs", "hold 2", "min_workers_per_trial=3,")),
    ],
)
def test_what_can_never_fit_is_refused_with_the_numbers(
    asked: Resources, capacity: Capacity, numbers: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"^resources: a trial needs ") as caught:
        fitting_trials(asked, capacity)
    assert all(number in str(caught.value) for number in numbers)


@pytest.mark.parametrize(
    ("workers", "fewest", "held", "trials"),
    [
        # Whole trials, as long as there is room for one.
        *[(4, 2, held, 1) for held in range(4, 8)],
        (4, 2, 8, 2),
        (4, 2, 11, 2),
        # One that is not whole, with all there is; never two halves.
        (4, 1, 3, 1),
        (4, 1, 2, 1),
        (4, 2, 2, 1),
        (4, 2, 1, 0),
        (4, 4, 3, 0),
        (4, None, 3, 0),
        (4, None, 9, 2),
        (1, None, 3, 3),
        (1, None, 0, 0),
    ],
)
def test_trials_are_whole_and_one_is_not_where_none_could_be(
    workers: int, fewest: int | None, held: int, trials: int
) -> None:
    asked = resources(workers, fewest=fewest, gpus=0)
    assert trials_of(asked, held) == trials
    assert present_trials(asked, Capacity((Machine(1, 0),) * held)) == trials
    grows = Capacity((Machine(0, 0),), (NodeType("spot", Machine(1, 0), held),), head=Machine(0, 0))
    assert (present_trials(asked, grows), possible_trials(asked, grows)) == (0, trials)


@pytest.mark.parametrize(("fewest", "told"), [(None, "4"), (4, "4"), (1, "1 to 4")])
def test_workers_of_a_trial_are_told_as_few_to_many(fewest: int | None, told: str) -> None:
    assert workers_told(resources(4, fewest=fewest)) == told


@pytest.mark.parametrize(
    ("fields", "law"),
    [
        ({"workers_per_trial": 2, "min_workers_per_trial": 3}, "but got min_workers_per_trial=3, workers_per_trial=2"),
        ({"min_workers_per_trial": 1}, "of several workers, but got min_workers_per_trial=1, workers_per_trial=1"),
        ({"workers_per_trial": 2, "min_workers_per_trial": 0}, "greater than or equal to 1"),
    ],
)
def test_the_fewest_workers_are_one_to_all_of_several(fields: dict[str, int], law: str) -> None:
    with pytest.raises(ValueError, match=re.escape(law)):
        Resources(**fields)
    assert Resources(workers_per_trial=2).fewest_workers == 2
    assert Resources(workers_per_trial=2, min_workers_per_trial=1).fewest_workers == 1


@pytest.mark.parametrize(
    ("asked", "capacity", "number", "worker"),
    [
        (resources(), Capacity.single(8, 0), 7, Worker(1, 0)),  # a core is left for the tasks that feed them
        (resources(), Capacity.single(2, 0), 1, Worker(1, 0)),
        (resources(cpus=4), Capacity.single(16, 0), 3, Worker(4, 0)),
        (resources(cpus=4), Capacity.single(4, 0), 1, Worker(3, 0)),  # smaller rather than starving its own input
        (resources(cpus=0.1), Capacity.single(3.3, 0), 23, Worker(0.1, 0)),  # 2.3 / 0.1 is 22.999...
        (resources(), Capacity.single(16, 4), 4, Worker(1, 1)),
        (resources(gpus=0.5), Capacity.single(16, 2), 4, Worker(1, 0.5)),
        (resources(gpus=0), Capacity.single(8, 4), 7, Worker(1, 0)),
    ],
)
def test_embedding_actors_fill_the_machine_but_for_one_core(
    asked: Resources, capacity: Capacity, number: int, worker: Worker
) -> None:
    found, size = embedding_actors(asked, capacity)
    assert (found, size.gpus) == (number, worker.gpus)
    assert size.cpus == pytest.approx(worker.cpus)


@pytest.mark.parametrize("gpus", [0, 1, 4])
@pytest.mark.parametrize("cpus", [1, 1.5, 2, 4, 16])
@pytest.mark.parametrize("asked", [resources(), resources(cpus=0.25), resources(cpus=4)], ids=["1", "0.25", "4"])
def test_embedding_actors_never_take_the_core_that_feeds_them(asked: Resources, cpus: float, gpus: float) -> None:
    """Ray Data reads in tasks of one core: without a free one an evaluation waits for ever, silently."""
    number, worker = embedding_actors(asked, Capacity.single(cpus, gpus))
    assert number >= 1
    assert number * worker.gpus <= gpus
    assert number * worker.cpus + 1 <= cpus + 1e-6


@pytest.mark.parametrize(
    ("asked", "capacity", "numbers"),
    [
        (resources(gpus=1), Capacity.single(2, 0), ("1 GPUs", "0 GPUs", "gpus_per_worker=1")),
        (resources(gpus=4), Capacity.single(8, 2), ("4 GPUs", "2 GPUs", "gpus_per_worker=4")),
    ],
)
def test_an_embedding_actor_that_can_never_start_is_refused(
    asked: Resources, capacity: Capacity, numbers: tuple[str, ...]
) -> None:
    """Ray would wait for its GPU for ever."""
    with pytest.raises(ConfigError) as caught:
        embedding_actors(asked, capacity)
    assert all(number in str(caught.value) for number in numbers)


@pytest.mark.parametrize(
    ("fields", "law"),
    [
        ({"workers_per_trial": 2, "gpus_per_worker": 0.5}, "must be whole where workers_per_trial > 1, but got 0.5"),
        ({"gpus_per_worker": -1.0}, "must not be negative, but got -1"),
    ],
)
def test_workers_of_one_trial_never_share_a_gpu(fields: dict[str, float], law: str) -> None:
    with pytest.raises(ValueError, match=re.escape(law)):
        Resources(**fields)  # type: ignore[arg-type]


def test_this_machine_counts_the_cores_of_this_process_and_hides_what_is_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for hidden in ("", "-1", " "):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert this_machine().gpus == 0
    if hasattr(os, "sched_getaffinity"):
        assert this_machine().cpus == len(os.sched_getaffinity(0))


MACHINES = (Machine(4, 0, 10e9), Machine(16, 2, 100e9), Machine(1, 0, 1e9))


@pytest.mark.parametrize(
    ("asked", "num_bytes", "most", "number"),
    [
        (resources(cpus=1, gpus=0), 1e9, 100, 21),
        (resources(cpus=1, gpus=0), 3e9, 100, 3 + 16),
        (resources(cpus=2, gpus=0), 20e9, 100, 5),
        (resources(cpus=0.5, gpus=0), 1e9, 7, 7),
        (resources(cpus=1), 1e9, 100, 2),
        (resources(cpus=1, gpus=0.5), 1e9, 100, 4),
    ],
)
def test_actors_that_hold_shards_fit_by_cores_by_gpus_and_by_memory(
    asked: Resources, num_bytes: float, most: int, number: int
) -> None:
    found, worker = counting_actors(asked, Capacity(MACHINES), int(num_bytes), most)
    assert found == number
    assert worker.cpus == asked.cpus_per_worker


@pytest.mark.parametrize(
    ("asked", "num_bytes", "numbers"),
    [
        (resources(cpus=1, gpus=0), 200e9, ("200.0 GB", "100.0 GB", "more shards")),
        (resources(cpus=17, gpus=0), 1e9, ("17 CPUs", "16 CPUs")),
        (resources(cpus=1, gpus=3), 1e9, ("3 GPUs", "2 GPUs")),
        # No one machine has both.
        (resources(cpus=1, gpus=1), 110e9, ("1 GPUs", "110.0 GB")),
    ],
)
def test_a_shard_that_fits_no_machine_is_refused(asked: Resources, num_bytes: float, numbers: tuple[str, ...]) -> None:
    """Ray would wait for ever."""
    with pytest.raises(ConfigError, match=r"^shards: ") as caught:
        counting_actors(asked, Capacity(MACHINES), int(num_bytes), 4)
    assert all(number in str(caught.value) for number in numbers)
    with pytest.raises(ConfigError):
        counting_actors(asked, Capacity(()), int(num_bytes), 4)

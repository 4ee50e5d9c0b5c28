"""The simulator of a search on a cluster: laws of conservation, closed forms, and Ray's own pruning."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydml.config import EarlyStopping, replace_at
from raydml.search import make_scheduler
from tests.benchmarks.scaling_model import Cluster, Driver, Outcome, Rungs, Work, random_work
from tests.benchmarks.scaling_simulation import simulate
from tests.searches import METRIC, study_of

FREE = Driver()
BUSY = Driver((1, 40), (0.5, 2.0), (0.1, 0.3), (0.2, 0.2))


def work_of(
    num_trials: int,
    num_epochs: int,
    *,
    epoch_s: float = 10.0,
    seed: int | None = None,
    upload_s: float = 0.0,
    open_s: float = 0.0,
    stopping: EarlyStopping | None = None,
) -> Work:
    """Trials of the same speed, or with a seed of different ones."""
    curves, factors = random_work(num_trials, num_epochs, seed=seed or 0)
    return Work(curves, np.ones(num_trials) if seed is None else factors, epoch_s, open_s, upload_s, stopping)


def total(outcome: Outcome) -> float:
    return sum(outcome.seconds.values())


@settings(max_examples=60, deadline=None)
@given(
    gpus=st.integers(1, 9),
    per_node=st.integers(1, 4),
    per_gpu=st.integers(1, 3),
    starting=st.sampled_from([None, 1, 2]),
    losses=st.sampled_from([0.0, 5.0, 40.0]),
    idle_s=st.sampled_from([0.0, 30.0, math.inf]),
    stopping=st.sampled_from([None, EarlyStopping(grace_epochs=1, reduction_factor=2.0)]),
    seed=st.integers(0, 5),
)
def test_every_second_of_every_slot_is_booked_once(
    gpus: int,
    per_node: int,
    per_gpu: int,
    starting: int | None,
    losses: float,
    idle_s: float,
    stopping: EarlyStopping | None,
    seed: int,
) -> None:
    work = work_of(17, 6, seed=seed + 1, open_s=2.0, upload_s=1.5, stopping=stopping)
    cluster = Cluster(
        gpus, per_node, per_gpu, 1.3, boot_s=20.0, decode_s=7.0, actor_s=4.0, starting=starting,
        losses_per_hour=losses, detect_s=3.0, idle_s=idle_s,
    )  # fmt: skip
    found = simulate(work, cluster, BUSY, seed=seed)
    assert total(found) == pytest.approx(cluster.slots * found.wall_s, rel=1e-9)
    assert min(found.seconds.values()) >= 0.0
    assert found.billed_s <= gpus * found.wall_s * (1 + 1e-9)
    used = total(found) - found.seconds["idle"]
    assert found.billed_s * per_gpu >= (used if losses == 0 else found.seconds["training"]) * (1 - 1e-9)
    assert found.seconds["upload"] == pytest.approx(1.5 * found.epochs)
    assert (found.seconds["repeated"] > 0) <= (found.losses > 0)
    assert found.epochs <= 17 * 6 if stopping else found.epochs == 17 * 6
    if stopping is None:
        assert found.seconds["training"] == pytest.approx(10.0 * 1.3 * 6 * work.factors.sum())
    assert found == simulate(work, cluster, BUSY, seed=seed)


def test_one_gpu_is_the_sum_of_all_it_does() -> None:
    work = work_of(5, 3, open_s=2.0, upload_s=0.5)
    driver = Driver((1, 5), (1.0, 3.0), (0.25, 0.25), (0.125, 0.125))
    found = simulate(work, Cluster(1, boot_s=100.0, decode_s=30.0, actor_s=8.0), driver)
    starts = 1.0 + 1.5 + 2.0 + 2.5 + 3.0  # a straight line over the trials begun
    expected = 100 + 8 + 30 + starts + 5 * (2 + 3 * (10 + 0.5 + 0.25) + 0.125)
    assert found.wall_s == pytest.approx(expected)
    assert found.billed_s == pytest.approx(expected)
    assert found.driver_s == pytest.approx(starts + 15 * 0.25 + 5 * 0.125)
    assert found.seconds["start"] == pytest.approx(100 + 8 + 30 + 10)


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16, 64])
def test_without_overheads_scaling_is_perfect_until_trials_run_out(gpus: int) -> None:
    found = simulate(work_of(16, 5), Cluster(gpus), FREE)
    assert found.wall_s == pytest.approx(50.0 * math.ceil(16 / gpus))
    assert found.share("training") == pytest.approx(min(1.0, 16 / gpus))


@settings(max_examples=40, deadline=None)
@given(gpus=st.integers(1, 12), num_trials=st.integers(1, 40), seed=st.integers(1, 9), open_s=st.floats(0.0, 20.0))
def test_a_free_driver_is_a_queue_that_every_gpu_serves(gpus: int, num_trials: int, seed: int, open_s: float) -> None:
    """The slow obvious version: the next trial goes to the GPU that is free first. More GPUs are never slower."""
    work = work_of(num_trials, 4, seed=seed, open_s=open_s)
    walls = []
    for number in (gpus, gpus + 1):
        free_at = [0.0] * number
        for factor in work.factors:
            heapq.heapreplace(free_at, free_at[0] + open_s + 4 * 10.0 * factor)
        found = simulate(work, Cluster(number), FREE)
        assert found.wall_s == pytest.approx(max(free_at))
        walls.append(found.wall_s)
    assert walls[1] <= walls[0] * (1 + 1e-12)


@pytest.mark.parametrize("gpus", [4, 32])
def test_a_slow_driver_is_all_that_counts(gpus: int) -> None:
    found = simulate(work_of(64, 10, epoch_s=1e-6), Cluster(gpus), Driver(report_s=(1.0,)))
    assert found.wall_s == pytest.approx(640.0, abs=1e-3)
    assert found.driver_s == pytest.approx(640.0)
    # All but one slot wait: with more of them nothing is won.
    assert found.share("driver") == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("starting", "last"), [(1, 8 * 4.0), (2, 4 * 4.0), (None, 4.0)])
def test_actors_start_as_many_at_a_time_as_may_be_waited_for(starting: int | None, last: float) -> None:
    work = work_of(8, 1, epoch_s=100.0)
    found = simulate(work, Cluster(8, actor_s=4.0, starting=starting), FREE)
    assert found.wall_s == pytest.approx(last + 100.0)


def test_a_gpu_that_waits_for_its_turn_is_paid_where_its_node_is_up() -> None:
    work = work_of(4, 1, epoch_s=100.0)
    on_one = simulate(work, Cluster(4, gpus_per_node=4, actor_s=4.0, starting=1), FREE)
    on_four = simulate(work, Cluster(4, actor_s=4.0, starting=1), FREE)
    assert on_one.wall_s == on_four.wall_s
    assert on_one.seconds["start"] == pytest.approx(4.0 + 8.0 + 12.0 + 16.0)
    assert on_four.seconds["start"] == pytest.approx(4 * 4.0)


def test_nodes_boot_one_after_another_where_one_start_is_waited_for() -> None:
    work = work_of(6, 1, epoch_s=1000.0)
    cluster = Cluster(6, gpus_per_node=2, boot_s=60.0, actor_s=4.0, starting=1)
    assert simulate(work, cluster, FREE).wall_s == pytest.approx(3 * (60.0 + 2 * 4.0) + 1000.0)


def test_short_trials_keep_a_cluster_from_filling() -> None:
    """As Tune was seen to: 24 trials of 1.5 s on 6 slots, 4.5 s a start, one waited for, took 42.8 s."""
    work = work_of(24, 10, epoch_s=0.15)
    cluster = Cluster(6, actor_s=4.5, starting=1, idle_s=math.inf)
    assert simulate(work, cluster, Driver(report_s=(0.003,))).wall_s == pytest.approx(42.8, rel=0.1)
    all_at_once = Cluster(6, actor_s=4.5, idle_s=math.inf)
    assert simulate(work, all_at_once, Driver(report_s=(0.003,))).wall_s == pytest.approx(4.5 + 4 * 1.53, rel=0.01)


def test_images_are_decoded_once_a_node() -> None:
    work = work_of(8, 1, open_s=3.0)
    found = simulate(work, Cluster(4, gpus_per_node=2, decode_s=50.0), FREE)
    # All wait for it, and open; then each trains two trials.
    assert found.wall_s == pytest.approx(50.0 + 2 * (3.0 + 10.0))
    assert found.seconds["start"] == pytest.approx(4 * 50.0 + 8 * 3.0)


def test_packed_trials_share_a_gpu() -> None:
    found = simulate(work_of(16, 2), Cluster(2, trials_per_gpu=4, packed_factor=2.0), FREE)
    assert found.cluster.slots == 8
    assert found.wall_s == pytest.approx(2 * 2 * 20.0)
    assert found.billed_s == pytest.approx(2 * found.wall_s)


def test_losses_add_the_repeated_work_and_nothing_else() -> None:
    work = work_of(30, 8, upload_s=1.0)
    calm = simulate(work, Cluster(1, idle_s=60.0), FREE)
    found = simulate(work, Cluster(1, losses_per_hour=20.0, idle_s=60.0), FREE, seed=3)
    assert found.losses > 5
    assert found.seconds["training"] == pytest.approx(calm.seconds["training"])
    assert found.seconds["upload"] == pytest.approx(calm.seconds["upload"])
    assert found.wall_s == pytest.approx(calm.wall_s + found.seconds["repeated"])
    assert 0 < found.seconds["repeated"] <= found.losses * 11.0
    dear = Cluster(1, losses_per_hour=20.0, idle_s=60.0, boot_s=5.0, actor_s=2.0, decode_s=4.0, detect_s=3.0)
    again = simulate(work, dear, FREE, seed=3)
    whole = again.wall_s - calm.wall_s - again.seconds["repeated"]
    # A node may be lost before its actor is up.
    assert (again.losses + 1) * 11.0 + again.losses * 3.0 == pytest.approx(whole, rel=0.1)


def test_losses_come_as_often_as_nodes_live() -> None:
    work = work_of(400, 5, epoch_s=30.0)
    found = simulate(work, Cluster(8, losses_per_hour=20.0, idle_s=math.inf), FREE, seed=1)
    expected = 20.0 * found.billed_s / 3600.0
    assert abs(found.losses - expected) < 4.0 * math.sqrt(expected)
    # A loss comes anywhere in an epoch: half of one is done again.
    assert found.seconds["repeated"] / found.losses == pytest.approx(15.0, rel=0.15)


def test_a_trial_that_lost_its_node_goes_on_where_there_is_room() -> None:
    work = replace(work_of(2, 100), factors=np.array([0.1, 1.0]))
    cluster = Cluster(2, losses_per_hour=1.5, idle_s=math.inf, boot_s=500.0)
    found = [simulate(work, cluster, FREE, seed=seed) for seed in range(20)]
    # The first GPU is free after 100 s, and the second may be lost later than that: nobody waits for a boot.
    once = [o.wall_s for o in found if o.losses == 1 and o.seconds["repeated"] > 0.0 and o.wall_s > 1500.001]
    assert sum(wall < 1510.0 for wall in once) >= 4


def test_a_trial_that_lost_its_node_is_not_judged_twice() -> None:
    work = work_of(60, 12, stopping=EarlyStopping(grace_epochs=1, reduction_factor=2.0))
    calm, stormy = (simulate(work, Cluster(1, losses_per_hour=x, idle_s=60.0), FREE, seed=2) for x in (0.0, 120.0))
    assert stormy.losses > 50
    assert stormy.epochs == calm.epochs


def test_nodes_without_a_trial_are_given_back() -> None:
    work = work_of(5, 10)
    found = simulate(work, Cluster(4, idle_s=30.0), FREE)
    assert found.wall_s == pytest.approx(200.0)
    assert found.billed_s == pytest.approx(200.0 + 3 * 130.0)
    assert simulate(work, Cluster(4, idle_s=math.inf), FREE).billed_s == pytest.approx(800.0)


class _Trial(SimpleNamespace):
    trial_id: str


@pytest.mark.parametrize(("grace", "factor", "num_epochs"), [(1, 2.0, 8), (2, 3.0, 60), (3, 2.5, 20), (1, 4.0, 4)])
def test_pruning_is_rays(grace: int, factor: float, num_epochs: int) -> None:
    stopping = EarlyStopping(grace_epochs=grace, reduction_factor=factor)
    study = study_of(early_stopping=stopping.model_dump())
    study = study.model_copy(update={"base": replace_at(study.base, "training.num_epochs", num_epochs)})
    theirs, ours = make_scheduler(study), Rungs(stopping, num_epochs)
    curves, _ = random_work(40, num_epochs, seed=7)
    alive = {index: _Trial(trial_id=str(index)) for index in range(40)}
    for trial in alive.values():
        theirs.on_trial_add(None, trial)
    stopped = []
    for epoch in range(1, num_epochs):
        for index, trial in list(alive.items()):
            value = float(curves[index, epoch - 1].round(1))  # ties too
            goes_on = ours.goes_on(epoch, value)
            answer = theirs.on_trial_result(None, trial, {"training_iteration": epoch, METRIC: value})
            assert (answer == "CONTINUE") is goes_on
            if not goes_on:
                stopped.append(alive.pop(index))
    assert 0 < len(stopped) < 40


def test_pruning_ends_trials_early_and_keeps_the_good_ones() -> None:
    stopping = EarlyStopping(grace_epochs=2, reduction_factor=3.0)
    whole, pruned = (simulate(work_of(200, 30, stopping=s), Cluster(8), FREE) for s in (None, stopping))
    assert pruned.epochs < 0.4 * whole.epochs
    assert pruned.seconds["training"] == pytest.approx(10.0 * pruned.epochs)

"""Groups of workers that train with as many machines as there are, and where Ray's own elasticity stands."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydml import workers
from raydml.capacity import Worker
from raydml.recorded import Task
from raydml.seats import Seats, given, room
from raydml.session import import_ray
from raydml.space import read
from raydml.training import RunSpec
from tests.integration.clusters import LocalCluster, cluster, working_copy
from tests.integration.recounts import Ledger, undisturbed
from tests.integration.studies import curves_of, wait_for, write_study

ONE_CPU = Worker(1.0, 0.0)
# Epochs without end: the test stops it.
ENDLESS = ("search.num_trials=1", "training.num_epochs=1000", "training.steps_per_epoch=100")
ELASTIC = "resources={workers_per_trial: 2, min_workers_per_trial: 1, gpus_per_worker: 0}"


@pytest.mark.usefixtures("ray_here")
def test_room_is_what_nobody_uses_now_and_seats_are_given_when_it_comes() -> None:
    ray = import_ray()
    taken = ray.util.placement_group([{"CPU": 1}])
    assert ray.get(taken.ready(), timeout=30)
    assert room(ONE_CPU, 2) == 1, "of two cores"
    seats = Seats(ONE_CPU, owner="a trial")
    seats.ask(2)
    try:
        wait_for(lambda: seats.given() == 1, timeout=60)
        # One whose actor was killed, and that starts again.
        seats = Seats(ONE_CPU, owner="a trial")
        assert (seats.given(), room(ONE_CPU, 2)) == (0, 1)
        seats.ask(2)
        wait_for(lambda: seats.given() == 1, timeout=60)
        ray.util.remove_placement_group(taken)
        wait_for(lambda: given(seats.name) == 2, timeout=60)
    finally:
        seats.close()
    assert seats.given() == 0
    assert room(ONE_CPU, 2) == 2


@pytest.mark.usefixtures("ray_here")
def test_one_group_asks_at_a_time_until_it_needs_no_more() -> None:
    first, second = Seats(ONE_CPU), Seats(ONE_CPU)
    try:
        first.ask_in_turn(1)
        second.ask_in_turn(1)
        first.ask_in_turn(1)
        wait_for(lambda: first.given() == 1, timeout=60)
        first.give_back()
        second.ask_in_turn(1)
        assert (first.given(), second.given()) == (0, 0), "the turn is kept during a restart"
        first.close()
        second.ask_in_turn(1)
        wait_for(lambda: second.given() == 1, timeout=60)
    finally:
        first.close()
        second.close()


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_here")
def test_a_group_whose_room_is_taken_meanwhile_starts_with_fewer(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = import_ray()
    taken = ray.util.placement_group([{"CPU": 1}])
    assert ray.get(taken.ready(), timeout=30)
    seen = iter([2])
    monkeypatch.setattr(workers, "room", lambda worker, most: next(seen, None) or room(worker, most))
    monkeypatch.setattr(workers, "_AS_LONG_AS_THERE_IS_ROOM", "2")
    spec = RunSpec(read(write_study(tmp_path, cache)).base, tmp_path / "run")
    group = workers.WorkerGroup(Task(spec, {}, ONE_CPU), num_workers=2, fewest=1, max_failures=0)
    try:
        assert [row["epoch"] for row in group.epochs()] == [1, 2, 3, 4]
        assert group._size == 1
    finally:
        group.close()
        ray.util.remove_placement_group(taken)


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_here")
def test_rays_own_elasticity_waits_where_a_smaller_group_has_room(tmp_path: Path) -> None:
    """Ray 2.60 reckons with cores that another uses. Where this fails, raydml.seats may have become superfluous."""
    ray = import_ray()
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    taken = ray.util.placement_group([{"CPU": 1}])
    assert ray.get(taken.ready(), timeout=30)

    @ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
    def elastic() -> None:
        scaling = ScalingConfig(num_workers=(1, 2), resources_per_worker={"CPU": 1})
        run = RunConfig(name="elastic", storage_path=str(tmp_path))
        TorchTrainer(lambda: None, scaling_config=scaling, run_config=run).fit()

    def waiting() -> list[int]:
        groups = ray.util.placement_group_table().values()
        return [len(group["bundles"]) for group in groups if group["state"] == "PENDING"]

    running = elastic.remote()
    try:
        wait_for(lambda: waiting() == [2], timeout=60)
        done, _ = ray.wait([running], timeout=5)
        assert not done
        assert waiting() == [2], "and not one worker"
    finally:
        ray.util.remove_placement_group(taken)
        ray.get(running, timeout=60)


@pytest.fixture
def here() -> Iterator[LocalCluster]:
    """A head without cores, and two machines of one core."""
    with cluster() as found:
        found.start_head()
        found.join(1, 1)
        yield found


@pytest.mark.endurance
@pytest.mark.timeout(900)
def test_a_group_goes_on_with_one_worker_and_grows_when_a_machine_comes(
    here: LocalCluster, tmp_path: Path, cache: Path
) -> None:
    """Float64, so that a difference is a difference. The lost machine costs an epoch, the one that comes no step."""
    working = working_copy(tmp_path / "submitted", version="elastic")
    command = ("python", "-m", "raydml.tune", str(write_study(tmp_path, cache)), *ENDLESS, ELASTIC)
    folder, clock = tmp_path / "runs" / "small", time.monotonic
    with Ledger(folder, length=1000) as ledger:

        def finished(more_than: int) -> float:
            began = clock()
            wait_for(lambda: ledger.epochs["0000"][-1:] > [more_than], timeout=300)
            return clock() - began

        here.submit("search", working, *command, "training.precision=float64")
        finished(1)
        before = ledger.epochs["0000"][-1]
        here.machines[0].lose()
        print(
            f"a machine lost after epoch {before}: the next was finished {finished(before):.0f} s later, by one worker"
        )
        here.join(1)
        came = clock()
        wait_for(lambda: ledger.processes["0000"] == 3, timeout=300)
        print(f"a machine came in epoch {ledger.epochs['0000'][-1] + 1}: two workers {clock() - came:.0f} s later")
        finished(ledger.epochs["0000"][-1] + 1)
        here.ray("job", "stop", "search")
        here.wait_for_end("search", timeout=60)
    log = here.logs("search")
    print(log)
    said = re.findall(r"\b0000[: ].*", log)
    assert [re.sub(r"(epoch|step) \d+(: .*)?", r"\1", line) for line in said] == [
        "0000 lost a worker after epoch",
        "0000 trains with 1 of 2 workers",
        "0000: the training left in epoch, before step",
        "0000 trains with 2 of 2 workers",
    ]
    # The checkpoint between two steps says again which epoch was the last.
    epochs = ledger.epochs["0000"]
    assert epochs == sorted(epochs)
    assert len(epochs) - len(set(epochs)) == 1, "an epoch was finished twice"
    alone = undisturbed(folder, tmp_path / "alone")["0000"]
    apart = [
        max(_apart(row[name], other[name]) for name in row)
        for row, other in zip(curves_of(folder)["0000"], alone, strict=True)
    ]
    print("relative differences from an undisturbed curve, by epoch:", " ".join(f"{worst:.0e}" for worst in apart))
    assert max(apart) < 1e-5


def _apart(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), 1e-300)

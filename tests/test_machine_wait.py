"""What is said of work that waits for machines, and when; the cluster is what the test says it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from raydml.capacity import Capacity, Machine, NodeType, Worker
from raydml.machine_wait import MachineWait, Seen, telling

GROWS = Capacity((Machine(0, 0),), (NodeType("gpu", Machine(8, 1, 30e9), 4),), 4.0)
HERE = Machine(8, 1, 30e9)


class Cluster:
    """Machines, what an autoscaler says, a clock, and what was said."""

    def __init__(self, num_bytes: int = 0) -> None:
        self.machines: tuple[Machine, ...] = ()
        self.troubles: tuple[str, ...] = ()
        self.time, self.looks = 100.0, 0
        self.said: list[str] = []
        self.wait = MachineWait(
            "the count", Worker(4, 1), GROWS, num_bytes, say=self.said.append, see=self._see, clock=lambda: self.time
        )

    def _see(self, capacity: Capacity) -> Seen:
        self.looks += 1
        return Seen(Capacity(self.machines, capacity.node_types, capacity.most_workers), self.troubles)

    def look(self, seconds: float, waiting: int, of: int) -> None:
        for _ in range(round(seconds * 2)):
            self.time += 0.5
            self.wait.look(waiting, of=of)


def test_actors_that_wait_are_told_within_seconds_with_what_may_come_and_rarely_again() -> None:
    cluster = Cluster()
    cluster.look(4, 3, 3)
    assert cluster.said == []
    cluster.look(3, 3, 3)
    [said] = cluster.said
    assert said.startswith("the count waits for 3 x (4 CPUs, 1 GPUs); machines: none; an autoscaler may have up to 4 ")
    assert said.endswith("gpu (8 CPUs, 1 GPUs), 4 in all")
    assert 6 <= cluster.looks <= 8, "once a second"
    cluster.look(60, 3, 3)
    assert len(cluster.said) == 1
    cluster.troubles = ("the autoscaler cannot start gpu: no quota",)
    cluster.look(2, 3, 3)
    assert cluster.said[1].endswith("; the autoscaler cannot start gpu: no quota")


def test_nobody_asks_the_cluster_while_nobody_waits_and_a_later_wait_is_told_again() -> None:
    cluster = Cluster()
    cluster.look(10, 2, 2)
    looks = cluster.looks
    cluster.look(60, 0, 2)
    assert cluster.looks == looks
    cluster.look(10, 1, 2)
    assert [text.split(";")[0] for text in cluster.said] == [
        "the count waits for 2 x (4 CPUs, 1 GPUs)",
        "the count waits for 1 x (4 CPUs, 1 GPUs)",
    ]


def test_what_only_starts_has_a_minute_and_memory_is_part_of_the_room() -> None:
    enough, too_large = Cluster(), Cluster(num_bytes=40 * 10**9)
    for cluster in (enough, too_large):
        cluster.machines = (HERE,)
        cluster.look(30, 1, 1)
    assert enough.said == []
    assert len(too_large.said) == 1
    enough.look(40, 1, 1)
    assert len(enough.said) == 1, "something else holds the machine"


def test_work_whose_workers_nobody_sees_waits_where_no_machine_holds_one() -> None:
    cluster = Cluster()
    cluster.machines = (Machine(3, 1),)
    for _ in range(7):
        cluster.time += 1
        cluster.wait.look_at_machines()
    assert [text.split(";")[0] for text in cluster.said] == ["the count waits for 1 x (4 CPUs, 1 GPUs)"]
    cluster.machines = (HERE,)
    cluster.time += 1000
    cluster.wait.look_at_machines()
    assert len(cluster.said) == 1


def test_a_thread_looks_until_the_answers_end_or_are_left() -> None:
    cluster, looked = Cluster(), threading.Event()

    def answers() -> Iterator[int]:
        yield 1
        assert looked.wait(10)
        yield 2
        yield 3

    def see(capacity: Capacity) -> Seen:
        looked.set()
        return Seen(capacity, ())

    cluster.wait._see = see
    told = telling(answers(), cluster.wait, every_s=0.01)
    assert [next(told), next(told)] == [1, 2]
    told.close()
    assert "machines" not in [thread.name for thread in threading.enumerate()]

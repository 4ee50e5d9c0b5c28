"""A search on a cluster as a discrete-event simulation: who waits for whom, and what the GPUs do meanwhile. No ray.

A slot is the share of a GPU that one trial takes. It starts an actor, once, and then trains one trial after another:
an epoch, its upload, its report. Ray Tune's loop is one thread: it serves starts, reports and ends in the order in
which they arrive, and a slot waits for its answer. A node that vanishes takes with it what its slots have not pushed;
their trials go on elsewhere, from the epoch that was pushed last, or on the node that comes instead.

While an actor starts, a trial that ends elsewhere hands its own actor to the trial that waits for it, and Tune kills
the one that was starting: it begins anew, for the next trial.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.benchmarks.scaling_model import KINDS, Cluster, Driver, Outcome, Rungs, What, Work

Wait = Generator["float | None", None, None]
"""Yields the time at which it wants to go on, or None: when somebody wakes it."""

_OF_AN_EPOCH: tuple[What, ...] = ("training", "upload")


class _LostError(Exception):
    """The node of a slot is gone."""


@dataclass
class _Trial:
    number: int
    pushed: int = 0
    """Epochs that outlive the node."""
    reported: int = 0
    """By its actor of now, which begins with the first."""
    judged: int = 0
    begun: bool = False


@dataclass
class _Node:
    launched: float
    up_at: float
    dies_at: float
    gpus: int
    decoded_at: float | None = None
    users: int = 0
    used_until: float = 0.0
    """When its last slot went idle, where none is in use."""


@dataclass
class _Slot:
    place: int
    """Of its node."""
    node: _Node | None = None
    warm: bool = False
    trial: _Trial | None = None
    ready: float = 0.0
    """When its actor will have started."""
    since: float = 0.0
    seconds: dict[What, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    life: Wait = field(init=False)

    def spend(self, what: What, now: float) -> None:
        """Books the time since the last booking."""
        self.seconds[what] += now - self.since
        self.since = now


def simulate(work: Work, cluster: Cluster, driver: Driver, *, seed: int = 0) -> Outcome:
    """Runs the search to its end. The seed draws when nodes are lost."""
    return _Simulation(work, cluster, driver, seed).run()


class _Simulation:
    def __init__(self, work: Work, cluster: Cluster, driver: Driver, seed: int) -> None:
        self._work, self._cluster, self._driver = work, cluster, driver
        self._num_trials, self._num_epochs = work.curves.shape
        self._rungs = None if work.stopping is None else Rungs(work.stopping, self._num_epochs)
        self._generator = np.random.default_rng(seed)
        per_node = cluster.gpus_per_node * cluster.trials_per_gpu
        self._slots = [_Slot(index // per_node) for index in range(cluster.slots)]
        self._nodes: list[_Node] = []
        self._current: dict[int, _Node] = {}
        self._now, self._free, self._driver_s = 0.0, 0.0, 0.0
        self._events: list[tuple[float, int, Wait]] = []
        self._count = self._begun = self._ended = self._epochs = self._losses = 0
        self._idle: list[_Slot] = []
        self._lost: deque[_Trial] = deque()
        self._starting: list[_Slot] = []
        self._queue: deque[_Slot] = deque()

    def run(self) -> Outcome:
        for slot in self._slots:
            slot.life = self._life(slot)
            self._schedule(slot.life, 0.0)
        while self._ended < self._num_trials:
            self._now, _, life = heapq.heappop(self._events)
            when = next(life)
            if when is not None:
                self._schedule(life, when)
        for slot in self._slots:
            slot.spend("idle", self._now)
        seconds: dict[What, float] = {what: math.fsum(s.seconds[what] for s in self._slots) for what in KINDS}
        billed = math.fsum(n.gpus * (min(self._end_of(n), self._now) - n.launched) for n in self._nodes)
        return Outcome(
            self._cluster,
            self._num_trials,
            self._now,
            seconds,
            self._driver_s,
            self._epochs,
            self._losses,
            billed,
        )

    def _schedule(self, life: Wait, when: float) -> None:
        # Of equal times the first that was asked for comes first.
        self._count += 1
        heapq.heappush(self._events, (when, self._count, life))

    def _life(self, slot: _Slot) -> Wait:
        while True:
            try:
                if slot.warm:
                    self._take_next(slot)
                else:
                    yield from self._start(slot)
                if slot.trial is not None:
                    yield from self._run(slot, slot.trial)
            except _LostError:
                lost = self._leave(slot)
                yield from self._until(slot, self._now + self._cluster.detect_s, "start")
                self._requeue(lost)
                # An idle slot that it has woken comes first: its node may be there.
                yield self._now

    def _next(self) -> _Trial | None:
        """Those that lost their node come first."""
        if self._lost:
            return self._lost.popleft()
        if self._begun == self._num_trials:
            return None
        self._begun += 1
        return _Trial(self._begun - 1)

    def _take_next(self, slot: _Slot) -> None:
        """An actor that is there goes on with another trial, at the cost of one that starts; else it ends."""
        slot.trial = self._next()
        other = next((s for s in self._starting if s.trial is not None and s.ready > self._now), None)
        if other is not None and other.node is not None:
            other.ready = max(self._now, other.node.up_at) + self._cluster.actor_s
            if slot.trial is None:
                slot.trial, other.trial = other.trial, None
        if slot.trial is None:
            self._leave(slot)

    def _leave(self, slot: _Slot) -> _Trial | None:
        """Gives up node and actor, and the trial if there is one."""
        if slot.node is not None:
            slot.node.users -= 1
            slot.node.used_until = self._now
        trial = slot.trial
        slot.node, slot.trial, slot.warm = None, None, False
        return trial

    def _requeue(self, trial: _Trial | None) -> None:
        if trial is not None:
            self._losses += 1
            trial.reported = 0
            self._lost.append(trial)
            if self._idle:
                self._schedule(self._idle.pop(0).life, self._now)

    def _run(self, slot: _Slot, trial: _Trial) -> Wait:
        """A trial from its first epoch, or from its last push, to its end."""
        if not trial.begun:
            trial.begun = True
            yield from self._served(slot, self._driver.start_s)
        yield from self._open(slot)
        while True:
            if trial.reported == trial.pushed:
                yield from self._epoch(slot, trial)
            yield from self._served(slot, self._driver.report_s)
            trial.reported += 1
            if trial.reported == self._num_epochs or not self._goes_on(trial):
                break
        # From here on the driver knows all: a node may go.
        slot.trial = None
        try:
            yield from self._served(slot, self._driver.end_s)
        finally:
            self._ended += 1

    def _goes_on(self, trial: _Trial) -> bool:
        if self._rungs is None or trial.reported <= trial.judged:
            return True
        trial.judged = trial.reported
        return self._rungs.goes_on(trial.reported, float(self._work.curves[trial.number, trial.reported - 1]))

    def _epoch(self, slot: _Slot, trial: _Trial) -> Wait:
        before: dict[What, float] = {what: slot.seconds[what] for what in _OF_AN_EPOCH}
        seconds = self._work.epoch_s * float(self._work.factors[trial.number]) * self._cluster.packed_factor
        try:
            yield from self._until(slot, self._now + seconds, "training")
            yield from self._until(slot, self._now + self._work.upload_s, "upload")
        except _LostError:
            for what, value in before.items():
                slot.seconds["repeated"] += slot.seconds[what] - value
                slot.seconds[what] = value
            raise
        trial.pushed += 1
        self._epochs += 1

    def _served(self, slot: _Slot, costs: Sequence[float]) -> Wait:
        """Waits for the loop, and for its answer."""
        cost = float(np.interp(self._begun, self._driver.trials, costs))
        self._free = max(self._now, self._free) + cost
        self._driver_s += cost
        yield from self._until(slot, self._free, "driver")

    def _until(self, slot: _Slot, when: float, what: What) -> Wait:
        dies_at = math.inf if slot.node is None else slot.node.dies_at
        if self._now < min(when, dies_at):
            yield min(when, dies_at)
        slot.spend(what, self._now)
        if dies_at <= when:
            raise _LostError

    def _start(self, slot: _Slot) -> Wait:
        """Waits for a trial, for its turn, for a node, for an actor."""
        while not self._lost and self._begun == self._num_trials:
            self._idle.append(slot)
            yield None
        if len(self._starting) < (self._cluster.starting or len(self._slots)):
            self._starting.append(slot)
        else:
            self._queue.append(slot)
            yield None
        try:
            slot.trial = self._next()
            if slot.trial is not None:
                yield from self._actor(slot)
        finally:
            self._starting.remove(slot)
            if self._queue:
                following = self._queue.popleft()
                self._starting.append(following)
                self._schedule(following.life, self._now)

    def _actor(self, slot: _Slot) -> Wait:
        node = self._node_of(slot)
        slot.node, slot.ready = node, max(self._now, node.up_at) + self._cluster.actor_s
        while self._now < slot.ready:
            yield from self._until(slot, slot.ready, "start")
        slot.warm = slot.trial is not None
        if not slot.warm:
            self._leave(slot)

    def _node_of(self, slot: _Slot) -> _Node:
        """The slot's node as it is, or a new one; time that nobody pays for is idle."""
        node = self._current.get(slot.place)
        if node is not None and self._now >= self._end_of(node):
            node = None
        slot.spend("idle", self._now if node is None else max(slot.since, node.launched))
        slot.spend("start", self._now)
        node = node or self._launch(slot)
        self._current[slot.place] = node
        node.users += 1
        return node

    def _end_of(self, node: _Node) -> float:
        """When it is lost or given back, as far as is known now."""
        return min(node.dies_at, math.inf if node.users else node.used_until + self._cluster.idle_s)

    def _launch(self, slot: _Slot) -> _Node:
        rate = self._cluster.losses_per_hour / 3600.0
        dies_at = self._now + float(self._generator.exponential(1.0 / rate)) if rate > 0 else math.inf
        slots = sum(other.place == slot.place for other in self._slots)
        gpus = slots // self._cluster.trials_per_gpu
        self._nodes.append(_Node(self._now, self._now + self._cluster.boot_s, dies_at, gpus))
        return self._nodes[-1]

    def _open(self, slot: _Slot) -> Wait:
        """The first trial on a node decodes the images, the others wait for them."""
        assert slot.node is not None
        if slot.node.decoded_at is None:
            slot.node.decoded_at = self._now + self._cluster.decode_s
        opened = max(self._now, slot.node.decoded_at) + self._work.open_s
        yield from self._until(slot, opened, "start")

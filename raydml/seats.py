"""Room for workers of an elastic group: asked for one by one, each by a placement group that nothing runs in.

One that has its place is proof that a worker has room at this moment; one that waits is what an autoscaler sees. So a
group starts with as many workers as there is room for, and then asks for those it lacks. When they have room it leaves
between two steps, as before a notice, and starts again with them: no step is repeated. One group of a search asks at a
time: two would take turns in taking what the other has just left, and start again for ever.

Ray Train's own `num_workers=(fewest, most)` is not used. Ray 2.60 reckons with what machines have in all, whoever uses
it, and with machines that were there up to 20 s ago. Then it waits for a group of that size where a smaller one has
room, until a time-out that counts as a failure. The share of a run that was killed stays reserved for three minutes,
and a group that is to grow is killed in the middle of an epoch. A test in tests/integration/test_elastic.py says when
that has changed.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from raydml.capacity import Worker
from raydml.session import import_ray

import_ray()

from ray.exceptions import RaySystemError  # noqa: E402
from ray.util import get_placement_group, placement_group, placement_group_table, remove_placement_group  # noqa: E402
from ray.util.placement_group import PlacementGroup  # noqa: E402

_PREFIX = "raydml-seat-"
_TURN, _NOTHING = f"{_PREFIX}turn", {"node:__internal_head__": 0.0001}
# What is free is given within a second, but by a Ray that has much to do; a machine that has gone never gives it.
_ROOM_S = 5.0
_POLL_S = 0.1
# A restart is worth half a minute of training, and machines that come together are taken together.
_STAY_S, _LOOK_S = 30.0, 5.0


def bundle_of(worker: Worker) -> dict[str, float]:
    """What a worker occupies, as Ray has it."""
    return {"CPU": worker.cpus, **({"GPU": worker.gpus} if worker.gpus > 0 else {})}


def is_seat(group: Mapping[str, Any]) -> bool:
    """Whether a row of Ray's table of placement groups is one of these."""
    return str(group["name"]).startswith(_PREFIX)


class Seats:
    """Places that are asked for, and held when they are given, until they are given back or this process ends."""

    def __init__(self, worker: Worker, *, owner: str | None = None) -> None:
        """Asks for none yet, and gives back what an earlier `owner` of this name, who was killed, asked for.

        Ray keeps the placement groups of an actor that died until the end of its job.
        """
        mark = uuid.uuid4().hex if owner is None else hashlib.blake2b(owner.encode()).hexdigest()
        self.name = f"{_PREFIX}{mark[:12]}-"
        self._worker = worker
        self._groups: list[PlacementGroup] = []
        self._turn: PlacementGroup | None = None
        for name in _names():
            if name.startswith(self.name):
                remove_placement_group(get_placement_group(name))

    def ask(self, number: int) -> None:
        """For so many more."""
        for _ in range(number):
            name = f"{self.name}{len(self._groups)}"
            self._groups.append(placement_group([bundle_of(self._worker)], name=name))

    def ask_in_turn(self, number: int) -> None:
        """For so many, unless that is done or another's turn; it stays the turn of this one until it is closed."""
        if self._groups:
            return
        if self._turn is None and _TURN not in _names():
            with suppress(RaySystemError):  # another was faster: a name is given once
                self._turn = placement_group([_NOTHING], name=_TURN)
        if self._turn is not None:
            self.ask(number)

    def given(self) -> int:
        """How many have their place."""
        return given(self.name)

    def give_back(self) -> None:
        """All of them, and asks for none any more."""
        for group in self._groups:
            remove_placement_group(group)
        self._groups = []

    def close(self) -> None:
        """Gives all back, and the turn."""
        self.give_back()
        if self._turn is not None:
            remove_placement_group(self._turn)
        self._turn = None


def _names() -> set[str]:
    return {str(group["name"]) for group in placement_group_table().values() if group["state"] != "REMOVED"}


def given(name: str) -> int:
    """How many of the seats of that name have their place; from any process of the cluster."""
    groups = placement_group_table().values()
    return sum(str(group["name"]).startswith(name) and group["state"] == "CREATED" for group in groups)


def room(worker: Worker, most: int) -> int:
    """How many of `most` workers have room now. Nobody keeps a place while it waits for others."""
    seats = Seats(worker)
    deadline = time.monotonic() + _ROOM_S
    try:
        seats.ask(most)
        while (found := seats.given()) < most and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    finally:
        seats.close()
    return found


class MayGrow:
    """Whether a group of workers may leave to start again with more: asked again and again by one of them."""

    def __init__(self, count: Callable[[], int]) -> None:
        """`count` says how many more have their place now."""
        self._count = count
        self._next = time.monotonic() + _STAY_S
        self._before = 0

    def __call__(self) -> bool:
        """Yes, when some have come and no more of them since the last look."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _LOOK_S
        before, self._before = self._before, self._count()
        return 0 < self._before == before

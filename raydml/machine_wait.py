"""Work of actors and tasks that waits for machines: said on stderr within seconds, with what the autoscaler says.

What Ray cannot place it keeps for a machine that may come, and says nothing: to a user that looks like slow work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple, TypeVar

from rich.console import Console

from raydml import autoscaler
from raydml.capacity import Capacity, Worker, slots, told
from raydml.session import now
from raydml.waiting import Reminder, line

T = TypeVar("T")

_LOOK_S = 1.0


class Seen(NamedTuple):
    """A cluster at a moment."""

    capacity: Capacity
    troubles: tuple[str, ...]
    """Why machines do not come."""


def seen(capacity: Capacity) -> Seen:
    """The cluster that is connected, now; `capacity` is what it was and may become."""
    return Seen(now(capacity), autoscaler.troubles())


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True, markup=False)


class MachineWait:
    """Looks whether workers wait for machines, and tells it."""

    def __init__(
        self,
        what: str,
        worker: Worker,
        capacity: Capacity,
        num_bytes: int = 0,
        *,
        say: Callable[[str], None] = _say,
        see: Callable[[Capacity], Seen] = seen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`what` waits, in words such as `the count`; `num_bytes` is the memory that a worker needs."""
        self._what, self._worker, self._capacity, self._num_bytes = what, worker, capacity, num_bytes
        self._say, self._see, self._clock = say, see, clock
        self._reminder = Reminder()
        self._next_look = 0.0

    def look(self, waiting: int, *, of: int) -> None:
        """`waiting` of so many workers have not begun. Asks the cluster once a second, and only while any waits."""
        if not waiting:
            self._reminder.due(self._clock(), anyone=False)
        elif self._clock() >= self._next_look:
            self._next_look = self._clock() + _LOOK_S
            found = self._see(self._capacity)
            self._tell(found, waiting, room=self._held_by(found) >= of)

    def look_at_machines(self) -> None:
        """Of work whose workers nobody sees: it waits where no machine holds a single one."""
        found = self._see(self._capacity)
        self._tell(found, 0 if self._held_by(found) else 1, room=False)

    def _held_by(self, found: Seen) -> int:
        return slots(self._worker, found.capacity.machines, self._num_bytes)

    def _tell(self, found: Seen, waiting: int, *, room: bool) -> None:
        if self._reminder.due(self._clock(), anyone=waiting > 0, room=room, troubles=found.troubles):
            self._say(line([self._what], self._worker, f"{waiting}", told(found.capacity), found.troubles))


def telling(answers: Iterable[T], wait: MachineWait, *, every_s: float = _LOOK_S) -> Generator[T, None, None]:
    """The answers, while a thread looks after the machines that they are to come from."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            wait.look_at_machines()

    watcher = threading.Thread(target=watch, name="machines", daemon=True)
    watcher.start()
    try:
        yield from answers
    finally:
        ended.set()
        watcher.join()

"""Whether a worker is to leave: its machine is about to go. Ray internals touched: its list of machines that drain."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from raydml.session import import_ray

ray = import_ray()

_LOGGER = logging.getLogger(__name__)
_EVERY_S = 1.5


def draining_nodes() -> dict[str, int]:
    """Machines that take no more work and will go, by id; the time in ms at which they do, 0 where that is unknown."""
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return found


class Notice:
    """Asks in a thread whether this machine drains; called, it answers at once, and remembers a yes."""

    def __init__(self, *also: Callable[[], bool], every_s: float = _EVERY_S) -> None:
        """`also`: other reasons to leave, asked in the same thread."""
        self._node = ray.get_runtime_context().get_node_id()
        self._also = also
        self._given, self._closed = threading.Event(), threading.Event()
        self._every_s = every_s
        # A machine may drain already when a trial comes to it.
        self._look()
        self._thread = threading.Thread(target=self._watch, name="notice", daemon=True)
        self._thread.start()

    def __call__(self) -> bool:
        """Whether it was seen to drain, or another reason."""
        return self._given.is_set()

    def close(self) -> None:
        """Asks no more."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._given.is_set() and not self._closed.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        try:
            leaves = self._node in draining_nodes() or any(asks() for asks in self._also)
        except Exception as error:  # a head that does not answer must not end a training
            _LOGGER.warning("whether this machine is about to go cannot be known now: %s", error)
            return
        if leaves:
            self._given.set()

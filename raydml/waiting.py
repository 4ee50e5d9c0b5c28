"""Trials that wait for machines: how many may begin to, and when what is said of them. Pure functions of what is seen.

A point is chosen when a trial is handed out, and one that waits was chosen with less knowledge than one that runs at
once. But what waits is also what an autoscaler sees: machines come in one go where all that they will hold waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from raydml.capacity import Worker

# An autoscaler that has brought nothing for so long is not expected to: points are chosen late again.
PATIENCE_S = 600.0
_FIRST_S = 5.0
# Where there is room its process is only starting: a machine that is busy, or new, takes so long to import torch.
_STARTING_S = 60.0
_AGAIN_S = 600.0
_NAMED = 3


def may_begin(*, live: int, waiting: int, present: int, possible: int, limit: int, vain_s: float) -> bool:
    """Whether one more trial is handed out.

    Of `live` trials `waiting` have no machine; the machines there are hold `present`, all that may come `possible`.
    `vain_s`: for how long trials have waited without a machine coming. One trial always may: it asks for machines.
    """
    expected = max(0, possible - present)
    if vain_s >= PATIENCE_S:
        expected = min(1, expected)
    return live < min(limit, max(1, present + expected)) and waiting <= expected


def line(names: Sequence[str], worker: Worker, workers: str, machines: str, troubles: Sequence[str]) -> str:
    """`0007 waits for 2 x (4 CPUs, 1 GPUs); machines: ...; <trouble>`; `workers` as `capacity.workers_told` has it."""
    named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    each = f"{workers} x ({worker.cpus:g} CPUs, {worker.gpus:g} GPUs)"
    verb = "waits for" if len(names) == 1 else "wait, each for"
    return "; ".join((f"{named} {verb} {each}", machines, *troubles))


class Reminder:
    """When a wait is told: after a moment, again where something new is wrong, else rarely."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told: float | None = None
        self._troubles: tuple[str, ...] = ()

    def due(self, now_s: float, *, anyone: bool, room: bool = False, troubles: Sequence[str] = ()) -> bool:
        """Whether to tell it now; if so, it counts as told. `room`: whether the machines there are would hold it."""
        if not anyone:
            self._since = self._told = None
            return False
        self._since = now_s if self._since is None else self._since
        if now_s - self._since < (_STARTING_S if room else _FIRST_S):
            return False
        new = set(troubles) - set(self._troubles)
        if self._told is not None and not new and now_s - self._told < _AGAIN_S:
            return False
        self._told, self._troubles = now_s, tuple(troubles)
        return True

    @property
    def told(self) -> bool:
        """Whether the present wait was told."""
        return self._told is not None

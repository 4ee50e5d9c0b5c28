"""The hours of a search: a clock that survives its driver, and what becomes of a trial when it ends or time is up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from raydml import atomic
from raydml.config import ConfigError

_SECONDS = "seconds"


class End(Enum):
    """What a trial is whose process has stopped."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    PAUSED = "paused"
    """It goes on from its last epoch with the next invocation."""


def end_of(*, epoch: int, num_epochs: int, failed: bool, out_of_time: bool) -> End:
    """Why a trial stopped after `epoch`. `out_of_time`: the budget stopped it, and the scheduler was not asked."""
    if failed:
        return End.FAILED
    if epoch >= num_epochs:
        return End.COMPLETE
    return End.PAUSED if out_of_time else End.PRUNED


def out_of_time(seconds: float, max_hours: float | None) -> bool:
    """Whether no trial may start or begin another epoch."""
    return max_hours is not None and seconds >= max_hours * 3600.0


def closing_lines(
    *, seconds: float, max_hours: float | None, ended: int, num_trials: int, paused: int
) -> tuple[str, ...]:
    """What was reached where time was up before the search was done, and how to go on; else nothing."""
    if max_hours is None or not out_of_time(seconds, max_hours) or (ended >= num_trials and not paused):
        return ()
    hours = seconds / 3600.0
    waiting = f", {paused} {'waits' if paused == 1 else 'wait'} at the last epoch" if paused else ""
    return (
        f"time is up: {hours:.3g} of {max_hours:g} hours, {ended} of {num_trials} trials ended{waiting}",
        f"  go on: the same command with search.max_hours={hours + max_hours:.3g}",
    )


class Clock:
    """Seconds a study has been searched for: those of earlier invocations, and of this one while it is entered."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError where the file of the earlier invocations cannot be read."""
        self._path, self._now = path, now
        self._earlier = _seconds_in(path)
        self._start: float | None = None

    def __enter__(self) -> Clock:
        self._start = self._now()
        return self

    def __exit__(self, *exception: object) -> None:
        self._earlier, self._start = self.seconds(), None
        self.save()

    def seconds(self) -> float:
        """Seconds so far."""
        return self._earlier + (0.0 if self._start is None else self._now() - self._start)

    def save(self) -> None:
        """What is saved is not lost in a kill."""
        atomic.write_json(self._path, {_SECONDS: self.seconds()})


def _seconds_in(path: Path) -> float:
    if not path.exists():
        return 0.0
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))[_SECONDS])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None

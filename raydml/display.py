"""What a person sees while a search runs: a table that lives in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raydml.config import Distribution, Scalar
from raydml.record import FAILURE, STATES, point_of, ranked
from raydml.space import Study

_SHOWN_TRIALS = 8


def shown(value: Scalar) -> str:
    """A number with four significant digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_point(point: Mapping[str, Scalar]) -> str:
    """`loss.margin=0.2 optimizer.lr=0.005`."""
    return " ".join(f"{path}={shown(value)}" for path, value in point.items())


@dataclass
class _Progress:
    point: Mapping[str, Scalar]
    num_epochs: int
    epoch: int = 0
    value: float = float("nan")


class SearchDisplay:
    """Listens to a search (`raydml.search.Listener`) and shows it."""

    def __init__(self, study: Study, console: Console, *, earlier: Iterable[FrozenTrial], note: str) -> None:
        """`earlier` are the trials of an interrupted search; `note` stands above the table: baseline, stamp."""
        self._study, self._console, self._note = study, console, note
        self._distributions = study.distributions()
        self._running: dict[int, _Progress] = {}
        self._ended: list[FrozenTrial] = [trial for trial in earlier if trial.state.is_finished()]
        self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> SearchDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, number: int, point: Mapping[str, Scalar], num_epochs: int, *, resumed: bool) -> None:
        """A trial begins or goes on."""
        self._running[number] = _Progress(point, num_epochs)
        verb = "goes on" if resumed else "starts"
        self._say(f"trial {number:>3} {verb}: {shown_point(point)}")

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        """A trial finished an epoch."""
        progress = self._running[number]
        progress.epoch, progress.value = int(row["epoch"]), float(row[self._study.search.metric])
        self._refresh()

    def ended(self, trial: FrozenTrial) -> None:
        """A trial is COMPLETE, PRUNED or FAIL."""
        progress = self._running.pop(trial.number)
        self._ended.append(trial)
        state = STATES[trial.state]
        if trial.state == TrialState.FAIL:
            what = f"failed: {trial.user_attrs.get(FAILURE, 'unknown')}"
        else:
            what = f"{state} at epoch {progress.epoch}/{progress.num_epochs}: {self._metric}={trial.value:.4f}"
        count = f"{len(self._ended)}/{self._study.search.num_trials}"
        self._say(f"trial {trial.number:>3} {what} [{count} trials, best {self._best()}]")

    def paused(self, trial: FrozenTrial) -> None:
        """Time is up: a trial stops and goes on with the next invocation."""
        progress = self._running.pop(trial.number)
        self._say(f"trial {trial.number:>3} waits at epoch {trial.last_step or 0}/{progress.num_epochs}: time is up")

    @property
    def _metric(self) -> str:
        return self._study.search.metric

    def _best(self) -> str:
        complete = [t for t in self._ended if t.state == TrialState.COMPLETE and t.value is not None]
        if not complete:
            return "none yet"
        best = max(complete, key=lambda t: t.value or 0.0)
        return f"{best.value:.4f} (trial {best.number})"

    def _say(self, line: str) -> None:
        if self._live is None:
            self._console.print(Text(line), soft_wrap=True)
        self._refresh()

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._table())

    def _table(self) -> Group:
        elapsed = int(time.monotonic() - self._started)
        table = Table(title=f"{self._study.name}: {len(self._ended)} of {self._study.search.num_trials} trials ended")
        for heading in ("trial", "state", "epoch", self._metric, *self._distributions):
            table.add_column(heading, justify="right", overflow="fold")
        shown_trials = ranked(self._ended)[:_SHOWN_TRIALS]
        for number, progress in sorted(self._running.items()):
            value = f"{progress.value:.4f}" if progress.epoch else ""
            where = f"{progress.epoch}/{progress.num_epochs}"
            values = [Text(shown(value)) for value in progress.point.values()]
            table.add_row(str(number), "running", where, value, *values, style="cyan")
        for trial in shown_trials:
            table.add_row(*map(Text, _row(trial, self._distributions)))
        return Group(Text(self._note), table, Text(f"{elapsed // 60}:{elapsed % 60:02d} elapsed, best {self._best()}"))


def leaderboard(study: Study, trials: Iterable[FrozenTrial]) -> Table:
    """All trials, complete ones first and best first."""
    distributions = study.distributions()
    table = Table(title=f"{study.name}: {study.search.metric} on validation classes")
    for heading in ("trial", "state", "epoch", study.search.metric, *distributions):
        table.add_column(heading, justify="right", overflow="fold")
    for trial in ranked(trials):
        table.add_row(*map(Text, _row(trial, distributions)))
    return table


def _row(trial: FrozenTrial, distributions: Mapping[str, Distribution]) -> list[str]:
    point = point_of(trial, distributions) if trial.params else {}
    value = f"{trial.value:.4f}" if trial.value is not None else trial.user_attrs.get(FAILURE, "")
    epoch = str(trial.last_step) if trial.last_step is not None else ""
    return [str(trial.number), STATES[trial.state], epoch, value, *(shown(v) for v in point.values())]

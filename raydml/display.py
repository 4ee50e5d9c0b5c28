"""What a person sees of a search while it runs (a table in a terminal, plain lines elsewhere), and of an evaluation."""

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

from raydml.config import Scalar
from raydml.evaluate import Evaluation
from raydml.objectives import described
from raydml.record import FAILURE, STATES, best_of, pareto_front, point_of, ranked, value_of
from raydml.space import Study

_SHOWN_TRIALS, _SHOWN_RUNNING = 8, 16
NOBODY_WAITS = "nothing waits for machines any more"


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
        self._running: dict[int, _Progress] = {}
        self._ended: list[FrozenTrial] = [trial for trial in earlier if trial.state.is_finished()]
        self._started = time.monotonic()
        self._waits: str | None = None
        # The table is made twice a second, not for every epoch of every trial.
        made = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)
        self._live = made if console.is_terminal else None

    def __enter__(self) -> SearchDisplay:
        if self._live is not None:
            self._live.start()
        if self._ended:
            self._say(f"the search goes on: {self._count()} ended earlier, best {self._best()}")
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

    def ended(self, trial: FrozenTrial) -> None:
        """A trial is COMPLETE, PRUNED or FAIL."""
        progress = self._running.pop(trial.number)
        self._ended.append(trial)
        state = STATES[trial.state]
        if trial.state == TrialState.FAIL:
            what = f"failed: {trial.user_attrs.get(FAILURE, 'unknown')}"
        else:
            what = f"{state} at epoch {progress.epoch}/{progress.num_epochs}: {self._metric}={value_of(trial):.4f}"
            if further := _further(self._study, trial):
                what += f" {shown_point(further)}"
        self._say(f"trial {trial.number:>3} {what} [{self._count()}, best {self._best()}]")

    def paused(self, trial: FrozenTrial) -> None:
        """Time is up: a trial stops and goes on with the next invocation."""
        progress = self._running.pop(trial.number)
        self._say(f"trial {trial.number:>3} waits at epoch {trial.last_step or 0}/{progress.num_epochs}: time is up")

    def waiting(self, line: str | None) -> None:
        """What is said of trials that wait for machines; None where none waits any more."""
        self._waits = line
        self._say(line or NOBODY_WAITS)

    @property
    def _metric(self) -> str:
        return self._study.search.metric

    def _count(self) -> str:
        return f"{len(self._ended)}/{self._study.search.num_trials} trials"

    def _best(self) -> str:
        best = best_of(self._ended)
        return "none yet" if best is None else f"{value_of(best):.4f} (trial {best.number})"

    def _say(self, line: str) -> None:
        if self._live is None:
            self._console.print(Text(line), soft_wrap=True)

    def _table(self) -> Group:
        elapsed = int(time.monotonic() - self._started)
        table = Table(title=f"{self._study.name}: {len(self._ended)} of {self._study.search.num_trials} trials ended")
        _add_columns(table, self._study)
        # Copies: a thread of the terminal's asks for the table while trials come and go.
        shown_trials, running = ranked(list(self._ended))[:_SHOWN_TRIALS], sorted(self._running.copy().items())
        for number, progress in running[:_SHOWN_RUNNING]:
            value = f"{progress.value:.4f}" if progress.epoch else ""
            where = f"{progress.epoch}/{progress.num_epochs}"
            values = [Text(shown(value)) for value in progress.point.values()]
            unknown = ["" for _ in _measured(self._study)]
            table.add_row(str(number), "running", where, value, *unknown, *values, style="cyan")
        if len(running) > _SHOWN_RUNNING:
            table.add_row("", f"{len(running) - _SHOWN_RUNNING} more run", style="cyan")
        for trial in shown_trials:
            table.add_row(*map(Text, _row(trial, self._study)))
        waits = [] if self._waits is None else [Text(self._waits, style="yellow")]
        clock = Text(f"{elapsed // 60}:{elapsed % 60:02d} elapsed, best {self._best()}")
        return Group(Text(self._note), table, *waits, clock)


def leaderboard(study: Study, trials: Iterable[FrozenTrial]) -> Table:
    """All trials, complete ones first and best first."""
    found = list(trials)
    table = Table(title=f"{study.name}: {study.search.metric} on validation classes")
    _add_columns(table, study)
    for trial in ranked(found):
        table.add_row(*map(Text, _row(trial, study)))
    if study.search.minimize:
        front = ", ".join(str(trial.number) for trial in pareto_front(found)) or "none yet"
        table.caption = Text(f"Pareto front of {described(study.search)}: trials {front}")
    return table


def _add_columns(table: Table, study: Study) -> None:
    for heading in ("trial", "state", "epoch", study.search.metric, *_measured(study), *study.space):
        table.add_column(heading, justify="right", overflow="fold")


def _measured(study: Study) -> list[str]:
    """Objectives that have no column as a dimension of the space."""
    return [name for name in study.search.minimize if name not in study.space]


def _row(trial: FrozenTrial, study: Study) -> list[str]:
    point = point_of(trial, study.distributions()) if trial.params else {}
    value = value_of(trial)
    shown_value = trial.user_attrs.get(FAILURE, "") if value is None else f"{value:.4f}"
    epoch = str(trial.last_step) if trial.last_step is not None else ""
    further = _further(study, trial)
    measured = [shown(further[name]) if further else "" for name in _measured(study)]
    return [str(trial.number), STATES[trial.state], epoch, shown_value, *measured, *map(shown, point.values())]


def _further(study: Study, trial: FrozenTrial) -> dict[str, Scalar]:
    """What a complete trial has of `search.minimize`; what is a dimension of the space as it was chosen."""
    if trial.state != TrialState.COMPLETE:
        return {}
    point = point_of(trial, study.distributions())
    further = zip(study.search.minimize, trial.values[1:], strict=True)
    return {name: point.get(name, value) for name, value in further}


def evaluation_table(evaluation: Evaluation) -> Table:
    """Metrics of one evaluation beside those of raw pixels, which do not have all of them."""
    title = "train" if evaluation.split == "train" else f"{evaluation.split}: retrieval of unseen classes"
    table = Table(title=title, caption="\n".join(filter(None, [evaluation.protocol, evaluation.approximation])))
    table.add_column("metric")
    table.add_column("embeddings", justify="right")
    if evaluation.baseline is not None:
        table.add_column("raw pixels", justify="right")
    for name, value in evaluation.metrics.items():
        if name.startswith("index_recall@"):  # said below the table
            continue
        places = 0 if name.startswith("num_") else 4
        raw = [] if evaluation.baseline is None else [evaluation.baseline.get(name)]
        table.add_row(name, *("" if number is None else f"{number:.{places}f}" for number in (value, *raw)))
    return table

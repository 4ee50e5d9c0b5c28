"""What a person sees while a phase runs: a line for every run that ends, and in a terminal those that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from raydml.display import NOBODY_WAITS
from raydml.repeats import Repetition
from raydml.space import Study


class PhaseDisplay:
    """Listens to repetitions (`raydml.repeating.Listener`) and shows them."""

    def __init__(self, console: Console, study: Study, runs: Sequence[Repetition]) -> None:
        """`runs` are those of one phase; some may have been trained before."""
        self._console, self._metric = console, study.search.metric
        self._phase, self._total = runs[0].phase, len(runs)
        self._ended = sum(run.trained() for run in runs)
        self._running: dict[str, str] = {}
        self._status = Status("", console=console) if console.is_terminal else None

    def __enter__(self) -> PhaseDisplay:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def started(self, run: Repetition) -> None:
        """A run begins, or goes on."""
        self._show(run, 0)

    def epoch(self, run: Repetition, row: Mapping[str, Any]) -> None:
        """A run finished an epoch."""
        self._show(run, int(row["epoch"]))

    def ended(self, run: Repetition, failure: str | None) -> None:
        """A run reached its last epoch, or failed."""
        self._running.pop(run.directory.name, None)
        self._ended += 1
        row = {} if failure is not None else (run.last_row() or {})
        # A run on all training classes has nothing left to validate on.
        value = f": {self._metric}={row[self._metric]:.4f}" if self._metric in row else ""
        what = f"failed: {failure}" if failure is not None else f"trained{value}"
        line = f"{self._phase} {run.directory.name} {what} [{self._ended}/{self._total} runs]"
        self._console.print(Text(line), soft_wrap=True)
        self._refresh()

    def waiting(self, line: str | None) -> None:
        """What is said of runs that wait for machines; None where none waits any more."""
        self._console.print(Text(f"{self._phase}: {line or NOBODY_WAITS}"), soft_wrap=True)

    def _show(self, run: Repetition, epoch: int) -> None:
        self._running[run.directory.name] = f"{run.directory.name} {epoch}/{run.config.training.num_epochs}"
        self._refresh()

    def _refresh(self) -> None:
        if self._status is not None:
            running = ", ".join(self._running.values())
            self._status.update(Text(f"{self._phase}: {self._ended} of {self._total} runs; {running}"))

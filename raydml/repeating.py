"""Repetitions through Ray Tune: every one is a trial that nothing prunes, and a finished one is not run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from raydml import atomic
from raydml.capacity import Capacity, worker_of
from raydml.record import FAILURE, STOPPED
from raydml.recorded import Task
from raydml.repeats import FAILED_FILE, Repetition
from raydml.session import import_ray
from raydml.space import Study
from raydml.study_folder import StudyFolder
from raydml.training import RunSpec
from raydml.tuner import run_trials, task_config

import_ray()

from ray.tune.search import Searcher  # noqa: E402

Machines = Callable[[], Capacity]
"""Connects to the machines where that is yet to be done."""


class Listener(Protocol):
    """Who wants to know how repetitions go."""

    def started(self, run: Repetition) -> None:
        """A run begins, or goes on."""

    def epoch(self, run: Repetition, row: Mapping[str, Any]) -> None:
        """A run finished an epoch."""

    def ended(self, run: Repetition, failure: str | None) -> None:
        """A run reached its last epoch, or failed."""

    def waiting(self, line: str | None) -> None:
        """What is said of runs that wait for machines; None where none waits any more."""


class RepetitionSearcher(Searcher):
    """Hands out a list of runs."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        specs: Sequence[tuple[Repetition, RunSpec]],
        capacity: Capacity,
        listener: Listener,
    ) -> None:
        super().__init__(metric=study.search.metric, mode="max")
        self._study, self._folder, self._waiting, self._listener = study, folder, list(specs), listener
        self._worker = worker_of(study.resources, capacity)
        self._running: dict[str, Repetition] = {}
        self.failures: dict[Path, str] = {}
        """Reason by folder."""

    def __reduce__(self) -> tuple[type[Searcher], tuple[str, str]]:
        # Tune pickles its searcher for a restore that raydml does not use: the folders are the memory.
        return Searcher, (self._study.search.metric, "max")

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next run."""
        if not self._waiting:
            return str(Searcher.FINISHED)
        run, spec = self._waiting.pop(0)
        self._running[trial_id] = run
        self._listener.started(run)
        return task_config(self._study, Task(spec, {}, self._worker, self._folder.uri_of(run.directory)))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch after which the run goes on."""
        self._listener.epoch(self._running[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a run: its last epoch, a failure, or the death of its process."""
        run = self._running.pop(trial_id)
        if not error and result is None:
            return  # Tune gives up before the run began
        self._folder.take(run.directory)
        failure = (result or {}).get(FAILURE)
        if error and failure is None:
            failure = "its process died, and again after every retry"
        if failure is not None:
            self.failures[run.directory] = failure
        if (result or {}).get(STOPPED):
            atomic.write_json(run.directory / FAILED_FILE, {"reason": failure})
            self._folder.keep(run.directory)
        self._listener.ended(run, failure)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the folders are the memory."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""
        raise NotImplementedError(checkpoint_path)


def run_repetitions(
    study: Study,
    folder: StudyFolder,
    specs: Sequence[tuple[Repetition, RunSpec]],
    machines: Machines,
    listener: Listener,
) -> dict[Path, str]:
    """Trains what has not reached its last epoch; why runs failed that may not fail again, by folder.

    What would fail again at the same place has that in its folder, and is not tried again.

    Raises KeyboardInterrupt where a Ctrl-C left some of them undone.
    """
    due = [(run, spec) for run, spec in specs if not run.trained() and run.failure() is None]
    if not due:
        return {}
    capacity = machines()
    searcher = RepetitionSearcher(study, folder, due, capacity, listener)
    run_trials(study, folder.path, searcher, num_trials=len(due), capacity=capacity, say=listener.waiting)
    if any(not run.trained() and run.directory not in searcher.failures for run, _ in due):
        raise KeyboardInterrupt
    stopped = {run.directory for run, _ in due if run.failure() is not None}
    return {directory: reason for directory, reason in searcher.failures.items() if directory not in stopped}

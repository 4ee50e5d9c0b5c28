"""A training run with what is kept of it: its curves for TensorBoard, and its folder on the storage of the study.

On a storage that is a URI the process works in a folder of its own: it takes over what the storage has, and every epoch
is stored before anybody hears of it. What a process that died had not stored never was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raydml import tensorboard
from raydml.capacity import Worker
from raydml.config import Scalar
from raydml.data.files import Files
from raydml.distributed import barrier, rank
from raydml.epoch import Leave, TrainingLeftError, stay
from raydml.fold_models import FoldsDoNotFitError, mark_too_large
from raydml.history import read_history
from raydml.patience import Patience, StorageError
from raydml.scratch import Scratch
from raydml.storage import RemoteFolder
from raydml.training import Run, RunSpec

_LOGGER = logging.getLogger(__name__)
# For what costs no epoch, behind which others wait for this process.
_SHORT_PATIENCE_S = 15.0


@dataclass(frozen=True)
class Task:
    """What every worker of a training gets. Plain data."""

    spec: RunSpec
    point: dict[str, Scalar]
    """Searched values by dotted path, for TensorBoard; none for a single training."""
    worker: Worker
    uri: str | None = None
    """Where the folder of the run is kept; None where `spec.directory` is a place that every machine sees."""


class RecordedRun:
    """A `Run` whose epochs are recorded. Every worker of a group makes its own; rank 0 records."""

    def __init__(self, task: Task, *, device: torch.device, leave: Leave = stay) -> None:
        """Opens data and checkpoints. Raises ConfigError as `Run`, and StorageError."""
        self._task = task
        self._scratch = Scratch() if task.uri is not None else None
        self._patience = Patience()
        self._remote: RemoteFolder | None = None
        self._run: Run | None = None
        self._curves: tensorboard.Curves | None = None
        try:
            spec = task.spec if self._scratch is None else self._taken_over(self._scratch)
            self._num_stored = len(read_history(spec.directory))
            self._run = Run(spec, device=device, leave=leave)
        except BaseException as error:
            self._note(error)
            self.close(failed=True)
            raise

    def _taken_over(self, scratch: Scratch) -> RunSpec:
        assert self._task.uri is not None
        # The name of the folder is the name of the run in TensorBoard.
        folder = scratch.folder / self._task.spec.directory.name
        self._remote = RemoteFolder(self._task.uri, folder, patience=self._patience)
        if rank() == 0:
            # One that was lost may live on for a while: what it still stored would differ from what others took over.
            self._remote.take_over()
        self._follow()
        return replace(self._task.spec, directory=folder)

    def _follow(self) -> None:
        """Every other rank gets what rank 0 has stored: in a folder of its own it sees no checkpoint of rank 0."""
        assert self._remote is not None
        barrier()
        if rank() != 0:
            self._remote.pull()

    def advance(self) -> dict[str, float] | None:
        """The next epoch as `Run.advance` gives it, recorded; None behind the last one.

        Raises what `Run.advance` raises, StorageError, and TakenOverError where another process goes on with the run.
        """
        assert self._run is not None, "the run is closed"
        if self._remote is not None and self._run.reopens:
            self._follow()
        try:
            row = self._run.advance()
        except TrainingLeftError:
            if self._remote is not None and rank() == 0:
                self._remote.push()
            raise
        except FoldsDoNotFitError as error:
            self._note(error)
            raise
        if row is None or rank() != 0:
            return row
        if self._curves is None:
            self._curves = tensorboard.Curves(self._run.spec.directory, point=self._task.point)
        self._curves.add(row)
        if row["epoch"] >= self._run.num_epochs:
            self._end_curves(failed=False)
        if self._remote is not None and row["epoch"] > self._num_stored:
            self._remote.push()
        return row

    def close(self, *, failed: bool = False) -> None:
        """Ends the curves and lets another process go on. What fails here costs no epoch, and only a warning."""
        ending = self._curves is not None
        self._end_curves(failed=failed)
        if self._run is not None:
            self._run.close()
        try:
            # It may be the storage that has just failed for long.
            self._patience.seconds = _SHORT_PATIENCE_S
            if self._remote is not None and ending:
                self._remote.push()
        except StorageError as error:
            _LOGGER.warning("the end of the curves is not stored: %s", error)
        finally:
            if self._scratch is not None:
                self._scratch.remove()
        self._run = self._remote = self._scratch = None

    def _note(self, error: BaseException) -> None:
        """Whatever rank ran out of memory, the next group of workers finds it in the folder that it takes over."""
        if isinstance(error, FoldsDoNotFitError) and self._task.uri is not None:
            _add(self._task.uri, mark_too_large, "that its folds do not fit into memory together")

    def _end_curves(self, *, failed: bool) -> None:
        if self._curves is not None:
            self._curves.close(failed=failed)
        self._curves = None


@contextmanager
def recorded(task: Task, *, device: torch.device, leave: Leave = stay) -> Iterator[RecordedRun]:
    """A run that is closed at the end, as failed where an error ends it."""
    run = RecordedRun(task, device=device, leave=leave)
    try:
        yield run
    except BaseException:
        run.close(failed=True)
        raise
    run.close()


def end_curves(task: Task, *, failed: bool) -> None:
    """Says in the curves of a run that it has ended, for workers that were stopped and could not. Raises nothing."""
    if task.uri is None:
        tensorboard.write_end(task.spec.directory, failed=failed)
        return
    _add(task.uri, lambda folder: tensorboard.write_end(folder, failed=failed), "the end of the curves")


def _add(uri: str, write: Callable[[Path], None], what: str) -> None:
    """Adds files to a stored run, whoever wrote it last. Raises nothing."""
    scratch = Scratch()
    try:
        remote = RemoteFolder(uri, scratch.folder, patience=Patience(_SHORT_PATIENCE_S))
        remote.compare()
        write(scratch.folder)
        remote.push()
    except StorageError as error:
        _LOGGER.warning("%s: %s is not stored: %s", Files(uri).named(), what, error)
    finally:
        scratch.remove()

"""The models of a run, of which only so many are in memory at a time; the others wait in their checkpoints."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from raydml.distributed import barrier, rank, world_size
from raydml.model_training import ModelTraining

_LOGGER = logging.getLogger(__name__)
# Not hidden: it is stored with the run.
_MARKER = "one_fold_at_a_time"
_FROM_NOW_ON = "going on with one fold at a time, as resources.folds_at_a_time=1 does from the beginning"


class FoldsDoNotFitError(RuntimeError):
    """One of several workers ran out of memory with several folds in it; started again, they go on one by one."""


def mark_too_large(directory: Path) -> None:
    """Notes in a run's folder that several of its folds do not fit into the memory of its workers."""
    (directory / _MARKER).touch()


class FoldModels:
    """Models by their place, opened when they are asked for.

    Who asks for a model that had to leave gets it as its last checkpoint has it: one may leave between two epochs, or
    to have its running epoch done again. In a process group every worker must ask for the same ones in the same order.
    """

    def __init__(
        self, open_model: Callable[[int], ModelTraining], num_models: int, *, at_a_time: int, directory: Path
    ) -> None:
        """`directory` is the run's: what its workers once found too large for their memory is not tried again."""
        self._open, self._num_models, self._directory = open_model, num_models, directory
        self._room = min(at_a_time, num_models)
        self._resident: dict[int, ModelTraining] = {}
        if self._room > 1 and (directory / _MARKER).exists():
            self._room = 1
            if rank() == 0:
                _LOGGER.warning("%s: its workers ran out of GPU memory; %s", directory, _FROM_NOW_ON)

    def __getitem__(self, place: int) -> ModelTraining:
        """Raises what opening raises: ConfigError for a checkpoint of something else, OutOfMemoryError."""
        if place not in self._resident:
            if len(self._resident) == self._room:
                # They are asked for in turn: the one just used is the one that is not needed for longest.
                self._drop(max(self._resident))
            # Rank 0 has written what the others are about to read.
            barrier()
            self._resident[place] = self._open(place)
        return self._resident[place]

    def open(self) -> None:
        """Opens as many as there is room for: what is wrong with them is said before anything trains."""
        if self._ran_out(lambda: [self[place] for place in range(self._room)]):
            self[0]

    @property
    def take_turns(self) -> bool:
        """Whether models leave the memory between two epochs."""
        return self._room < self._num_models

    def metrics_of(self, epoch: int) -> list[dict[str, float]]:
        """Metrics of an epoch (from 1) of every model, trained now unless its checkpoint already has it.

        Where a GPU runs out of memory with several models in it, the epoch that ran is done again, and this and all
        that follow one model at a time. One of several workers cannot do that while the others wait for it:
        FoldsDoNotFitError, behind which a new group of workers does.
        """
        rows: list[dict[str, float]] = []

        def train() -> None:
            while len(rows) < self._num_models:
                rows.append(self[len(rows)].metrics_of(epoch))

        if self._ran_out(train):
            train()
        return rows

    def _ran_out(self, work: Callable[[], object]) -> bool:
        """Does the work; whether it was left off for want of memory, and is to be done again with more of it."""
        try:
            work()
        except torch.OutOfMemoryError as error:
            if self._room == 1:
                raise
            if world_size() > 1:
                self._give_up(error)
            reason = " ".join(str(error).split())
        else:
            return False
        # Out here the error is gone, and with it the frames that held the model which was training.
        _LOGGER.warning(
            "%s: out of GPU memory with %d folds; %s (%s)", self._directory, self._room, _FROM_NOW_ON, reason
        )
        self._room = 1
        for place in list(self._resident):
            self._drop(place)
        gc.collect()
        torch.cuda.empty_cache()
        return True

    def _give_up(self, error: Exception) -> None:
        """Others may wait in a collective that this rank will not enter: only a new group of workers can agree."""
        mark_too_large(self._directory)
        raise FoldsDoNotFitError(
            f"worker {rank()} of {world_size()} is out of GPU memory with {self._room} folds; workers that start again "
            "go on with one fold at a time, as resources.folds_at_a_time=1 does from the beginning"
        ) from error

    def _drop(self, place: int) -> None:
        del self._resident[place]
        # The next model's pixels stay on the GPU only where they see that they fit.
        torch.cuda.empty_cache()

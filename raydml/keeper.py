"""What happens between a search and who watches it: the time that passes, what is stored, which models stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raydml import budget
from raydml.budget import Clock
from raydml.config import Scalar
from raydml.display import SearchDisplay
from raydml.history import read_history, seconds_of
from raydml.record import ranked, trial_directory
from raydml.space import Study
from raydml.study_folder import StudyFolder


class Keeper:
    """Between searcher and display: stores what has happened, and keeps only the best trials' checkpoints."""

    def __init__(
        self, study: Study, folder: StudyFolder, memory: optuna.Study, display: SearchDisplay, clock: Clock
    ) -> None:
        self._study, self._folder, self._memory, self._display = study, folder, memory, display
        self._clock = clock
        self._dropped: set[int] = set()
        self.paused, self.waiting = display.paused, display.waiting

    def out_of_time(self) -> bool:
        """Whether the hours of the search are over."""
        return budget.out_of_time(self._clock.seconds(), self._study.search.max_hours)

    def seconds_of(self, number: int) -> float:
        """Time that a trial spent on its epochs."""
        directory = trial_directory(self._folder.path, number)
        self._folder.take(directory)
        return seconds_of(read_history(directory))

    def started(self, number: int, point: Mapping[str, Scalar], num_epochs: int, *, resumed: bool) -> None:
        """Stores that there is this trial: no folder may be there of one that nobody knows."""
        self._folder.save()
        self._display.started(number, point, num_epochs, resumed=resumed)

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        """Shows it; the time until here is not lost in a kill."""
        self._clock.save()
        self._folder.save_rarely()
        self._display.epoch(number, row)

    def ended(self, trial: FrozenTrial) -> None:
        """Stores it, and removes the checkpoints that no longer count."""
        self._folder.take(trial_directory(self._folder.path, trial.number))
        self._folder.save()
        self._display.ended(trial)
        # Not its own: the process that trained it may not have ended.
        self.drop_checkpoints(but=trial.number)

    def drop_checkpoints(self, but: int | None = None) -> None:
        """Removes those of all trials that have ended but for the best, and for one."""
        finished = [t for t in self._memory.get_trials(deepcopy=False) if t.state.is_finished()]
        complete = [t for t in finished if t.state == TrialState.COMPLETE]
        kept = {t.number for t in ranked(complete)[: self._study.search.keep_checkpoints]}
        for number in {t.number for t in finished} - kept - self._dropped - {but}:
            self._folder.drop_models(trial_directory(self._folder.path, number))
            self._dropped.add(number)

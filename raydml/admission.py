"""Hands out a search's trials as machines come, and says what waits for them: between Tune and whoever searches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from raydml import autoscaler
from raydml.capacity import Capacity, Worker, possible_trials, present_trials, told, worker_of, workers_told
from raydml.config import Resources
from raydml.record import NEWS
from raydml.seats import bundle_of, is_seat
from raydml.session import import_ray, now
from raydml.waiting import Reminder, line, may_begin

ray = import_ray()

from ray import tune  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402
from ray.util import placement_group_table  # noqa: E402

_LOGGER = logging.getLogger(__name__)

Say = Callable[[str | None], None]
"""Takes what is said of trials that wait; None where none waits any more."""

# Trials change several times a second, machines do not.
_LOOK_S = 1.0
_UNPLACED = ("PENDING", "RESCHEDULING")


class Observed(NamedTuple):
    """A cluster at a moment."""

    capacity: Capacity
    waiting_groups: int
    """Groups of workers of a trial's shape that have no machines yet."""
    troubles: tuple[str, ...]
    """Why machines do not come."""


@dataclass
class _Given:
    """A trial that was handed out."""

    name: str
    """By which the searcher knows it: that under which Tune first asked for it."""
    config: dict[str, Any]
    times_lost: int = 0
    """While it was given over."""


Observe = Callable[[bool], Observed]
"""Given whether a trial waits: only then it matters why machines do not come."""


def observed(resources: Resources, capacity: Capacity, anyone_waits: bool) -> Observed:
    """The cluster that is connected, now; `capacity` is what it was and may become."""
    groups = 0 if resources.workers_per_trial == 1 else _groups_that_wait(resources, worker_of(resources, capacity))
    return Observed(now(capacity), groups, autoscaler.troubles() if anyone_waits else ())


def _groups_that_wait(resources: Resources, worker: Worker) -> int:
    sizes = range(resources.fewest_workers, resources.workers_per_trial + 1)
    shapes = [[bundle_of(worker)] * size for size in sizes]
    unplaced = [group for group in placement_group_table().values() if group["state"] in _UNPLACED]
    # What a group of fewer workers asks for besides does not keep it from training.
    return sum(list(group["bundles"].values()) in shapes and not is_seat(group) for group in unplaced)


class Admission(Searcher):
    """A searcher that hands out another's trials, as many as machines are there or may come, at most `limit`.

    A trial whose process is lost while Tune gives it over from the one before is handed out again, under another name:
    Tune 2.60 ends it as failed, whatever its `max_failures`, because it is not running yet.
    """

    def __init__(
        self,
        searcher: Searcher,
        resources: Resources,
        capacity: Capacity,
        *,
        num_trials: int,
        limit: int,
        max_retries: int,
        say: Say,
        observe: Observe | None = None,
    ) -> None:
        """`capacity` is what the cluster is at first, `num_trials` the most that are asked of `searcher`.

        `say` is told what waits.
        """
        super().__init__(metric=searcher.metric, mode=searcher.mode)
        # Under another name than `searcher`: Tune would ask what is behind that name for its state.
        self._inner = searcher
        self._resources, self._limit, self._say = resources, limit, say
        self._worker = worker_of(resources, capacity)
        self._observe = observe or partial(observed, resources, capacity)
        self._num_left, self._max_retries = num_trials, max_retries
        self._given: dict[str, _Given] = {}
        """What was handed out and has not ended, by Tune's name."""
        self._again: list[_Given] = []
        self._given_up: set[str] = set()
        self._placed: set[str] = set()
        self._reminder = Reminder()
        self._looked = self._came = time.monotonic()
        self._seen = Observed(capacity, 0, ())
        self.failure: Exception | None = None
        """What ended the search. Tune takes an error of a searcher for a trial's: it is to be raised behind Tune."""

    def __reduce__(self) -> tuple[type[Searcher], tuple[str, str]]:
        # Tune pickles its searcher for a restore that raydml does not use.
        return Searcher, (self.metric, self.mode)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:  # noqa: ANN401
        """Tune's own; the searcher inside has what it needs."""
        return bool(self._inner.set_search_properties(metric, mode, config, **spec))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; None where it would only wait."""
        if self.failure is not None:
            return str(Searcher.FINISHED)
        may = may_begin(
            live=len(self._given),
            waiting=len(self._given.keys() - self._placed),
            present=present_trials(self._resources, self._seen.capacity),
            # Fewer than one where the machines that held a trial are gone: they may come back.
            possible=possible_trials(self._resources, self._seen.capacity),
            limit=self._limit,
            vain_s=time.monotonic() - self._came,
        )
        if not may:
            return None
        given = self._again.pop(0) if self._again else self._asked(trial_id)
        if given is not None:
            self._given[trial_id] = given
            return given.config
        # One of those that live may have to be handed out again.
        return None if self._given and self.failure is None else str(Searcher.FINISHED)

    def _asked(self, trial_id: str) -> _Given | None:
        suggested = None
        if self._num_left > 0:
            with self._heeding():
                suggested = self._inner.suggest(trial_id)
        if not isinstance(suggested, dict):
            return None
        self._num_left -= 1
        return _Given(trial_id, suggested)

    def name_of(self, trial_id: str) -> str:
        """By which the searcher inside knows what Tune calls so."""
        return self._given[trial_id].name if trial_id in self._given else trial_id

    def give_up(self, trial_id: str) -> None:
        """Of this one the next failure is its end."""
        self._given_up.add(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Handed on where it is an epoch."""
        if NEWS not in result:
            with self._heeding():
                self._inner.on_trial_result(self.name_of(trial_id), result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Handed on. Of a trial that was stopped because the search ends nobody hears: it goes on later."""
        name, given = self.name_of(trial_id), self._given.pop(trial_id, None)
        if self.failure is not None:
            return
        if error and given is not None and trial_id not in self._given_up and given.times_lost < self._max_retries:
            given.times_lost += 1
            self._again.append(given)
            _LOGGER.warning("%s lost its process before it began; it goes on", _shown(given.config))
            return
        with self._heeding():
            self._inner.on_trial_complete(name, result, error)

    @contextmanager
    def _heeding(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: storage, disk, memory of the search
            self.failure = self.failure or error

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""
        raise NotImplementedError(checkpoint_path)

    def look(self, trials: Sequence[Any]) -> None:
        """Takes note of which trials (Tune's) have what they need, and of the machines; says what waits."""
        moment, before = time.monotonic(), self._seen
        due = moment - self._looked >= _LOOK_S
        if due:
            self._looked, self._seen = moment, self._observe(self._given.keys() != self._placed)
        waiting = self._waiting([trial for trial in trials if trial.trial_id in self._given])
        self._placed = self._given.keys() - {trial.trial_id for trial in waiting}
        if due or not waiting:
            if len(self._seen.capacity.machines) > len(before.capacity.machines) or not waiting:
                self._came = moment
            self._remind(moment, waiting)

    def _waiting(self, trials: Sequence[Any]) -> Sequence[Any]:
        if self._resources.workers_per_trial == 1:
            return [trial for trial in trials if trial.status in (trial.PENDING, trial.PAUSED)]

        # A group's trial runs on the head and holds nothing there. Whose workers wait nobody says: who has reported
        # something is the last to be suspected.
        def has_trained(trial: Any) -> bool:  # noqa: ANN401
            return bool(trial.last_result) and NEWS not in trial.last_result

        return sorted(trials, key=has_trained)[: self._seen.waiting_groups]

    def _remind(self, moment: float, waiting: Sequence[Any]) -> None:
        told_before, troubles = self._reminder.told, self._seen.troubles
        room = len(self._given) <= present_trials(self._resources, self._seen.capacity)
        if self._reminder.due(moment, anyone=bool(waiting), room=room, troubles=troubles):
            names = sorted(_shown(trial.config) for trial in waiting)
            self._say(line(names, self._worker, workers_told(self._resources), told(self._seen.capacity), troubles))
        elif told_before and not waiting:
            self._say(None)


def _shown(config: Mapping[str, Any]) -> str:
    return str(config["task"].spec.directory.name)


class Looks(tune.Callback):
    """Lets an admission look at the trials, again and again."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # Tune pickles its callbacks for a restore that raydml does not use.
        return tune.Callback, ()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ANN401
        """Before Tune asks for trials."""
        del iteration, info
        self._admission.look(trials)

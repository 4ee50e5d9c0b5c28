"""The search's memory and its searcher: a persistent Optuna study with honest states, driven through Ray Tune.

Optuna's study is all there is to remember. A trial pruned by the scheduler is PRUNED with its last value, a failed one
FAIL with its reason, and a driver that was killed leaves RUNNING trials that the next one continues; so does a search
that is out of time. What a sampler draws for a trial is a function of (seed, trial number, study), and the scheduler's
rungs are rebuilt from the values in the study; so neither needs state of its own across a restart.

Ray's OptunaSearch tells pruned trials as COMPLETE, leaves failed ones RUNNING and enqueues start points again after a
restart; Tune does not restore ASHA's rungs (specs/ray.md, 2.5 and 2.6).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from raydml import objectives
from raydml.budget import End, end_of
from raydml.config import ExperimentConfig, Scalar
from raydml.record import FAILURE, NEWS, point_of
from raydml.samplers import START, in_optuna, next_trial
from raydml.session import import_ray
from raydml.space import Study

import_ray()

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.WARNING)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_TIME = "training_iteration"


class Listener(Protocol):
    """Who wants to know how a search goes."""

    def started(self, number: int, point: Mapping[str, Scalar], num_epochs: int, *, resumed: bool) -> None:
        """A trial begins, or goes on after a restart."""

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        """A trial finished an epoch."""

    def ended(self, trial: FrozenTrial) -> None:
        """A trial is COMPLETE, PRUNED or FAIL."""

    def paused(self, trial: FrozenTrial) -> None:
        """Time is up: a trial stops and goes on with the next driver."""


def open_study(path: Path, *, name: str, values: Sequence[str] = ("value",)) -> optuna.Study:
    """The Optuna study of a journal file, made where there is none. The caller holds the study's folder for itself.

    `values` names what a trial is told with: the first is to be large, others are to be small.
    A driver that was killed may leave half a line or a lock behind; both are cleared first.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    _cut_half_line(path)
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
    # Every trial comes with its values: the study itself draws none.
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=objectives.directions(values),
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    if len(values) > 1 and study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(values))
    return study


def _cut_half_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))


def enqueue_start_points(memory: optuna.Study, study: Study) -> None:
    """Puts the start points at the head of an empty study, each once, however often this is called."""
    distributions = study.distributions()
    known = {t.user_attrs.get(START) for t in memory.get_trials(deepcopy=False)}
    for index, point in enumerate(study.start_points()[: study.search.num_trials]):
        if index not in known:
            encoded = {path: distributions[path].encode(value) for path, value in point.items()}
            memory.enqueue_trial(encoded, user_attrs={START: index})


class _Running(NamedTuple):
    trial: optuna.Trial
    num_epochs: int


class StudySearcher(Searcher):
    """Suggests what the study needs next and tells it what came of it."""

    def __init__(
        self,
        study: Study,
        memory: optuna.Study,
        *,
        scheduler: TrialScheduler,
        make_config: Callable[[int, ExperimentConfig, dict[str, Scalar]], dict[str, Any]],
        listener: Listener,
        seconds_of: Callable[[int], float],
        warm: Sequence[FrozenTrial] = (),
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> None:
        """`make_config` turns a trial's number, experiment and point into the configuration of its Trainable.

        `seconds_of` is the time that a trial, by its number, spent on all its epochs, those before a restart included.
        `warm` are trials of other studies, to learn from.
        """
        super().__init__(metric=study.search.metric, mode="max")
        self._study, self._memory, self._scheduler = study, memory, scheduler
        self._make_config, self._listener = make_config, listener
        self._seconds_of, self._warm, self._out_of_time = seconds_of, warm, out_of_time
        self._distributions = study.distributions()
        self._running: dict[str, _Running] = {}
        self._stopped: set[str] = set()
        trials = memory.get_trials(deepcopy=False)
        self._unfinished = [t.number for t in trials if t.state == TrialState.RUNNING]
        for trial in trials:
            if trial.state in FINISHED:
                _replay(scheduler, f"finished-{trial.number}", trial.intermediate_values, study.search.metric)

    def __reduce__(self) -> tuple[type[Searcher], tuple[str, str]]:
        # Tune pickles its searcher for a restore that raydml does not use: the study is the memory.
        return Searcher, (self._study.search.metric, "max")

    @property
    def num_to_run(self) -> int:
        """Trials to run: those asked for that have not ended, and all that an earlier driver left unfinished."""
        ended = len(self._memory.get_trials(deepcopy=False, states=FINISHED))
        return max(self._study.search.num_trials - ended, len(self._unfinished))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The configuration of the next trial: first the unfinished ones, then what the sampler draws."""
        if self._out_of_time():
            return str(Searcher.FINISHED)
        resumed = bool(self._unfinished)
        trial = self._reopen(self._unfinished.pop(0)) if resumed else self._ask()
        point = point_of(trial, self._distributions)
        experiment = self._study.experiment(point)
        num_epochs = experiment.training.num_epochs
        self._running[trial_id] = _Running(trial, num_epochs)
        values = self._frozen(trial.number).intermediate_values
        # The scheduler's answer to the last value may be lost: that epoch is decided again when the trial reports it.
        settled = {epoch: value for epoch, value in values.items() if epoch < max(values)}
        _replay(self._scheduler, trial_id, settled, self._study.search.metric, keep=True)
        self._listener.started(trial.number, point, num_epochs, resumed=resumed)
        return self._make_config(trial.number, experiment, point)

    def stop(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether time is up. Tune asks after every epoch, and then not the scheduler."""
        del result
        if self._out_of_time():
            self._stopped.add(trial_id)
        return trial_id in self._stopped

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch after which the trial goes on."""
        self._record(self._running[trial_id].trial, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial: its last epoch, a stop by the scheduler, a failure, or the death of its process."""
        trial, num_epochs = self._running.pop(trial_id)
        if not error and result is None:
            # It waited for a machine until time was up: it stays RUNNING, for the next driver.
            self._listener.paused(self._frozen(trial.number))
            return
        result = result or {}
        end = end_of(
            epoch=int(result.get(_TIME, 0)),
            num_epochs=num_epochs,
            failed=error or FAILURE in result,
            out_of_time=trial_id in self._stopped,
        )
        if end != End.FAILED and NEWS not in result:
            self._record(trial, result)
        match end:
            case End.PAUSED:
                self._listener.paused(self._frozen(trial.number))
                return
            case End.FAILED:
                trial.set_user_attr(FAILURE, result.get(FAILURE, "its process died, and again after every retry"))
                self._memory.tell(trial, state=TrialState.FAIL)
            case End.PRUNED:
                self._memory.tell(trial, state=TrialState.PRUNED)
            case End.COMPLETE:
                self._memory.tell(trial, self._values(trial, result))
        self._listener.ended(self._frozen(trial.number))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the memory."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a search goes on from its study, not from Tune's files."""
        raise NotImplementedError(checkpoint_path)

    def _ask(self) -> optuna.Trial:
        trials = self._memory.get_trials(deepcopy=False)
        if not any(trial.state == TrialState.WAITING for trial in trials):
            self._memory.add_trial(next_trial(self._study, trials, self._warm))
        return self._memory.ask(in_optuna(self._distributions))

    def _reopen(self, number: int) -> optuna.Trial:
        """A trial an earlier driver began; a kill may have come before all its values were taken over."""
        trial = optuna.Trial(self._memory, self._frozen(number)._trial_id)
        for path, distribution in in_optuna(self._distributions).items():
            trial._suggest(path, distribution)
        return trial

    def _record(self, trial: optuna.Trial, result: Mapping[str, Any]) -> None:
        """The value of an epoch, once: a continued trial reports its old ones again."""
        epoch = int(result[_TIME])
        if epoch not in self._frozen(trial.number).intermediate_values:
            # What trial.report does, which refuses several objectives: the curve is the metric's alone.
            value = float(result[self._study.search.metric])
            trial.storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
            self._listener.epoch(trial.number, result)

    def _values(self, trial: optuna.Trial, result: Mapping[str, Any]) -> list[float]:
        search, point = self._study.search, point_of(trial, self._distributions)
        metric = float(result[search.metric])
        return objectives.values_of(search, metric, point, lambda: self._seconds_of(trial.number))

    def _frozen(self, number: int) -> FrozenTrial:
        return self._memory.get_trials(deepcopy=False)[number]


def make_scheduler(study: Study) -> TrialScheduler:
    """ASHA over epochs, or none where the study asks for none or its trials are too short for a rung."""
    stopping = study.search.early_stopping
    searched = study.distributions().get("training.num_epochs")
    longest = study.base.training.num_epochs if searched is None else int(searched.corners()[-1])
    if stopping is None or stopping.grace_epochs >= longest:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr=_TIME,
        metric=study.search.metric,
        mode="max",
        max_t=longest,
        grace_period=stopping.grace_epochs,
        reduction_factor=stopping.reduction_factor,
    )


def _replay(
    scheduler: TrialScheduler, trial_id: str, values: Mapping[int, float], metric: str, *, keep: bool = False
) -> None:
    """Tells the scheduler what it was told before. `keep` where the trial itself goes on under this id."""
    if not isinstance(scheduler, ASHAScheduler):
        return
    trial = SimpleNamespace(trial_id=trial_id)
    scheduler.on_trial_add(None, trial)
    result: dict[str, Any] = {}
    for epoch in sorted(values):
        result = {_TIME: epoch, metric: values[epoch]}
        scheduler.on_trial_result(None, trial, result)
    if not keep:
        scheduler.on_trial_complete(None, trial, result)

"""Trials of one shape through Ray Tune: the one place that makes its Tuner. Who searches decides what they train."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raydml.admission import Admission, Looks, Say
from raydml.capacity import Capacity, fitting_trials, worker_of
from raydml.failures import Setbacks, told
from raydml.plan import at_most
from raydml.record import NEWS
from raydml.session import import_ray, last_line
from raydml.setbacks import failure_told
from raydml.space import Study
from raydml.trial import VERDICT, trainable_of

import_ray()

from ray import tune  # noqa: E402
from ray.tune.callback import Callback  # noqa: E402
from ray.tune.experiment import Trial  # noqa: E402
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

_LOGGER = logging.getLogger(__name__)
_TIME = "training_iteration"

Stop = Callable[[str, Mapping[str, Any]], bool]
Over = Callable[[], bool]


def _never(*of_a_trial: object) -> bool:
    del of_a_trial
    return False


class UntilOver(FIFOScheduler):  # type: ignore[misc]
    """Another scheduler, until the search is over: then what waits for a machine is stopped, and begins no epoch.

    Tune asks whether a trial is to stop when it reports, which one that waits does not; and only a scheduler may stop
    one at any other time.
    """

    def __init__(self, scheduler: TrialScheduler, over: Over) -> None:
        super().__init__()
        self._scheduler, self._over = scheduler, over

    def __reduce__(self) -> tuple[type[TrialScheduler], tuple[()]]:
        # Tune pickles its scheduler for a restore that raydml does not use.
        return FIFOScheduler, ()

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:  # noqa: ANN401
        """Handed on."""
        self._scheduler.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:  # noqa: ANN401
        """Handed on."""
        self._scheduler.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:  # noqa: ANN401
        """Handed on."""
        return str(self._scheduler.on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:  # noqa: ANN401
        """Handed on."""
        self._scheduler.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:  # noqa: ANN401
        """Handed on."""
        self._scheduler.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:  # noqa: ANN401
        """Asked again and again, before Tune gives a trial a process."""
        if not self._over():
            return self._scheduler.choose_trial_to_run(tune_controller)
        for trial in tune_controller.get_trials():
            if trial.status in (trial.PENDING, trial.PAUSED):
                tune_controller.stop_trial(trial)
        return None


class _Restarts(Callback):  # type: ignore[misc]
    """Decides, each time Tune is about to start a disturbed trial again, whether that is any good.

    Tune's own limit counts over the whole life of a trial, in which a spot machine may be lost any number of times.
    A trial that is given up is started once more, only to say so: that is how its reason becomes its result.
    """

    def __init__(self, max_retries: int, give_up: Callable[[str], None]) -> None:
        """`give_up` is told of a trial that is, by Tune's name."""
        self._max_retries, self._give_up = max_retries, give_up
        self._setbacks: dict[str, Setbacks] = {}
        self._counts: dict[str, int] = {}

    def on_trial_result(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, result: dict[str, Any], **info: object
    ) -> None:
        """A finished epoch, or what its group of workers decided itself."""
        del iteration, trials, info
        self._of(trial).finished(int(result.get(_TIME, 0)))
        if news := result.get(NEWS):
            _LOGGER.warning(news)

    def on_trial_recover(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: object) -> None:
        """A failure, behind which Tune has put the trial into its queue again."""
        del iteration, trials, info
        text, count = _last_failure_of(trial), trial.num_failures
        # What a preemption ended Tune does not count.
        preempted = count == self._counts.get(trial.trial_id, 0)
        self._counts[trial.trial_id] = count
        verdict = self._of(trial).met(failure_told(text, preempted=preempted), last_line(text))
        trial.config[VERDICT] = verdict
        if verdict.decision.again:
            _LOGGER.warning(told(trial.config["task"].spec.directory.name, verdict))
        else:
            # Whatever happens before it has said so ends it.
            self._give_up(trial.trial_id)
            trial.max_failures = trial.num_failures

    def _of(self, trial: Trial) -> Setbacks:
        return self._setbacks.setdefault(trial.trial_id, Setbacks(self._max_retries))


def _last_failure_of(trial: Trial) -> str:
    """The text of what Tune caught last: it keeps all of them in a file of this driver, each behind a headline."""
    _, _, last = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")
    return last.partition("\n")[2]


def run_trials(
    study: Study,
    directory: Path,
    searcher: Searcher,
    *,
    num_trials: int,
    capacity: Capacity,
    say: Say,
    scheduler: TrialScheduler | None = None,
    stop: Stop = _never,
    over: Over = _never,
) -> None:
    """Runs as many trials as the searcher suggests, at most `num_trials`, as many at a time as fit.

    `say` is told what waits for machines; `stop` is asked when a trial reports, and once the search is `over` none that
    waits begins. Returns when they have ended, and after a Ctrl-C as well: Tune catches the first one itself. Raises
    ConfigError where no machine can ever hold a trial, and what the searcher raised.
    """
    fitting_trials(study.resources, capacity)
    worker = worker_of(study.resources, capacity)
    limit = at_most(study.search, num_trials)
    max_retries = study.search.max_retries
    admission = Admission(
        searcher,
        study.resources,
        capacity,
        num_trials=num_trials,
        limit=limit,
        max_retries=max_retries,
        say=say,
    )
    scratch = directory / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = tune.Tuner(
        trainable_of(study.resources, worker.cpus, worker.gpus),
        tune_config=tune.TuneConfig(
            search_alg=admission,
            scheduler=UntilOver(scheduler or FIFOScheduler(), lambda: admission.failure is not None or over()),
            # As many as are handed out: one may be handed out again.
            num_samples=-1,
            # A group's trial holds the handle of its workers: only an inline one can start over.
            reuse_actors=study.resources.workers_per_trial == 1,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[Looks(admission), _Restarts(max_retries, admission.give_up)],
            stop=lambda trial_id, result: admission.failure is not None or stop(admission.name_of(trial_id), result),
            failure_config=tune.FailureConfig(max_failures=-1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    tuner.fit()
    if admission.failure is not None:
        raise admission.failure
    shutil.rmtree(scratch, ignore_errors=True)


def task_config(study: Study, task: object) -> dict[str, Any]:
    """What a trial gets: its task, and what a group of workers must know."""
    return {
        "task": task,
        VERDICT: None,
        "num_workers": study.resources.workers_per_trial,
        "fewest_workers": study.resources.fewest_workers,
        "max_failures": study.search.max_retries,
    }

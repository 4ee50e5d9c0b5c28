"""Trials of one shape through Ray Tune: the one place that makes its Tuner. Who searches decides what they train."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raydml.admission import Admission, Looks, Say
from raydml.capacity import Capacity, fitting_trials, worker_of
from raydml.session import import_ray
from raydml.space import Study
from raydml.trial import trainable_of

import_ray()

from ray import tune  # noqa: E402
from ray.tune.schedulers import FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

Stop = Callable[[str, Mapping[str, Any]], bool]


def _never(trial_id: str, result: Mapping[str, Any]) -> bool:
    del trial_id, result
    return False


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
) -> None:
    """Runs as many trials as the searcher suggests, at most `num_trials`, as many at a time as fit.

    `say` is told what waits for machines. Returns when they have ended, and after a Ctrl-C as well: Tune catches the
    first one itself. Raises ConfigError where no machine can ever hold a trial, StorageError where nothing can be stored.
    """
    fitting_trials(study.resources, capacity)
    worker = worker_of(study.resources, capacity)
    chosen = study.search.max_concurrent
    limit = num_trials if chosen == "auto" else min(chosen, num_trials)
    admission = Admission(searcher, study.resources, capacity, limit=max(1, limit), say=say)
    scratch = directory / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = tune.Tuner(
        trainable_of(study.resources, worker.cpus, worker.gpus),
        tune_config=tune.TuneConfig(
            search_alg=admission,
            scheduler=scheduler or FIFOScheduler(),
            num_samples=num_trials,
            # A group's trial holds the handle of its workers: only an inline one can start over.
            reuse_actors=study.resources.workers_per_trial == 1,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[Looks(admission)],
            stop=lambda trial_id, result: admission.failure is not None or stop(trial_id, result),
            failure_config=tune.FailureConfig(max_failures=study.search.max_retries),
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
        "num_workers": study.resources.workers_per_trial,
        "max_failures": study.search.max_retries,
    }

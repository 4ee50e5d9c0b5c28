"""What a search leaves behind, for who only reads it: Optuna's trials, in what order, with which configuration.

Reads the journal of a search that may still be running, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from raydml import objectives
from raydml.config import ConfigError, Distribution, Scalar

# Optuna replays a journal line by line, and asks of no line whether it is one.
_NO_JOURNAL = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)

FAILURE = "failure"
"""Key of the reason why a trial failed, in its result and in Optuna's study."""

STOPPED = "stopped"
"""Key of a failure that every repetition would meet again at the same step, such as a loss that is not finite."""

NEWS = "news"
"""Key of a result that is no epoch: what disturbed a group's workers, in words; none while they wait for machines."""

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def read_study(path: Path) -> optuna.Study:
    """The only study of a journal file. Raises ConfigError where there is none that can be read."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        [name] = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage)
    except _NO_JOURNAL as error:
        raise ConfigError(f"{path}: no journal of a search: {type(error).__name__}: {error}") from None


def point_of(trial: FrozenTrial | optuna.Trial, distributions: Mapping[str, Distribution]) -> dict[str, Scalar]:
    """The values of the configuration that a trial stands for."""
    return {path: distribution.decode(trial.params[path]) for path, distribution in distributions.items()}


def trial_directory(directory: Path, number: int) -> Path:
    """Folder of a trial: Optuna's number with four digits."""
    return directory / "trials" / f"{number:04d}"


def value_of(trial: FrozenTrial) -> float | None:
    """The searched metric's value, however many objectives there are; of a pruned trial its last one."""
    # Optuna's `trial.value` raises where there are several.
    return None if trial.values is None else trial.values[0]


def best_of(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial that is best by the searched metric, as `ranked` has it; none where no trial is complete."""
    complete = _complete(trials)
    return complete[0] if complete else None


def pareto_front(trials: Iterable[FrozenTrial]) -> Sequence[FrozenTrial]:
    """The complete trials that no other beats in every objective, best by the searched metric first."""
    complete = _complete(trials)
    return [complete[place] for place in objectives.front([trial.values for trial in complete])]


def _complete(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in ranked(trials) if trial.state == TrialState.COMPLETE]


def ranked(trials: Iterable[FrozenTrial]) -> Sequence[FrozenTrial]:
    """Complete ones first, pruned ones next, best by the searched metric first.

    Of equal ones the one that is smaller in the further objectives, so that the best is on the front; then the first.
    """
    return sorted(trials, key=_rank)


def _rank(trial: FrozenTrial) -> tuple[int, float, list[float], int]:
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}.get(trial.state, 2)
    metric, *further = trial.values or [0.0]
    return order, -metric, further, trial.number

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

from raydml.config import ConfigError, Distribution, Scalar

FAILURE = "failure"
"""Key of the reason why a trial failed, in its result and in Optuna's study."""

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
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(f"{path}: no journal of a search: {error}") from None


def point_of(trial: FrozenTrial | optuna.Trial, distributions: Mapping[str, Distribution]) -> dict[str, Scalar]:
    """The values of the configuration that a trial stands for."""
    return {path: distribution.decode(trial.params[path]) for path, distribution in distributions.items()}


def trial_directory(directory: Path, number: int) -> Path:
    """Folder of a trial: Optuna's number with four digits."""
    return directory / "trials" / f"{number:04d}"


def best_of(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial with the best value, of equal ones the first; none where no trial is complete."""
    complete = [trial for trial in ranked(trials) if trial.state == TrialState.COMPLETE and trial.value is not None]
    return complete[0] if complete else None


def ranked(trials: Iterable[FrozenTrial]) -> Sequence[FrozenTrial]:
    """Complete ones first, pruned ones next, best first."""
    return sorted(trials, key=_rank)


def _rank(trial: FrozenTrial) -> tuple[int, float, int]:
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}.get(trial.state, 2)
    return order, -(trial.value if trial.value is not None else 0.0), trial.number

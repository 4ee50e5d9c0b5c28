"""Confirming runs in numbers: what fresh seeds say of the best trials, the untuned base and the search itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial

from raydml.config import ConfigError, Confirm
from raydml.repeats import BASE, Candidate, contenders, winner_of
from raydml.report.estimates import Difference, differences_between, mean_over_seeds
from raydml.report.phases import Confirmation, Confirmed
from raydml.report.repetitions import Training, settings_of, trainings_of, value_of
from raydml.space import Study
from raydml.statistics import Run


def confirmation_of(study: Study, directory: Path, trials: Sequence[FrozenTrial]) -> Confirmation | None:
    """None where the protocol confirms nothing, or no run of it has begun. Raises ConfigError for broken files."""
    confirm = study.protocol.confirm
    if confirm is None:
        return None
    candidates = contenders(study, trials)
    found = {one.name: _trainings(directory, one, confirm) for one in candidates}
    if all(training.state == "not begun" for of_one in found.values() for training in of_one):
        return None
    ended = _counted(found, confirm.seeds)
    values = {name: _of_folds(study, of_one) for name, of_one in ended.items()}
    tuned = [name for name in values if name != BASE]
    gains = dict(zip(tuned, differences_between([(values[BASE], values[name]) for name in tuned]), strict=True))
    confirmed = tuple(
        _confirmed(study, one, found[one.name], ended[one.name], gains.get(one.name)) for one in candidates
    )
    # Behind the others, which refuse a broken file by its name.
    winner = winner_of(study, directory, trials)
    return Confirmation(
        metric=study.search.metric,
        runs_done=sum(training.state == "done" for of_one in found.values() for training in of_one),
        runs_asked=confirm.seeds * len(found),
        candidates=confirmed,
        winner=None if winner is None else winner.name,
        fold_curves={} if winner is None else _fold_curves(study, ended[winner.name]),
    )


def _trainings(directory: Path, candidate: Candidate, confirm: Confirm) -> list[Training]:
    found = trainings_of(directory, candidate, "confirm", confirm)
    for training in found:
        if training.state == "other configuration":
            raise ConfigError(
                f"{training.directory / 'config.yaml'}: not the configuration of {candidate.name} with its fresh seed"
            )
    return found


def _ended(trainings: Sequence[Training]) -> list[Training]:
    """Those up to the first that has not: the ones from which the winner is named."""
    return list(takewhile(lambda training: training.state == "done", trainings))


def _counted(found: Mapping[str, Sequence[Training]], seeds: int) -> dict[str, list[Training]]:
    """Those that name the winner: of each candidate as many, once all have those that were asked for.

    Behind a schedule that went on for a wide candidate, later trials may bring one that ends with fewer seeds.
    """
    ended = {name: _ended(of_one) for name, of_one in found.items()}
    counts = [len(ended[name]) for name, of_one in found.items() if all(t.state != "failed" for t in of_one)]
    common = min(counts) if counts and min(counts) >= seeds else None
    return {name: of_one[:common] for name, of_one in ended.items()}


def _of_folds(study: Study, trainings: Sequence[Training]) -> dict[Run, float]:
    return {
        (training.planned.config.seed, fold): value_of(training, name)
        for training in trainings
        for fold, name in _names(study).items()
    }


def _names(study: Study) -> dict[int, str]:
    """What the searched metric of each fold is called."""
    metric, folds = study.search.metric, study.folds
    return {fold: f"fold{fold}/{metric}" if len(folds) > 1 else metric for fold in folds}


def _confirmed(
    study: Study,
    one: Candidate,
    trainings: Sequence[Training],
    counted: Sequence[Training],
    gain: Difference | None,
) -> Confirmed:
    metric = study.search.metric
    values = {training.planned.config.seed: value_of(training, metric) for training in counted}
    mean = mean_over_seeds({(seed, None): value for seed, value in values.items()})
    return Confirmed(
        name=one.name,
        trial=one.trial,
        settings=settings_of(study.base, one.config),
        search_value=one.value,
        repeats=tuple(training.repeat for training in trainings),
        values=values,
        mean=mean,
        inflation=None if mean is None or one.value is None else one.value - mean.mean,
        minus_base=gain,
    )


def _fold_curves(study: Study, trainings: Sequence[Training]) -> dict[int, tuple[float, ...]]:
    curves = {}
    for fold, name in _names(study).items():
        rows = [[row.get(name) for row in training.rows] for training in trainings]
        whole = [[value for value in row if value is not None] for row in rows]
        if whole == rows and len(set(map(len, whole))) == 1:
            curves[fold] = tuple(map(float, np.mean(whole, axis=0)))
    return curves

"""A search in numbers: read from its folder, whether it has ended or still runs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from raydml import jsonfile
from raydml.caveats import stamp
from raydml.config import ConfigError, Distribution, ExperimentConfig, dump
from raydml.config.grammar import differences
from raydml.history import Row, read_history, seconds_of
from raydml.identity import without_places
from raydml.looks import looks_of
from raydml.record import (
    FAILURE,
    STATES,
    best_of,
    pareto_front,
    point_of,
    ranked,
    read_study,
    trial_directory,
    value_of,
)
from raydml.report.confirmation import confirmation_of
from raydml.report.contents import Best, Budget, Change, Dimension, Importance, Metrics, StudyContents, Trial
from raydml.report.finals import final_of
from raydml.report.neighbor_sheets import sheets_of
from raydml.report.phases import Final, Spent
from raydml.report.plan import plan_of
from raydml.report.reading import curves_of, plain, read_numbers
from raydml.report.trainings import of_study, provenance_of
from raydml.space import Study, read

# Fewer points say nothing about three dimensions; the forest would name a winner all the same.
LEAST_TRIALS = 10
_METHOD = "fANOVA (random forest, seed 0) over complete trials"


def study_contents(directory: Path) -> StudyContents:
    """Raises ConfigError naming the file where one is missing or broken."""
    study = read(directory / "study.yaml")
    memory = read_study(directory / "optuna.journal")
    distributions = study.distributions()
    begun = [trial for trial in memory.get_trials() if trial.state != TrialState.WAITING]
    rows = {trial.number: read_history(trial_directory(directory, trial.number)) for trial in begun}
    identity = jsonfile.load(directory / "identity.json")
    baseline = directory / "baseline.json"
    best, confirmed, final = best_of(begun), confirmation_of(study, directory, begun), final_of(study, directory, begun)
    return StudyContents(
        name=study.name,
        directory=str(directory),
        stamp=stamp(study),
        metric=study.search.metric,
        minimize=study.search.minimize,
        base=plain(dump(study.base)),
        protocol=plain(dump(study.protocol)),
        space={path: _dimension(distribution) for path, distribution in distributions.items()},
        budget=_budget(study, memory, rows),
        trials=tuple(_trial(trial, study, rows[trial.number]) for trial in ranked(begun)),
        best=_best(study, best, rows),
        front=tuple(trial.number for trial in pareto_front(begun)) if study.search.minimize else (),
        baseline=read_numbers(baseline) if baseline.exists() else {},
        importance=importance_of(memory, list(distributions)),
        plan=plan_of(study, directory, _spent(rows)),
        confirm=confirmed,
        final=final,
        looks=looks_of(directory),
        identity=str(identity.get("hash")),
        provenance=provenance_of(of_study(identity)),
        neighbors=sheets_of(directory, _shown_runs(directory, best, final)),
    )


def _shown_runs(directory: Path, best: FrozenTrial | None, final: Final | None) -> list[str]:
    """The best trial, and the winner's first final run: those of other seeds look alike."""
    trials = [] if best is None else [trial_directory(directory, best.number).relative_to(directory).as_posix()]
    finals = [] if final is None or not final.finalists else [final.finalists[0].repeats[0].name]
    return [*trials, *finals]


def _dimension(distribution: Distribution) -> Dimension:
    if distribution.choices:
        return Dimension(low=None, high=None, log=False, choices=distribution.choices)
    return Dimension(low=distribution.low, high=distribution.high, log=distribution.log, choices=())


def _budget(study: Study, memory: optuna.Study, rows: Mapping[int, list[Row]]) -> Budget:
    states = Counter(STATES[trial.state] for trial in memory.get_trials(deepcopy=False))
    return Budget(
        states={name: states[name] for name in STATES.values() if states[name]},
        trials_asked=study.search.num_trials,
        epochs=sum(len(of_trial) for of_trial in rows.values()),
        seconds=sum(seconds_of(of_trial) for of_trial in rows.values()),
    )


def _spent(rows: Mapping[int, list[Row]]) -> Spent:
    return Spent(
        phase="search",
        runs=len(rows),
        epochs=sum(len(of_trial) for of_trial in rows.values()),
        seconds=sum(seconds_of(of_trial) for of_trial in rows.values()),
    )


def _trial(trial: FrozenTrial, study: Study, rows: list[Row]) -> Trial:
    # A kill may have come before all parameters were drawn.
    drawn = {path: distribution for path, distribution in study.distributions().items() if path in trial.params}
    failed, complete = trial.state == TrialState.FAIL, trial.state == TrialState.COMPLETE
    return Trial(
        number=trial.number,
        state=STATES[trial.state],
        value=value_of(trial),
        further=dict(zip(study.search.minimize, trial.values[1:], strict=True)) if complete else {},
        values=tuple(trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)),
        epochs=len(rows),
        seconds=seconds_of(rows),
        point=point_of(trial, drawn),
        failure=str(trial.user_attrs.get(FAILURE, "unknown")) if failed else None,
    )


def _best(study: Study, trial: FrozenTrial | None, rows: Mapping[int, list[Row]]) -> Best | None:
    value = None if trial is None else value_of(trial)
    if trial is None or value is None:
        return None
    history = rows[trial.number]
    if not history:
        raise ConfigError(f"trial {trial.number} is complete, but its metrics.jsonl is missing or empty")
    last = history[-1]
    folds = study.folds if len(study.folds) > 1 else ()
    return Best(
        number=trial.number,
        value=value,
        changes=changes(study.base, study.experiment(point_of(trial, study.distributions()))),
        metrics=_of_split(last, "val/"),
        folds={fold: {f"val/{k}": v for k, v in _below(last, f"fold{fold}/val/").items()} for fold in folds},
        curves=curves_of(history),
    )


def changes(before: ExperimentConfig, after: ExperimentConfig) -> tuple[Change, ...]:
    """Dotted paths at which two experiments differ, but for the place of the cache."""
    found = differences(without_places(before), without_places(after))
    return tuple(Change.model_validate({"path": path, "before": a, "after": b}) for path, a, b in found)


def _of_split(row: Row, split: str) -> Metrics:
    return {name: value for name, value in row.items() if name.startswith(split)}


def _below(row: Row, prefix: str) -> Metrics:
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


def importance_of(memory: optuna.Study, paths: list[str]) -> Importance:
    """Shares of the dimensions in the variance of the metric's value, or why there are none."""
    values = [value_of(t) for t in memory.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    missing = None
    if len(values) < LEAST_TRIALS:
        missing = f"at least {LEAST_TRIALS} complete trials are needed to tell, and there are {len(values)}"
    elif len(set(values)) == 1:
        missing = "all complete trials have the same value"
    if missing is not None:
        return Importance(method=_METHOD, num_trials=len(values), shares={}, missing=missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(
            memory, evaluator=evaluator, params=paths, target=lambda trial: trial.values[0]
        )
    shares = {path: float(share) for path, share in found.items()}
    return Importance(method=_METHOD, num_trials=len(values), shares=shares, missing=None)

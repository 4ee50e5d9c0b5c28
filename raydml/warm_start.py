"""Trials of other studies, for the sampler to learn from: compared before they are taken, and read once.

They are put before the study's own trials when the sampler is asked, and nowhere else: they have no number here, count
for no budget, stand on no leaderboard. What was read stays in `warm_start.json`, so that a search goes on number for
number, whatever became of the other study meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from raydml import atomic, identity
from raydml.brought_runs import bringing
from raydml.config import ConfigError, Distribution, Range, Scalar, distribution_of
from raydml.config.grammar import validate
from raydml.config.places import resolved_storage
from raydml.data.files import Files
from raydml.record import point_of
from raydml.samplers import in_optuna
from raydml.space import Study
from raydml.study_folder import is_uri, study_uri

KEPT = "warm_start.json"
# CMA-ES starts from the best tenth of them.
_ENOUGH_FOR_CMAES = 10


class WarmStart(NamedTuple):
    """What a sampler learns from besides the study's own trials."""

    trials: tuple[FrozenTrial, ...]
    notes: tuple[str, ...]
    """One line for each study."""


class _Entry(NamedTuple):
    """A finished trial as it is kept: its point, not what another study's Optuna made of it."""

    point: dict[str, Scalar]
    state: str
    value: float
    curve: dict[str, float]
    """Value by epoch."""
    further: Sequence[float] = ()
    """Values of `search.minimize`, in its order."""


def gather(study: Study, directory: Path, marks: Mapping[str, object]) -> WarmStart:
    """The trials of `search.warm_start`; those of a folder that was read before are as they were then.

    `marks` is the identity of the study in `directory`. Raises ConfigError where a folder holds no study, or one whose
    values say nothing about this one's, naming the difference.
    """
    # By the name that stays: a copy of what lies at a URI is another folder every time.
    folders = {_name_of(folder): folder for folder in study.search.warm_start}
    if not folders:
        return WarmStart((), ())
    known = _kept(directory / KEPT)
    here = study_uri(resolved_storage(study.storage), study.name)
    itself = str(directory) if here is None else Files(here).named()
    if itself in folders:
        raise ConfigError(f"search.warm_start: {itself} is this study itself: its trials inform the sampler anyway")
    for name, folder in folders.items():
        if name not in known:
            with bringing() as brought:
                place = str(brought.own(folder))
                if is_uri(place):
                    raise ConfigError(f"search.warm_start: {name} holds no study")
                known[name] = _read(Path(place).expanduser().resolve(), study, marks)
    distributions = study.distributions()
    inside = {folder: [e for e in known[folder] if _is_inside(e.point, distributions)] for folder in folders}
    trials = tuple(_trial(entry, distributions) for entries in inside.values() for entry in entries)
    if study.search.sampler == "cmaes" and len(trials) < _ENOUGH_FOR_CMAES:
        raise ConfigError(
            f"search.warm_start: cmaes starts from the best tenth of at least {_ENOUGH_FOR_CMAES} trials, "
            f"but there are {len(trials)} in this space"
        )
    atomic.write_json(directory / KEPT, {folder: [e._asdict() for e in entries] for folder, entries in known.items()})
    return WarmStart(trials, tuple(_note(folder, len(inside[folder]), len(known[folder])) for folder in folders))


def _name_of(folder: str) -> str:
    return Files(folder).named() if is_uri(folder) else str(Path(folder).expanduser().resolve())


def _note(folder: str, taken: int, there: int) -> str:
    outside = f", {there - taken} outside this space are left out" if taken < there else ""
    return f"warm start: {taken} trials of {folder}{outside}"


def _kept(path: Path) -> dict[str, list[_Entry]]:
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {folder: [_Entry(**entry) for entry in entries] for folder, entries in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _read(folder: Path, study: Study, marks: Mapping[str, object]) -> list[_Entry]:
    stored = identity.stored_in(folder)
    if stored is None or not (folder / "optuna.journal").exists():
        raise ConfigError(f"search.warm_start: {folder} holds no study")
    changes = identity.changes(_comparable(stored, study), _comparable(marks, study))
    if changes:
        raise ConfigError(f"search.warm_start: values of {folder} cannot be compared: {changes}")
    space = stored["space"]
    assert isinstance(space, Mapping)
    theirs = {path: distribution_of(study.base, path, validate(Range, limits)) for path, limits in space.items()}
    found = [_entry(trial, theirs) for trial in _finished_trials(folder)]
    if not found:
        raise ConfigError(f"search.warm_start: {folder} has no complete or pruned trial yet")
    return found


def _comparable(marks: Mapping[str, object], study: Study) -> dict[str, object]:
    """An identity without what a value at a point does not depend on: limits, and the base where it is searched."""
    base, space = marks["base"], marks["space"]
    assert isinstance(base, Mapping)
    assert isinstance(space, Mapping)
    for path in study.space:
        base = _without(base, path)
    return {**marks, "base": dict(base), "space": dict.fromkeys(space, "searched")}


def _without(raw: Mapping[str, object], path: str) -> dict[str, object]:
    head, _, rest = path.partition(".")
    below = raw.get(head)
    kept = {key: value for key, value in raw.items() if key != head}
    return {**kept, head: _without(below, rest)} if rest and isinstance(below, Mapping) else kept


def _finished_trials(folder: Path) -> list[FrozenTrial]:
    """Read without a trace: another driver may be running that study."""
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    trials = [
        trial
        for name in optuna.get_all_study_names(storage)
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    ]
    return [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.values is not None]


def _entry(trial: FrozenTrial, distributions: Mapping[str, Distribution]) -> _Entry:
    value, *further = trial.values
    curve = {str(epoch): value for epoch, value in trial.intermediate_values.items()}
    return _Entry(point_of(trial, distributions), trial.state.name, value, curve, further)


def _is_inside(point: Mapping[str, Scalar], distributions: Mapping[str, Distribution]) -> bool:
    return all(distributions[path].contains(value) for path, value in point.items())


def _trial(entry: _Entry, distributions: Mapping[str, Distribution]) -> FrozenTrial:
    return create_trial(
        state=TrialState[entry.state],
        params={path: distributions[path].encode(value) for path, value in entry.point.items()},
        distributions=in_optuna(distributions),
        values=[entry.value, *entry.further],
        intermediate_values={int(epoch): value for epoch, value in entry.curve.items()},
    )

"""Repeated runs: which of them repeat each other, what distinguishes the others, and whether it makes a difference."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from pydantic import JsonValue

from raydml import statistics
from raydml.config import ConfigError, ExperimentConfig, dump
from raydml.config.grammar import differences, unknown_key
from raydml.identity import PLACES, without_paths
from raydml.report.contents import Change, Comparison, Group, Pair, RunContents
from raydml.report.estimates import mean_of
from raydml.statistics import Estimate, Run

_PREFERRED = ("val/map@r", "test/map@r")
_DATA = "data_fingerprint"
_SPLIT = "split"
Plain = dict[str, JsonValue]
Values = Mapping[Run, float]


def comparison_of(
    runs: Sequence[RunContents], *, metric: str | None = None, preferred: str | None = None
) -> tuple[Comparison | None, list[str]]:
    """Groups of the finished runs, each pair of them compared, and notes on what was left out.

    `metric` is the one to show, `preferred` the one to show where the runs have it. Raises ConfigError where no run
    has the metric that was asked for.
    """
    notes = [f"{run.name}: ended after epoch {run.epochs} of {run.num_epochs}: in no mean" for run in _unfinished(runs)]
    members: dict[str, list[RunContents]] = {}
    for run in runs:
        if run.finished:
            members.setdefault(json.dumps(_kind_of(run), sort_keys=True), []).append(run)
    if not members:
        return None, notes
    kinds: list[Plain] = [json.loads(key) for key in members]
    paths = _differing(kinds)
    settings = [{path: _at(kind, path) for path in paths} for kind in kinds]
    order = sorted(range(len(kinds)), key=lambda index: [_sortable(value) for value in settings[index].values()])
    alike = list(members.values())
    names = list(itertools.islice(_letters(), len(order)))
    values = [_values(name, alike[index], notes) for name, index in zip(names, order, strict=True)]
    groups = tuple(
        _group(name, settings[index], alike[index], of_group)
        for name, index, of_group in zip(names, order, values, strict=True)
    )
    found = Comparison(
        metric=_chosen(metric, preferred, values),
        common=tuple(_common(kinds)),
        groups=groups,
        pairs=tuple(_pairs(dict(zip(names, values, strict=True)))),
    )
    return found, notes


def _unfinished(runs: Sequence[RunContents]) -> list[RunContents]:
    return [run for run in runs if not run.finished]


def _kind_of(run: RunContents) -> Plain:
    """Everything a run's result depends on, but seed and fold."""
    raw = without_paths({key: value for key, value in run.config.items() if key != "seed"}, PLACES)
    validated = any(name.startswith("val/") for name in run.curves.metrics)
    return {**raw, _DATA: run.provenance.fingerprint, _SPLIT: "train" if validated else "trainval"}


def _differing(kinds: Sequence[Plain]) -> list[str]:
    """Dotted paths at which not all configurations agree."""
    return sorted({path for kind in kinds[1:] for path, _, _ in differences(kinds[0], kind)})


def _at(raw: JsonValue, path: str) -> JsonValue:
    for key in path.split("."):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw


def _common(kinds: Sequence[Plain]) -> Iterator[Change]:
    """Settings that all configurations share, but not with the defaults."""
    defaults = {key: value for key, value in dump(ExperimentConfig()).items() if key != "seed"}
    own = {key: value for key, value in kinds[0].items() if key not in (_DATA, _SPLIT)}
    apart = _differing(kinds)
    for path, before, after in differences(defaults, own):
        if path not in PLACES and not any(path == other or other.startswith(f"{path}.") for other in apart):
            yield Change.model_validate({"path": path, "before": before, "after": after})


def _sortable(value: JsonValue) -> tuple[int, float, str]:
    """Numbers before words, and in their own order."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, json.dumps(value)


def _letters() -> Iterator[str]:
    """A ... Z, AA, AB ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=length))


def _values(group: str, runs: Sequence[RunContents], notes: list[str]) -> dict[str, Values]:
    """Value of every metric at every seed and fold; of a run that is there twice, the first."""
    found: dict[str, dict[Run, float]] = {}
    owner: dict[Run, str] = {}
    for run in runs:
        for model in run.models:
            at = (run.seed, model.fold)
            if owner.setdefault(at, run.name) != run.name:
                notes.append(f"{run.name}: the same experiment as {owner[at]}: counted once")
                continue
            for name, value in model.metrics.items():
                found.setdefault(name, {})[at] = value
    notes += _uneven(group, owner, found)
    return dict(found)


def _uneven(group: str, everywhere: Mapping[Run, str], values: Mapping[str, Values]) -> Iterator[str]:
    """Where means are over less than it seems."""
    partly = sorted(metric for metric, of_metric in values.items() if len(of_metric) < len(everywhere))
    if partly:
        yield f"group {group}: not every run has {', '.join(partly)}: means are over those that do"
    folds = {seed: {fold for other, fold in everywhere if other == seed} for seed, _ in everywhere}
    if len(set(map(frozenset, folds.values()))) > 1:
        yield f"group {group}: not every seed has the same folds: a mean over seeds is one over folds too"


def _group(name: str, settings: Plain, runs: Sequence[RunContents], values: Mapping[str, Values]) -> Group:
    folds = {model.fold for run in runs for model in run.models}
    return Group(
        name=name,
        settings=settings,
        runs=tuple(run.name for run in runs),
        seeds=tuple(sorted({run.seed for run in runs})),
        folds=tuple(sorted(folds, key=lambda fold: -1 if fold is None else fold)),
        means={metric: mean_of(_of_seeds(of_metric)) for metric, of_metric in values.items()},
    )


def _of_seeds(values: Values) -> Estimate:
    return statistics.estimate(list(statistics.by_seed(values).values()))


def _pairs(groups: Mapping[str, Mapping[str, Values]]) -> Iterator[Pair]:
    """Every pair of groups in every metric both have; p-values are adjusted among the pairs of a metric."""
    metrics = dict.fromkeys(metric for values in groups.values() for metric in values)
    for metric in metrics:
        having = [(name, values[metric]) for name, values in groups.items() if metric in values]
        found = [
            (first, second, compared)
            for (first, a), (second, b) in itertools.combinations(having, 2)
            if (compared := statistics.paired(a, b)) is not None
        ]
        adjusted = iter(statistics.holm([compared.p for _, _, compared in found if compared.p is not None]))
        make = partial(Pair, metric=metric)
        for first, second, compared in found:
            yield make(
                first=first,
                second=second,
                num_pairs=compared.num_pairs,
                difference=mean_of(compared.difference),
                p=compared.p,
                p_adjusted=None if compared.p is None else next(adjusted),
                detectable=compared.detectable,
                seeds_needed=compared.seeds_needed,
            )


def _chosen(metric: str | None, preferred: str | None, groups: Sequence[Mapping[str, Values]]) -> str:
    known = list(dict.fromkeys(name for values in groups for name in values))
    if metric is not None and metric not in known:
        raise ConfigError(f"metric: {unknown_key(metric, known).replace('key', 'metric', 1)}")
    found = [name for name in (metric, preferred, *_PREFERRED, *known) if name is not None and name in known]
    return found[0] if found else _PREFERRED[0]

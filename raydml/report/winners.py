"""The winners of several studies on the test classes, two at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from raydml.config.grammar import differences
from raydml.report.contents import StudyContents
from raydml.report.estimates import Difference, differences_between
from raydml.report.phases import Finalist, WinnersPair
from raydml.statistics import Run

Values = dict[str, dict[Run, float]]


def winners_of(studies: Sequence[StudyContents]) -> tuple[WinnersPair, ...]:
    """Every pair of studies with final runs; p-values of a metric are adjusted for the number of pairs."""
    having = [study for study in studies if study.final is not None]
    pairs = list(itertools.combinations(having, 2))
    reasons = [_missing(first, second) for first, second in pairs]
    compared = [pair for pair, reason in zip(pairs, reasons, strict=True) if reason is None]
    differences_of: dict[str, list[Difference | None]] = {}
    for name in dict.fromkeys(name for study in having for name in _values(study)):
        values = [(_values(first).get(name, {}), _values(second).get(name, {})) for first, second in compared]
        differences_of[name] = differences_between(values)
    places = iter(range(len(compared)))
    return tuple(
        _pair(*pair, reason, {} if reason else _at(differences_of, next(places)))
        for pair, reason in zip(pairs, reasons, strict=True)
    )


def _winner(study: StudyContents) -> Finalist | None:
    """The base, where it won."""
    return study.final.finalists[0] if study.final is not None and study.final.finalists else None


def _values(study: StudyContents) -> Values:
    """Of the winner, by metric and read-out; what was selected on the test classes is left out."""
    winner = _winner(study)
    return {
        name if read_out == "last" else f"{name}, {read_out}": {(seed, None): value for seed, value in of.items()}
        for read_out, metrics in (winner.values.items() if winner is not None else ())
        if read_out != "selected"
        for name, of in metrics.items()
        if name != "tied_queries"
    }


def _missing(first: StudyContents, second: StudyContents) -> str | None:
    for study in (first, second):
        if not _values(study):
            return f"no final run of the winner of {study.name} has ended and been evaluated"
    if first.provenance.fingerprint is None or first.provenance.fingerprint != second.provenance.fingerprint:
        return "their images or labels are not the same"
    if _test_fraction(first) != _test_fraction(second):
        return "their test classes are not the same"
    a, b = _values(first), _values(second)
    if not any(a[name].keys() & b[name].keys() for name in a if name in b):
        return "their winners have no seed, or no way of reading out the test classes, in common"
    return None


def _test_fraction(study: StudyContents) -> object:
    data = study.base["data"]
    return data.get("test_fraction") if isinstance(data, dict) else None


def _at(found: dict[str, list[Difference | None]], place: int) -> dict[str, Difference]:
    return {name: pair for name, of_name in found.items() if (pair := of_name[place]) is not None}


def _pair(
    first: StudyContents, second: StudyContents, reason: str | None, metrics: dict[str, Difference]
) -> WinnersPair:
    a, b = _winner(first), _winner(second)
    changes = differences(a.config, b.config) if a is not None and b is not None else ()
    found = {path: (before, after) for path, before, after in changes}
    return WinnersPair.model_validate(
        {"first": first.name, "second": second.name, "changes": found, "metrics": metrics, "missing": reason}
    )

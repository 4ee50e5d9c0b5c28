"""What a protocol asks for and what it has cost, in numbers."""

from __future__ import annotations

from pathlib import Path

from raydml.caveats import departures, differences_from_mlrc
from raydml.config import dump
from raydml.report.phases import Plan, Spent
from raydml.report.reading import plain
from raydml.report.repetitions import spent_on
from raydml.space import Study


def plan_of(study: Study, directory: Path, search: Spent) -> Plan:
    """The parts of the protocol, where they are not the preset's or the paper's, and the budget of every phase."""
    stopping = study.search.early_stopping
    return Plan(
        preset=study.protocol.preset,
        folds=study.base.data.num_folds,
        folds_run=len(study.folds),
        metric=study.search.metric,
        sampler=study.search.sampler,
        num_trials=study.search.num_trials,
        max_hours=study.search.max_hours,
        early_stopping=None if stopping is None else plain(dump(stopping)),
        departures=tuple(departures(study)),
        differences=differences_from_mlrc(study) if study.protocol.preset == "mlrc" else (),
        spent=(search, spent_on(directory, "confirm"), spent_on(directory, "final")),
    )

"""Trainings in numbers: read from their folders, one by one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from raydml import jsonfile, yamlfile
from raydml.config import ConfigError, ExperimentConfig, dump, parse
from raydml.history import Row, read_history, seconds_of
from raydml.report.contents import Metrics, ModelMetrics, Provenance, RunContents
from raydml.report.neighbor_sheets import sheets_of
from raydml.report.reading import curves_of, plain, read_numbers

_SPLITS = ("val", "test")
_OF_A_STUDY = ("trials", "confirm", "final")


def run_contents(directory: Path) -> RunContents:
    """Raises ConfigError naming the file where one is missing or broken."""
    config = _config(directory / "config.yaml")
    rows = read_history(directory)
    meta = _meta(directory)
    return RunContents(
        name="/".join(directory.parts[-3:]),
        directory=str(directory),
        seed=config.seed,
        epochs=len(rows),
        num_epochs=config.training.num_epochs,
        seconds=seconds_of(rows),
        models=tuple(_models(directory, rows, meta)),
        curves=curves_of(rows),
        config=plain(dump(config)),
        provenance=provenance_of(meta),
        neighbors=sheets_of(directory),
    )


def _config(path: Path) -> ExperimentConfig:
    raw = yamlfile.load(path)
    try:
        return parse(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _meta(directory: Path) -> dict[str, object]:
    """What the first checkpoint says of its training; a search keeps those of its best trials only.

    Of a run without one, its study knows as much: a single model of a trial, or of its confirmation, has left out the
    first fold.
    """
    found = [*directory.glob("checkpoint/meta.json"), *sorted(directory.glob("fold*/checkpoint/meta.json"))]
    if found:
        return jsonfile.load(found[0])
    identity = directory.parent.parent / "identity.json"
    if directory.parent.name in _OF_A_STUDY and identity.exists():
        known = of_study(jsonfile.load(identity))
        return known if directory.parent.name == "final" else {**known, "fold": 0}
    return {}


def of_study(identity: dict[str, object]) -> dict[str, object]:
    """What identity.json says of where a study's numbers come from."""
    inner = identity.get("identity")
    fingerprint = inner.get("data_fingerprint") if isinstance(inner, dict) else None
    return {**identity, "fingerprint": fingerprint}


def provenance_of(meta: dict[str, object]) -> Provenance:
    """Fingerprint, versions and commit, as far as they were noted."""
    fingerprint, versions, commit = meta.get("fingerprint"), meta.get("versions"), meta.get("commit")
    return Provenance(
        fingerprint=None if fingerprint is None else str(fingerprint),
        versions={str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
        commit=None if commit is None else str(commit),
    )


def _models(directory: Path, rows: Sequence[Row], meta: dict[str, object]) -> list[ModelMetrics]:
    """Metrics of each model: those of folds in lockstep bear the fold in their name."""
    last = rows[-1] if rows else {}
    named = [found[1] for name in last if (found := re.match(r"fold(\d+)/val/", name))]
    # Models of a final run need not have been validated.
    evaluated = [
        path.parents[2].name.removeprefix("fold") for path in directory.glob("fold*/evaluation/*/metrics.json")
    ]
    folds = sorted({int(fold) for fold in (*named, *evaluated)})
    if not folds:
        fold = meta.get("fold")
        validated = {name: value for name, value in last.items() if name.startswith("val/")}
        return [ModelMetrics(fold=fold if isinstance(fold, int) else None, metrics=_with(validated, directory))]
    return [ModelMetrics(fold=fold, metrics=_with(_of_fold(last, fold), directory / f"fold{fold}")) for fold in folds]


def _of_fold(row: Row, fold: int) -> Metrics:
    prefix = f"fold{fold}/"
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(f"{prefix}val/")}


def _with(metrics: Metrics, directory: Path) -> Metrics:
    """Adds what `raydml.evaluate` left beside the model; what the training itself validated comes first."""
    found = dict(metrics)
    for split in _SPLITS:
        path = directory / "evaluation" / split / "metrics.json"
        if path.exists():
            for name, value in read_numbers(path).items():
                found.setdefault(f"{split}/{name}", value)
    return {name: value for name, value in found.items() if "/num_" not in name}

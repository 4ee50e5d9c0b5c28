"""From folders to plain data: which studies and runs a command line means, and what their files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue, TypeAdapter

from raydml import jsonfile
from raydml.config import ConfigError
from raydml.history import Row, numbers
from raydml.report.contents import Curves

# Where a folder holds runs of one experiment each. A study's page reports on its confirming and final runs itself.
_RUNS = ("train/*",)
# `<study>/confirm`, `<study>/trials`: named by themselves they are runs.
_RUNS_OF_A_PHASE = (*_RUNS, "*")
_NO_CURVE = ("epoch", "step")


@dataclass
class Found:
    """Folders to report on, each once, in the order they were named."""

    studies: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)


def find(names: Sequence[str]) -> Found:
    """The studies and runs that a command line names. Raises ConfigError where one is neither."""
    found = Found()
    for name in names:
        path = Path(name).expanduser().resolve()
        if not path.exists():
            raise ConfigError(f"{name}: no such run")
        folder = path.parent if path.name in ("best.yaml", "study.yaml") else path
        studies, runs = _of_folder(folder)
        if not studies and not runs:
            raise ConfigError(
                f"{name}: neither a study (optuna.journal), nor a run (config.yaml), nor a folder with trainings"
            )
        found.studies += [study for study in studies if study not in found.studies]
        found.runs += [run for run in runs if run not in found.runs]
    return found


def _of_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    if (folder / "config.yaml").is_file():
        return [], [folder]
    of_search = (folder / "optuna.journal").is_file()
    patterns = _RUNS if of_search else _RUNS_OF_A_PHASE
    runs = [run for pattern in patterns for run in sorted(folder.glob(pattern)) if (run / "config.yaml").is_file()]
    return [folder] if of_search else [], runs


def plain(raw: Mapping[str, object]) -> dict[str, JsonValue]:
    """A configuration as `dump` writes it, by the type that a page can hold."""
    return TypeAdapter(dict[str, JsonValue]).validate_python(raw)


def read_numbers(path: Path) -> Row:
    """A file of named numbers. Raises ConfigError."""
    return numbers(jsonfile.load(path), f"{path}")


def curves_of(rows: Sequence[Row]) -> Curves:
    """Every metric that all epochs have, as a list."""
    names = [name for name in (rows[0] if rows else {}) if name not in _NO_CURVE]
    whole = [name for name in names if all(name in row for row in rows)]
    return Curves(
        epochs=tuple(int(row.get("epoch", index)) for index, row in enumerate(rows, start=1)),
        metrics={name: tuple(row[name] for row in rows) for name in whole},
    )

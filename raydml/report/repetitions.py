"""The trainings of a phase of a protocol, read from their folders: ended, interrupted or not begun."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from raydml import yamlfile
from raydml.config import ConfigError, ExperimentConfig, Repeats, parse
from raydml.config.grammar import differences
from raydml.history import Row, read_history, seconds_of
from raydml.identity import without_places
from raydml.repeats import Candidate, Phase, Repetition, repetition
from raydml.report.phases import Repeat, Spent
from raydml.report.reading import plain

State = Literal["not begun", "unfinished", "failed", "not evaluated", "other configuration", "done"]


@dataclass(frozen=True)
class Training:
    """One training of a phase, as far as it has come."""

    planned: Repetition
    rows: list[Row]
    state: State

    @property
    def directory(self) -> Path:
        """Its folder."""
        return self.planned.directory

    @property
    def repeat(self) -> Repeat:
        """As a report holds it."""
        return Repeat(
            name="/".join(self.directory.parts[-2:]),
            seed=self.planned.config.seed,
            state=self.state,
            epochs=len(self.rows),
            num_epochs=self.planned.config.training.num_epochs,
            seconds=seconds_of(self.rows),
        )


def trainings_of(directory: Path, candidate: Candidate, phase: Phase, repeats: Repeats) -> list[Training]:
    """Those that a phase asks for at least, and what a schedule has added. Raises ConfigError for broken files."""
    planned = [repetition(directory, candidate, phase, index) for index in range(repeats.most)]
    return [_training(one) for one in planned if one.index < repeats.seeds or one.directory.exists()]


def _training(planned: Repetition) -> Training:
    rows = read_history(planned.directory)
    if not rows and not (planned.directory / "config.yaml").exists():
        return Training(planned, rows, "not begun")
    if without_places(_config_of(planned.directory)) != without_places(planned.config):
        return Training(planned, rows, "other configuration")
    if planned.failure() is not None:
        return Training(planned, rows, "failed")
    whole = len(rows) >= planned.config.training.num_epochs
    return Training(planned, rows, "done" if whole else "unfinished")


def _config_of(directory: Path) -> ExperimentConfig:
    path = directory / "config.yaml"
    try:
        return parse(yamlfile.load(path))
    except ConfigError as error:
        raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def settings_of(base: ExperimentConfig, config: ExperimentConfig) -> dict[str, JsonValue]:
    """Dotted paths at which a configuration is not the base, with its values."""
    return plain({path: after for path, _, after in differences(without_places(base), without_places(config))})


def value_of(training: Training, name: str) -> float:
    """A metric after the last epoch. Raises ConfigError where it is missing."""
    if name not in training.rows[-1]:
        raise ConfigError(f"{training.directory / 'metrics.jsonl'}: its last epoch has no {name}")
    return training.rows[-1][name]


def spent_on(directory: Path, phase: Phase) -> Spent:
    """What a phase has used, trainings for earlier winners included."""
    histories = [read_history(run) for run in _folders(directory / phase)]
    begun = [rows for rows in histories if rows]
    return Spent(
        phase=phase,
        runs=len(begun),
        epochs=sum(map(len, begun)),
        seconds=sum(map(seconds_of, begun)),
    )


def _folders(phase: Path) -> Iterator[Path]:
    for pattern in ("*-seed*", "earlier-*/*-seed*"):
        yield from sorted(phase.glob(pattern))

"""A study: a base experiment, the ranges searched around it, and how the search is run.

Reads `search_spaces/*.yaml`, applies overrides and proves that no corner of the space breaks a law of the
configuration. Distributions leave as plain data; `raydml.search` makes them Optuna's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from raydml import overrides as overriding
from raydml import yamlfile
from raydml.config import (
    ConfigError,
    Distribution,
    ExperimentConfig,
    Model,
    Protocol,
    Range,
    Resources,
    Scalar,
    SearchConfig,
    distribution_of,
    dump,
    parse,
)
from raydml.config.grammar import get_at, set_at, unknown_key, validate


class Study(Model):
    """One search, or with an empty space one experiment. As written in a study file."""

    name: str
    """Name of the folder of the study below `storage`."""

    base: ExperimentConfig = ExperimentConfig()
    """The experiment around which the space lies."""

    space: dict[str, Range] = Field(default={})
    """What is searched: dotted path of the experiment to its range."""

    search: SearchConfig = SearchConfig()
    """Budget, metric, start points, sampler."""

    protocol: Protocol
    """What a trial is evaluated on: `quick`, or its fields spelled out."""

    resources: Resources = Resources()
    """What one trial occupies."""

    storage: str = "runs"
    """Folder below which studies are kept."""

    checkpoint: str | None = None
    """Checkpoint folder relative to the file, in a `best.yaml`: `evaluate` uses it, `train` does not."""

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(f"a name is letters, digits, dots, dashes and underscores, but got '{value}'")
        return value

    @model_validator(mode="after")
    def _laws(self) -> Study:
        _check_metric(self)
        _check_machines_and_folds(self)
        distributions = self.distributions()
        _check_start(self, distributions)
        _check_corners(self, distributions)
        return self

    def distributions(self) -> dict[str, Distribution]:
        """The distribution of every path of the space, decided by the type of its field."""
        return {path: distribution_of(self.base, path, limits) for path, limits in self.space.items()}

    def experiment(self, point: Mapping[str, Scalar]) -> ExperimentConfig:
        """The base with the values of one point of the space. Raises ConfigError where a law breaks."""
        raw = dump(self.base)
        for path, value in point.items():
            raw = set_at(raw, path, value)
        return parse(raw)

    def start_points(self) -> tuple[dict[str, Scalar], ...]:
        """The start points with every dimension filled in from the base."""
        base = {path: _scalar(get_at(self.base, path)) for path in self.space}
        return tuple({**base, **point} for point in self.search.start)


def _scalar(value: object) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"a range needs a single value in the base, but got {value!r}")
    return value


def metric_names(base: ExperimentConfig) -> tuple[str, ...]:
    """Metrics of an evaluation, without the split they are computed on."""
    return ("map@r", "r_precision", *(f"recall@{k}" for k in base.evaluation.recall_at))


def _check_metric(study: Study) -> None:
    metric = study.search.metric
    if not metric.startswith("val/"):
        raise ValueError(f"search.metric must begin with val/ (no search sees test classes), but got '{metric}'")
    known = [f"val/{name}" for name in metric_names(study.base)]
    if metric not in known:
        raise ValueError(f"search.metric: {unknown_key(metric, known).replace('key', 'metric', 1)}")


def _check_machines_and_folds(study: Study) -> None:
    batch, workers = study.base.data.batch_size, study.resources.workers_per_trial
    if batch % workers:
        raise ValueError(
            "base.data.batch_size must be divisible by resources.workers_per_trial, "
            f"but got data.batch_size={batch}, workers_per_trial={workers}"
        )
    if study.protocol.folds_run > study.base.data.num_folds:
        raise ValueError(
            "protocol.folds_run must not exceed base.data.num_folds, "
            f"but got folds_run={study.protocol.folds_run}, data.num_folds={study.base.data.num_folds}"
        )


def _check_start(study: Study, distributions: Mapping[str, Distribution]) -> None:
    for index, given in enumerate(study.search.start):
        for path in given:
            if path not in distributions:
                raise ValueError(f"search.start.{index}: {unknown_key(path, distributions)}")
    for index, point in enumerate(study.start_points()):
        for path, value in point.items():
            if not distributions[path].contains(value):
                origin = "" if path in study.search.start[index] else " (taken from the base)"
                limits = study.space[path].model_dump(exclude_defaults=True)
                raise ValueError(f"search.start.{index}.{path}: {value}{origin} lies outside its range {limits}")


def _check_corners(study: Study, distributions: Mapping[str, Distribution]) -> None:
    """Every corner of every one, two or three dimensions must be a legal study."""
    for point in _corner_points(distributions):
        try:
            experiment = study.experiment(point)
            _check_machines_and_folds(study.model_copy(update={"base": experiment}))
        except ValueError as error:
            at = ", ".join(f"{path}={value}" for path, value in point.items())
            raise ValueError(f"space: the point {at} is illegal: {error}") from None


def _corner_points(distributions: Mapping[str, Distribution]) -> Iterator[dict[str, Scalar]]:
    for path, distribution in distributions.items():
        yield from ({path: value} for value in distribution.corners())
    for count in (2, 3):
        for paths in itertools.combinations(distributions, count):
            ends = [_ends(distributions[path]) for path in paths]
            yield from (dict(zip(paths, values, strict=True)) for values in itertools.product(*ends))


def _ends(distribution: Distribution) -> Sequence[Scalar]:
    corners = distribution.corners()
    return (corners[0], corners[-1]) if distribution.kind in ("int", "float") else corners


def read(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and validates a study file. Raises ConfigError naming file, dotted path, value and law."""
    return read_with_notes(path, overrides)[0]


def read_with_notes(path: Path, overrides: Sequence[str] = ()) -> tuple[Study, list[str]]:
    """As `read`, with one line for everything an override changed besides its own path."""
    assignments = [overriding.parse_assignment(text) for text in overrides]
    raw = yamlfile.load(path)
    # A file's name is a name, unless the study says otherwise.
    raw.setdefault("name", path.stem)
    raw, notes = overriding.apply(raw, assignments, study_keys=list(Study.model_fields))
    try:
        return validate(Study, raw), notes
    except ConfigError as error:
        source = "command line" if _is_about(str(error), [given for given, _ in assignments]) else str(path)
        raise ConfigError(f"{source}: {error}") from None


def _is_about(message: str, paths: Sequence[str]) -> bool:
    return any(re.match(rf"(base\.)?{re.escape(path)}\b", message) for path in paths)

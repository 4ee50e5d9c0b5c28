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

from raydml import objectives, yamlfile
from raydml import overrides as overriding
from raydml.capacity import require_images_for
from raydml.config import (
    LEARNING,
    ConfigError,
    Distribution,
    ExperimentConfig,
    LibraryConfig,
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
from raydml.config.places import Place, absolute
from raydml.config.protocol import with_preset

# Values of an integer dimension that are all combined with those of others.
_SHORT = 16


# What decides whether a model and a loss can be built at all, beyond the laws of the configuration.
_STRUCTURAL = (
    "model.backbone",
    "model.weights",
    "model.batch_norm",
    "training.precision",
    "training.chunk_size",
    "loss.name",
    "loss.miner",
)


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

    protocol: Protocol = Field(default_factory=lambda: Protocol.model_validate("honest"))
    """What is made of the search: `quick`, `honest`, `mlrc`, `legacy`, or its fields spelled out."""

    resources: Resources = Resources()
    """What one trial occupies."""

    storage: Place = "runs"
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
        _check_sampler(self, distributions)
        objectives.require_possible(self.search, self.base, distributions)
        _check_corners(self, distributions)
        _check_start(self, distributions)
        return self

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that a trial trains on."""
        asked = self.protocol.folds_run
        return tuple(range(self.base.data.num_folds if asked == "all" else asked))

    def distributions(self) -> dict[str, Distribution]:
        """The distribution of every path of the space, decided by the type of its field."""
        return {path: distribution_of(self.base, path, limits) for path, limits in self.space.items()}

    def experiment(self, point: Mapping[str, Scalar]) -> ExperimentConfig:
        """The base with the values of one point of the space. Raises ConfigError where a law breaks."""
        raw = dump(self.base)
        for path, value in point.items():
            raw = set_at(raw, path, value)
        return parse(raw)

    def structures(self) -> tuple[ExperimentConfig, ...]:
        """An experiment for each network and loss that is built, by everything that may be refused then.

        The base is one of them where it is confirmed or tested, whatever the space leaves of it.
        """
        # Learners do not change the network; whether they can share a loss of a library shows when it is made.
        of_library = {"divide.num_learners"} if isinstance(self.base.loss, LibraryConfig) else set()
        structural = {*_STRUCTURAL, *of_library}
        searched = {path: limits for path, limits in self.distributions().items() if path in structural}
        points = _product({path: _near_corners(distribution) for path, distribution in searched.items()})
        found = tuple(self.experiment(point) for point in points)
        again = self.protocol.confirm is not None or self.protocol.final is not None
        return (*found, self.base) if again and self.base not in found else found

    def start_points(self) -> tuple[dict[str, Scalar], ...]:
        """The start points with every dimension filled in from the base."""
        return tuple(
            {path: point[path] if path in point else _base_value(self.base, path, index) for path in self.space}
            for index, point in enumerate(self.search.start)
        )


def _base_value(base: ExperimentConfig, path: str, index: int) -> Scalar:
    value = get_at(base, path)
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"search.start.{index}.{path}: the base has no value here, so the start point must give one")
    return value


def metric_names(base: ExperimentConfig) -> tuple[str, ...]:
    """Metrics of an evaluation, without the split they are computed on."""
    evaluation = base.evaluation
    return ("map@r", "r_precision", *(f"recall@{k}" for k in evaluation.recall_at), *evaluation.metrics)


def _check_metric(study: Study) -> None:
    metric = study.search.metric
    if not metric.startswith("val/"):
        raise ValueError(f"search.metric must begin with val/ (no search sees test classes), but got '{metric}'")
    known = [f"val/{name}" for name in metric_names(study.base)]
    if metric not in known:
        raise ValueError(f"search.metric: {unknown_key(metric, known).replace('key', 'metric', 1)}")


def _check_machines_and_folds(study: Study) -> None:
    require_images_for(study.base, study.resources)
    if len(study.folds) > study.base.data.num_folds:
        raise ValueError(
            "protocol.folds_run must not exceed base.data.num_folds, "
            f"but got folds_run={study.protocol.folds_run}, data.num_folds={study.base.data.num_folds}"
        )


def _check_sampler(study: Study, distributions: Mapping[str, Distribution]) -> None:
    sampler = study.search.sampler
    if study.search.warm_start and sampler not in LEARNING:
        raise ValueError(
            f"search.warm_start: the sampler {sampler} learns from no trial, its own or another's; "
            f"take one of {', '.join(LEARNING)}"
        )
    words = [path for path, distribution in distributions.items() if distribution.kind == "categorical"]
    if sampler == "cmaes" and words:
        # Optuna would draw them at random, and the model of the numbers would take what they do for noise.
        raise ValueError(
            f"search.sampler: cmaes searches numbers only, but the values of {words[0]} have no order; take tpe or gp, "
            "or pin it"
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
    """Every value of a short dimension, every pair of them and every corner of three must be a legal study."""
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
    for paths in itertools.combinations(distributions, 2):
        yield from _product({path: _near_corners(distributions[path]) for path in paths})
    for three in itertools.combinations(distributions, 3):
        corners = {path: distributions[path].corners() for path in three}
        yield from _product({path: (values[0], values[-1]) for path, values in corners.items()})


def _product(values: Mapping[str, Sequence[Scalar]]) -> Iterator[dict[str, Scalar]]:
    return (dict(zip(values, point, strict=True)) for point in itertools.product(*values.values()))


def _near_corners(distribution: Distribution) -> Sequence[Scalar]:
    """All values of a short dimension; of a longer one the ends and, for laws of integers, the second and the third."""
    corners = distribution.corners()
    short = distribution.kind != "int" or len(corners) <= _SHORT
    return corners if short else (*corners[:3], corners[-1])


def read(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and validates a study file. Raises ConfigError naming file, dotted path, value and law."""
    return read_with_notes(path, overrides)[0]


def read_with_notes(path: Path, overrides: Sequence[str] = ()) -> tuple[Study, list[str]]:
    """As `read`, with one line for everything an override changed besides its own path."""
    assignments = [overriding.parse_assignment(text) for text in overrides]
    raw = written = yamlfile.load(path)
    # A file's name is a name, unless the study says otherwise.
    written.setdefault("name", path.stem)
    raw, notes = overriding.apply(raw, assignments, study_keys=list(Study.model_fields))
    try:
        return _with_absolute_places(validate(Study, with_preset(raw))), notes
    except ConfigError as error:
        source = str(path) if _message(written) == str(error) or not overrides else "command line"
        raise ConfigError(f"{source}: {error}") from None


def _with_absolute_places(study: Study) -> Study:
    """The same study to workers that do not run where the command does."""
    found = {name: getattr(study.base.data, name, None) for name in ("root", "images", "cache")}
    moved = {name: absolute(place) for name, place in found.items() if place and place != absolute(place)}
    raw = dump(study)
    for name, place in moved.items():
        raw = set_at(raw, f"base.data.{name}", place)
    return validate(Study, raw) if moved else study


def _message(raw: Mapping[str, object]) -> str:
    """What is wrong with a study; nothing where it is valid."""
    try:
        validate(Study, with_preset(raw))
    except ConfigError as error:
        return str(error)
    return ""

"""The range of one searched dimension as a study file writes it, and the distribution that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from raydml.config.base import ConfigError, Model
from raydml.config.experiment import ExperimentConfig
from raydml.config.grammar import field_types, literal_values
from raydml.config.study import Scalar

Number = int | float


class Range(Model):
    """The values of one dimension, in Optuna's words: `low` and `high` (with `log` or `step`), or `choices`."""

    low: Number | None = None
    """Smallest value, included."""

    high: Number | None = None
    """Largest value, included."""

    log: bool = False
    """Sample the logarithm uniformly."""

    step: Number | None = None
    """Distance of two neighbouring values."""

    choices: tuple[Scalar, ...] | None = None
    """Numbers are an ordered index, words are categories."""

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        plain: dict[str, object] = serialise(self)
        return {key: value for key, value in plain.items() if value is not None and value is not False}

    @model_validator(mode="after")
    def _one_form(self) -> Range:
        if self.choices is not None:
            self._check_choices(self.choices)
        elif self.low is None or self.high is None:
            raise ValueError("a range needs low and high, or choices")
        else:
            self._check_interval(self.low, self.high)
        return self

    def _check_choices(self, choices: tuple[Scalar, ...]) -> None:
        if (self.low, self.high, self.step, self.log) != (None, None, None, False):
            raise ValueError("choices exclude low, high, log and step")
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError(f"choices must be at least two distinct values, but got {list(choices)}")

    def _check_interval(self, low: Number, high: Number) -> None:
        if low >= high:
            raise ValueError(f"low must be below high, but got low={low}, high={high}")
        if self.log and low <= 0:
            raise ValueError(f"a log range needs low above 0, but got low={low}")
        if self.step is not None and (self.log or self.step <= 0):
            raise ValueError(f"step must be positive and excludes log, but got step={self.step}, log={self.log}")


@dataclass(frozen=True)
class Distribution:
    """What to draw for one path; `ordered` draws an index into `choices`."""

    kind: Literal["float", "int", "ordered", "categorical"]
    low: Number = 0
    high: Number = 0
    step: Number | None = None
    log: bool = False
    choices: tuple[Scalar, ...] = ()

    def contains(self, value: Scalar) -> bool:
        """Whether a value of the configuration can be drawn."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool | str) or not self.low <= value <= self.high:
            return False
        offset = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(offset - round(offset)) < 1e-9

    def encode(self, value: Scalar) -> Scalar:
        """What Optuna stores for a value of the configuration."""
        return self.choices.index(value) if self.kind == "ordered" else value

    def decode(self, stored: Scalar) -> Scalar:
        """The value of the configuration for what Optuna stored."""
        return self.choices[int(stored)] if self.kind == "ordered" else stored

    def corners(self) -> tuple[Scalar, ...]:
        """The values a law is checked at: both ends, every choice, every value of a short integer range."""
        if self.choices:
            return self.choices
        values = range(int(self.low), int(self.high) + 1, int(self.step or 1)) if self.kind == "int" else ()
        if 0 < len(values) <= 256:
            return tuple(values)
        # A law of divisibility that holds at two neighbours holds everywhere; three are never all powers of two.
        return (*values[:3], values[-1]) if values else (self.low, self.high)


def distribution_of(base: ExperimentConfig, path: str, limits: Range) -> Distribution:
    """What to draw for a path: the type of its field decides. Raises ValueError naming path and law."""
    try:
        types = field_types(base, path)
    except ConfigError as error:
        raise ValueError(f"space: {error}") from None
    if path == "kind" or path.endswith(".kind"):
        raise ValueError(f"space.{path}: a kind is not searched; make one study for each")
    if path.endswith(".preset"):
        raise ValueError(f"space.{path}: a preset is not searched; search the fields it sets")
    if not all(t in (int, float, str, bool, NoneType) or literal_values(t) for t in types):
        raise ValueError(f"space.{path}: this is a section or a list; only single values are searched")
    if limits.choices is not None:
        numeric = all(isinstance(c, int | float) and not isinstance(c, bool) for c in limits.choices)
        if numeric and list(limits.choices) != sorted(float(c) for c in limits.choices):
            raise ValueError(f"space.{path}: numeric choices must be in rising order, but got {list(limits.choices)}")
        kind: Literal["ordered", "categorical"] = "ordered" if numeric else "categorical"
        return Distribution(kind, high=len(limits.choices) - 1, choices=limits.choices)
    assert limits.low is not None
    assert limits.high is not None
    if float in types:
        return Distribution("float", float(limits.low), float(limits.high), limits.step, limits.log)
    if int in types:
        return _integer_distribution(path, limits.low, limits.high, limits)
    words = [word for alternative in types for word in literal_values(alternative)]
    hint = f"; choose among {', '.join(map(str, words))}" if words else ""
    raise ValueError(f"space.{path}: this field is not a number, so its range must be given as choices{hint}")


def _integer_distribution(path: str, low: Number, high: Number, limits: Range) -> Distribution:
    if any(isinstance(end, float) for end in (low, high, limits.step)):
        raise ValueError(f"space.{path}: this field is an integer, but got low={low}, high={high}, step={limits.step}")
    return Distribution("int", low, high, limits.step, limits.log)

"""What is made of a search: which folds a trial runs, what is confirmed with fresh seeds, what the test classes see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator

from raydml.config.base import Model

PresetName = Literal["quick", "honest", "mlrc", "legacy", "custom"]


class Repeats(Model):
    """How often a configuration is trained again, each time with a fresh seed."""

    seeds: int = Field(ge=1)
    """Fresh seeds, the same ones for every configuration."""

    half_width: float | None = Field(default=None, gt=0.0)
    """Goes on, seed by seed, until every 95 % t-interval of the mean is at most +- this; exactly `seeds` where null."""

    max_seeds: int = Field(default=20, ge=1)
    """Seeds after which it stops however wide the intervals are."""

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> Repeats:
        if self.half_width is None:
            return self
        if self.seeds < 5:
            raise ValueError(
                "half_width needs at least five seeds to begin with: intervals of fewer are narrow by chance too "
                f"often, but got seeds={self.seeds}"
            )
        if self.max_seeds < self.seeds:
            raise ValueError(f"max_seeds must be at least seeds, but got {self.max_seeds} and {self.seeds}")
        return self

    @property
    def most(self) -> int:
        """Seeds in the worst case."""
        return self.seeds if self.half_width is None else self.max_seeds


class Confirm(Repeats):
    """The best trials and the untuned base, trained again on the folds: the winner is named from these runs only."""

    top: int = Field(default=4, ge=1)
    """Configurations of the search that are trained again, the best ones."""

    seeds: int = Field(default=3, ge=1)
    """Fresh seeds, the same ones for every configuration."""


class Final(Repeats):
    """Winner and base, trained on all training classes and evaluated once on the test classes, at the last epoch."""

    seeds: int = Field(default=5, ge=1)
    """Fresh seeds, the same ones for every configuration."""

    models: Literal["one", "folds"] = "one"
    """`one` model of all training classes; or one for each of the `folds` that are run, evaluated one by one and
    concatenated (Musgrave et al. 2020)."""

    best_epoch_on_test: bool = False
    """Evaluates the test classes after every epoch and reports the best one beside the last: selected on test, for
    comparison with papers that do so."""

    @model_validator(mode="after")
    def _one_model_has_one_curve(self) -> Final:
        if self.best_epoch_on_test and self.models == "folds":
            raise ValueError("best_epoch_on_test needs models=one: the papers that select on test train one model")
        return self


@dataclass(frozen=True)
class Preset:
    """What a named protocol sets, as plain data; what a file says comes before it."""

    protocol: Mapping[str, object]
    search: Mapping[str, object] = field(default_factory=dict)
    data: Mapping[str, object] = field(default_factory=dict)


PRESETS: Mapping[str, Preset] = {
    "quick": Preset({"folds_run": 1, "confirm": None, "final": None}, {"num_trials": 15}),
    "honest": Preset(
        {"folds_run": "all", "confirm": {"top": 4, "seeds": 3}, "final": {"seeds": 5}}, {"num_trials": 25}
    ),
    # Musgrave, Belongie and Lim 2020: 50 trials of a Gaussian process, four folds, the best one ten times.
    "mlrc": Preset(
        {"folds_run": "all", "confirm": None, "final": {"seeds": 10, "models": "folds"}},
        {"num_trials": 50, "sampler": "gp", "early_stopping": None},
        {"num_folds": 4},
    ),
    "legacy": Preset(
        {"folds_run": 1, "confirm": None, "final": {"seeds": 5, "best_epoch_on_test": True}}, {"num_trials": 25}
    ),
}


class Protocol(Model):
    """What a trial is evaluated on and what becomes of the best ones. A preset by name, or its fields spelled out."""

    preset: PresetName = "custom"
    """`quick`: one fold, nothing confirmed, exploratory. `honest`: all folds, confirmed, the test classes seen once.
    `mlrc`: the budget of Musgrave et al. 2020. `legacy`: selected on test beside the last epoch, as many papers do."""

    folds_run: int | Literal["all"] = Field(default=1)
    """Folds a trial trains on, epoch by epoch in lockstep; its curve is their mean."""

    confirm: Confirm | None = None
    """Fresh seeds for the best trials and the base; none where null: the best trial is the winner."""

    final: Final | None = None
    """Test classes for winner and base; none where null."""

    @model_validator(mode="before")
    @classmethod
    def _preset_comes_first(cls, value: object) -> object:
        if isinstance(value, str):
            if value not in PRESETS:
                known = ", ".join(PRESETS)
                raise ValueError(f"unknown protocol '{value}'; known: {known}, or its fields ({{folds_run: 4}})")
            value = {"preset": value}
        if not isinstance(value, Mapping):
            return value
        name = value.get("preset")
        preset = PRESETS.get(name) if isinstance(name, str) else None
        return value if preset is None else merged(preset.protocol, value)

    @model_validator(mode="after")
    def _at_least_one_fold(self) -> Protocol:
        if self.folds_run != "all" and self.folds_run < 1:
            raise ValueError(f"folds_run must be at least 1, or all, but got {self.folds_run}")
        return self


def with_preset(raw: Mapping[str, object]) -> dict[str, object]:
    """A study as plain data, with the trials, sampler and folds of its preset where it says nothing of them."""
    protocol = raw.get("protocol", "honest")
    name = protocol.get("preset") if isinstance(protocol, Mapping) else protocol
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return dict(raw)
    laid = merged({"search": preset.search}, raw)
    base = laid.get("base")
    # A section of data names its kind; a study without one has the default's, and the preset's folds are those.
    if isinstance(base, Mapping) and isinstance(base.get("data"), Mapping):
        laid["base"] = merged({"data": preset.data}, base)
    return laid


def merged(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """`above` laid over `below`, section by section; a null or a value replaces a whole section."""
    laid = dict(below)
    for key, value in above.items():
        under = laid.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        laid[key] = merged(under, value) if both else value  # type: ignore[arg-type]
    return laid

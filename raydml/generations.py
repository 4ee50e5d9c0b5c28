"""CMA-ES between two trials: the state of a generation as numbers in the trial that begins it.

Optuna keeps it there pickled, and unpickles what it finds: whoever can write a study's journal would run code in the
next search of that study (Optuna 5.0). Here nothing pickled is taken out of a study, nor put into one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from raydml.config import ConfigError

if TYPE_CHECKING:
    from cmaes import CMA

STATE = "raydml:cmaes"
"""Attribute of the trial that begins a generation."""
_PICKLED = "cma:optimizer"
_DTYPES = ("float64", "int64")


def without_pickles(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials as a sampler may see them: without what Optuna would unpickle."""
    return [_plain(trial) if any(map(_is_pickled, trial.system_attrs)) else trial for trial in trials]


def _is_pickled(name: str) -> bool:
    return name.startswith(_PICKLED)


def _plain(trial: FrozenTrial) -> FrozenTrial:
    plain = copy(trial)
    plain.system_attrs = {name: value for name, value in trial.system_attrs.items() if not _is_pickled(name)}
    return plain


class PlainCmaEsSampler(CmaEsSampler):
    """Optuna's CMA-ES, which finds and leaves its state as JSON.

    Optuna documents no way to say how a state is kept: a test notices where these two methods are no longer asked.
    """

    _optimizer: CMA

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> CMA | None:
        found = next((trial for trial in reversed(completed_trials) if STATE in trial.system_attrs), None)
        if found is None:
            return None
        self._optimizer = _optimizer_of(found)
        return self._optimizer

    def _init_optimizer(self, *arguments: Any, **more: Any) -> CMA:  # noqa: ANN401
        self._optimizer = super()._init_optimizer(*arguments, **more)
        return self._optimizer

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        del optimizer_str  # pickled
        return {STATE: _text_of(self._optimizer)}


def _text_of(optimizer: CMA) -> str:
    return json.dumps({name: _written(value) for name, value in optimizer.__getstate__().items()})


def _written(value: object) -> object:
    """A number, or an array with the type that its arithmetic is done in."""
    if isinstance(value, np.ndarray | np.generic):
        return {"dtype": str(value.dtype), "values": value.tolist()}
    return value


def _optimizer_of(trial: FrozenTrial) -> CMA:
    """Raises ConfigError where a trial holds no such state."""
    from cmaes import CMA

    optimizer = CMA(mean=np.zeros(1), sigma=1.0)
    try:
        state = {name: _read(value) for name, value in json.loads(trial.system_attrs[STATE]).items()}
        if state.keys() != optimizer.__getstate__().keys():
            raise ValueError("other names than this version of cmaes has")
        optimizer.__setstate__(state)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"search.sampler: cmaes cannot go on from trial {trial.number}: no state of a generation: {error}"
        ) from None
    return optimizer


def _read(value: object) -> object:
    if isinstance(value, dict):
        if value["dtype"] not in _DTYPES:
            raise ValueError(f"numbers of type {value['dtype']}")
        return np.array(value["values"], dtype=value["dtype"])[()]
    if value is not None and not isinstance(value, int | float):
        raise ValueError(f"{type(value).__name__} where a number belongs")
    return value

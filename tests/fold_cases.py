"""What the tests of folds that take turns share: a device whose memory holds one model."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from raydml.data.pixels import PixelSource
from raydml.distributed import rank
from raydml.epoch import train_epoch
from raydml.model_training import ModelTraining
from raydml.training import Run, RunSpec
from tests.conftest import tiny_experiment

HOST = torch.device("cpu")
Row = dict[str, float]


class Memory:
    """Counts what is alive, and runs out where more models train than fit."""

    def __init__(
        self, fits: int = 99, *, after: int = 0, on_rank: int = 0, opening: bool = False, late: bool = False
    ) -> None:
        """It is smaller `after` so many epochs; `late` at the end of one, when the model in memory has changed."""
        self._fits, self._after, self._on_rank, self._opening, self._late = fits, after, on_rank, opening, late
        self._models: weakref.WeakSet[ModelTraining] = weakref.WeakSet()
        self._sources: weakref.WeakSet[PixelSource] = weakref.WeakSet()
        self.most_models = self.most_sources = self.epochs = 0

    def __enter__(self) -> Memory:
        self._patches = ExitStack()
        of_model = _noting(self._models, ModelTraining.__init__, self.opened)
        of_source = _noting(self._sources, PixelSource.__init__, lambda: None)
        self._patches.enter_context(mock.patch.object(ModelTraining, "__init__", of_model))
        self._patches.enter_context(mock.patch.object(PixelSource, "__init__", of_source))
        self._patches.enter_context(mock.patch("raydml.model_training.train_epoch", self.train_epoch))
        return self

    def __exit__(self, *exception: object) -> None:
        self._patches.close()

    def opened(self) -> None:
        if self._opening:
            self._require_room()

    def train_epoch(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ANN401
        self.most_models = max(self.most_models, len(self._models))
        self.most_sources = max(self.most_sources, len(self._sources))
        if not self._late:
            self._require_room()
        metrics = train_epoch(*args, **kwargs)
        if self._late:
            self._require_room()
        self.epochs += 1
        return metrics

    def _require_room(self) -> None:
        if self.epochs >= self._after and len(self._models) > self._fits and rank() == self._on_rank:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory ...")


def _noting(alive: weakref.WeakSet[Any], init: Callable[..., None], then: Callable[[], None]) -> Callable[..., None]:
    def noted(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        init(self, *args, **kwargs)
        alive.add(self)
        then()

    return noted


def on_a_rank(cache: Path, folder: Path) -> dict[str, Any]:
    """What a rank of two sees: undisturbed; with too little memory on rank 1, and again; stopped between two folds."""
    config = tiny_experiment(cache)
    specs = {name: RunSpec(config, folder / name, folds=(0, 1)) for name in ("whole", "short", "stopped")}
    seen: dict[str, Any] = {"whole": _rows(specs["whole"]), "error": ""}
    with Memory(1, on_rank=1) as memory:
        run = Run(specs["short"], device=HOST)
        try:
            # Rank 0 would wait for gradients that never come, until whoever runs the group ends it.
            if rank() == 1:
                run.advance()
        except RuntimeError as error:
            seen["error"] = f"{type(error).__name__}: {error}"
        run.close()
        del run
        memory.most_models = 0
        seen["short"], seen["models"] = _rows(specs["short"]), memory.most_models
    run = Run(specs["stopped"], device=HOST)
    run._models[0].metrics_of(1)
    run.close()
    seen["stopped"] = _rows(specs["stopped"])
    return seen


def _rows(spec: RunSpec) -> list[Row]:
    run = Run(spec, device=HOST)
    rows = [row for row in (run.advance() for _ in range(run.num_epochs)) if row is not None]
    run.close()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

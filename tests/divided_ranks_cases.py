"""What every rank of tests/test_divided_ranks.py computes, and the single process it is compared with.

Apart from the tests because spawned processes import it by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from raydml.config import ExperimentConfig
from raydml.data.batches import Batch, training_batches
from raydml.distributed import rank, share, world_size
from raydml.epoch import TrainingState, TrainingStoppedError, new_state, train_epoch
from raydml.models import EmbeddingModel
from raydml.objective import DataShape
from raydml.training import Run, RunSpec
from tests.conftest import changed, tiny_experiment
from tests.learner_cases import CLASSES, NUM_CLASSES, subset_of

WORLDS = (4, 3, 2)
_SHAPE = DataShape(num_classes=NUM_CLASSES, in_channels=1, image_size=16, mean=(0.5,), std=(0.25,))
_CPU = torch.device("cpu")
_NAMES = (0, 2, 2, 3, 0, 0, 2, 3, 5, 5, 5, 3, 6, 6)
"""Fourteen images: three workers have 4, 5 and 5 of them."""
Result = dict[str, Tensor]
_EXPANDED: Mapping[str, object] = {"num_expansions": 2, "schedule": "constant", "final_fraction": 0.6}


@dataclass(frozen=True)
class Case:
    """A divided training."""

    loss: Mapping[str, object]
    divide: Mapping[str, object] = field(default_factory=dict)
    see: Mapping[str, object] = field(default_factory=dict)
    precision: str = "float64"
    batch_norm: str = "frozen"
    """Synchronised, which takes most of the time of these tests, only where it matters."""

    @property
    def name(self) -> str:
        more = ["see", *self.see.values()] if self.see else []
        return " ".join(map(str, (*self.loss.values(), *self.divide.values(), *more, self.precision, self.batch_norm)))


PROXY_ANCHOR: Mapping[str, object] = {"kind": "proxy_anchor"}
PER_CLASS: Mapping[str, object] = {"kind": "margin", "learn_beta": "per_class"}
CASES = (
    Case({"kind": "discriminate"}, batch_norm="synchronised"),
    Case(PER_CLASS),
    Case(PROXY_ANCHOR),
    Case({"kind": "soft_triple"}),
    Case({"kind": "curricularface"}),
    Case(PROXY_ANCHOR, see=_EXPANDED),
    # Moving averages: of the first two images of a class both are as near to their mean, which no rank may decide.
    Case({"kind": "discriminate"}, {"round_length": "max"}, see=_EXPANDED),
    Case({"kind": "contrastive", "memory": {"size": 40}}, {"cluster_on": "embeddings"}),
    Case(PER_CLASS, {"inactive_slices": "frozen"}),
    Case(PROXY_ANCHOR, {"masks": "learned", "normalise": "whole"}),
    Case(PROXY_ANCHOR, {"hierarchical": True, "cluster_by": "class"}),
)
SINGLE = tuple(replace(case, precision="float32") for case in CASES[:3])
FEW = Case(PROXY_ANCHOR, batch_norm="synchronised")
_SOME = (CASES[0], CASES[5])
RUNS = {4: _SOME, 3: (*CASES[:2], *CASES[5:]), 2: _SOME, 1: CASES}
"""Whole trainings take time: most of them on three ranks, whose shares are uneven, and on the others some."""


def config_of(case: Case, cache: Path) -> ExperimentConfig:
    """Four epochs of SGD, which hides no wrong scale; clustered before the first three, joined from epoch 2 on."""
    divide = {"num_learners": 4, "recluster_epochs": 1, "full_embedding_epoch": 2, "conquer_epoch": 3}
    return changed(
        tiny_experiment(cache),
        loss=case.loss,
        see=case.see,
        divide={**divide, **case.divide},
        model__embedding_dim=14,
        model__batch_norm=case.batch_norm,
        optimizer={"kind": "sgd", "lr": 0.02, "loss_lr": 0.2, "momentum": 0.9, "weight_decay": 0.01},
        training={"num_epochs": 4, "steps_per_epoch": 2, "precision": case.precision},
        data__augment={"smallest_crop": 0.6, "flip": 0.5},
    )


def everything(folder: Path, cache: Path) -> dict[str, Any]:
    """All results of this rank, by name; without a process group, those of the single process."""
    folder /= str(world_size())
    results: dict[str, Any] = {}
    for case in (*CASES, *SINGLE):
        results[f"divide {case.name}"] = one_step(case, cache, epoch=1)
        if world_size() in (1, 3):
            results[f"full {case.name}"] = one_step(case, cache, epoch=2)
    for number, case in enumerate(RUNS[world_size()]):
        results[f"run {case.name}"] = whole_run(case, folder / str(number), cache)
    results["few"] = one_step(FEW, cache, epoch=0, names=(0, 2))
    results["broken"] = broken_run(CASES[2], folder / "broken", cache)
    return results


def one_step(case: Case, cache: Path, *, epoch: int, names: Sequence[int] = _NAMES) -> Result:
    """Loss, gradients, moves and buffers after a step of learner 2 or, in the full stage, of all."""
    config = changed(config_of(case, cache), divide__hierarchical=False, divide__freeze_epochs=0)
    state = new_state(config, _SHAPE, steps_per_epoch=1, device=_CPU)
    state.epoch = epoch
    before = {name: p.detach().clone() for name, p in state.objective.named_parameters()}
    images = torch.randint(0, 256, (len(names), 1, 16, 16), generator=torch.Generator().manual_seed(1)).byte()
    mine = share(len(names), rank(), world_size())
    labels = torch.tensor(names)
    batch = Batch(images[mine], labels[mine], torch.arange(len(names))[mine], num_global=len(names), learner=2)
    metrics = train_epoch(state, [batch], device=_CPU, subsets=[subset_of(CLASSES)] * 4)
    moves = {f"move.{name}": p.detach() - before[name] for name, p in state.objective.named_parameters()}
    # Clones, because a gradient may be a view of all that is sent at once.
    learned = {name: p.grad for name, p in state.objective.named_parameters() if p.grad is not None}
    gradients = {f"gradient.{name}": gradient.clone() for name, gradient in learned.items()}
    buffers = {f"buffer.{name}": b.clone() for name, b in state.objective.named_buffers()}
    return {"loss": torch.tensor(metrics["loss"], dtype=torch.float64), **moves, **gradients, **buffers}


@contextmanager
def recorded(seen: list[tuple[list[list[int]], list[int]]]) -> Iterator[None]:
    """Notes the global batches of every epoch, and whose they are."""

    def noting(*arguments: Any, **options: Any) -> Iterator[Batch]:  # noqa: ANN401
        seen.append(([row.tolist() for row in arguments[2]], list(options["learners"] or [])))
        return training_batches(*arguments, **options)

    with mock.patch("raydml.model_training.training_batches", noting):
        yield


def whole_run(case: Case, directory: Path, cache: Path) -> dict[str, Any]:
    """All epochs of a training of all classes: batches, metrics, divisions and the last parameters."""
    batches: list[tuple[list[list[int]], list[int]]] = []
    divisions: list[Tensor] = []
    with recorded(batches):
        run = Run(RunSpec(config_of(case, cache), directory, "trainval"), device=_CPU)
        while run.advance() is not None:
            divisions.append(_division(state_of(run)))
        run.close()
    state = state_of(run)
    rows = [{name: x for name, x in row.items() if not name.endswith("seconds")} for row in run.history]
    parameters = {name: x.clone() for name, x in state.objective.state_dict().items()}
    return {"batches": batches, "divisions": divisions, "rows": rows, "parameters": parameters}


def state_of(run: Run) -> TrainingState:
    return run._models[0]._state


def _division(state: TrainingState) -> Tensor:
    return torch.full((1,), -1) if state.division is None else state.division.learners.clone()


def broken_run(case: Case, directory: Path, cache: Path) -> str:
    """The message with which a training ends where the last rank's second clustering sees one NaN."""
    right, calls = EmbeddingModel.unit_features, 0

    def broken(model: EmbeddingModel, images: Tensor) -> Tensor:
        nonlocal calls
        rows, calls = right(model, images).clone(), calls + 1
        if calls > 1 and rank() == world_size() - 1:
            rows[1, 0] = torch.nan
        return rows

    with mock.patch.object(EmbeddingModel, "unit_features", broken):
        run = Run(RunSpec(config_of(case, cache), directory, "trainval"), device=_CPU)
        try:
            while run.advance() is not None:
                pass
        except TrainingStoppedError as error:
            return f"after {len(run.history)} epochs: {error}"
        finally:
            run.close()
    return "nothing happened"

"""Folds that do not fit into the memory of one of several workers: the group ends, and the next goes on one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch

from raydml.capacity import Worker
from raydml.recorded import Task
from raydml.space import read
from raydml.training import RunSpec
from raydml.workers import WorkerGroup
from tests.fold_cases import Memory
from tests.integration.studies import write_study
from tests.training_cases import train

Values = dict[str, object]


@dataclass(frozen=True)
class ShortOfMemory(RunSpec):
    """Where it arrives, the memory of rank 1 holds one model."""

    def __reduce__(self) -> tuple[Callable[[Values], RunSpec], tuple[Values]]:
        return _arrived, ({field.name: getattr(self, field.name) for field in fields(self)},)


def _arrived(values: Values) -> RunSpec:
    Memory(1, on_rank=1).__enter__()
    return RunSpec(**values)  # type: ignore[arg-type]


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_here")
def test_one_of_two_workers_runs_out_and_the_group_starts_again(tmp_path: Path, cache: Path) -> None:
    base = read(write_study(tmp_path, cache), ["training.precision=float64", "training.num_epochs=2"]).base
    rows: list[dict[str, float]] = []
    train(RunSpec(base, tmp_path / "plain", folds=(0, 1)), device=torch.device("cpu"), report=rows.append)
    spec = ShortOfMemory(base, tmp_path / "run", folds=(0, 1))
    group = WorkerGroup(Task(spec, {}, Worker(1.0, 0.0)), num_workers=2, max_failures=1)
    reported = list(group.epochs())
    group.close()
    assert (spec.directory / "one_fold_at_a_time").exists()
    for ours, theirs in zip(reported, rows, strict=True):
        assert {**ours, "seconds": 0} == pytest.approx({**theirs, "seconds": 0}, rel=1e-8)

"""How far the training of 2, 3 and 4 workers is from that of one, for every loss: law 1 of the design as a table.

    python -m tests.benchmarks.data_parallel [--backbone test_vit] [--steps 30]

Spawned processes on gloo; 16 images of 4 classes, cut 8 / 8, 5 / 5 / 6 and 4 / 4 / 4 / 4; the images of a class lie on
different workers. A difference is the norm of all gradients' (parameters') difference over the norm, the largest over
the three sizes of the group. Asserts nothing: tests/test_distributed.py does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import torch.multiprocessing
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tests.data_parallel_cases import LOSSES, WITH_MEMORY, Case, Result, first_step, trajectory
from tests.ranks import in_groups

_WORLDS = (2, 3, 4)
_PRECISIONS = ("float32", "float64")
_PARTS = ("model", "loss")
Results = dict[str, tuple[Result, Result]]
"""First step and trajectory, by case."""


@dataclass(frozen=True)
class Plan:
    """What every rank computes."""

    backbone: str
    num_steps: int

    def results(self) -> Results:
        """Of this rank; without a process group, those of the single process."""
        return {case.name: (first_step(case), trajectory(case, num_steps=self.num_steps)) for case in self.cases()}

    def cases(self) -> list[Case]:
        """Every loss in both precisions."""
        losses = (*LOSSES, *WITH_MEMORY)
        return [Case(loss, precision=p, backbone=self.backbone) for loss, p in product(losses, _PRECISIONS)]


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str) -> float | None:
    """Relative difference of all tensors whose names start so; None where there is none."""
    names = sorted(name for name in expected if name.startswith(prefix))
    if not names:
        return None
    ours, theirs = (torch.cat([side[name].flatten().double() for name in names]) for side in (found, expected))
    return float((ours - theirs).norm() / theirs.norm())


def largest(values: Sequence[float | None]) -> str:
    """The largest difference as text."""
    numbers = [value for value in values if value is not None]
    return f"{max(numbers):.0e}" if numbers else "-"


def table(
    plan: Plan, alone: dict[str, tuple[Result, Result]], groups: Sequence[dict[str, tuple[Result, Result]]]
) -> Table:
    """One line a loss."""
    shown = Table(title=f"Largest relative difference between 1 worker and {_WORLDS} workers, {plan.backbone}")
    shown.add_column("loss")
    for what, precision, part in product(("gradient", f"{plan.num_steps} steps"), _PRECISIONS, _PARTS):
        shown.add_column(f"{what}\n{precision}\n{part}", justify="right")
    for loss in (*LOSSES, *WITH_MEMORY):
        cells = []
        for (step, kind), precision, part in product(enumerate(("gradient", "parameter")), _PRECISIONS, _PARTS):
            name = Case(loss, precision=precision, backbone=plan.backbone).name
            cells.append(largest([difference(g[name][step], alone[name][step], f"{kind}.{part}") for g in groups]))
        shown.add_row(" ".join(map(str, loss.values())), *cells)
    return shown


def main() -> None:
    """Computes and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="test_vit", help="any backbone of timm that takes images of 16 x 16")
    parser.add_argument("--steps", type=int, default=30, help="steps of SGD with momentum")
    options = parser.parse_args()
    plan = Plan(options.backbone, options.steps)
    with tempfile.TemporaryDirectory() as name:
        found = in_groups(plan.results, worlds=_WORLDS, folder=Path(name), timeout_s=600.0)
    groups = [found[world][0] for world in _WORLDS]
    torch.set_num_threads(1)
    Console(width=160).print(table(plan, plan.results(), groups))


if __name__ == "__main__":
    main()

"""What the tests of trainings that are asked to leave share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from raydml.config import ExperimentConfig
from raydml.distributed import Agreement, rank, world_size
from raydml.epoch import TrainingLeftError, stay
from raydml.training import Run, RunSpec
from tests.divided_cases import HOST

Row = dict[str, float]
_MOST_PROCESSES = 50


class Leaver:
    """Asks a training to leave when it has been asked so often; it is asked before an epoch and after every step."""

    def __init__(self, after: int) -> None:
        self._after, self._asked = after, 0

    def __call__(self) -> bool:
        self._asked += 1
        return self._asked >= self._after


def in_processes(spec: RunSpec, patience: Iterator[int]) -> tuple[list[Row], list[tuple[int, int]]]:
    """A training by processes that leave after so many questions each; where they left, as (epoch, step)."""
    left: list[tuple[int, int]] = []
    while len(left) < _MOST_PROCESSES:
        torch.manual_seed(len(left))  # another process has drawn other numbers
        run = Run(spec, device=HOST, leave=Leaver(next(patience)))
        rows: list[Row] = []
        try:
            while (row := run.advance()) is not None:
                rows.append(row)
        except TrainingLeftError as error:
            left.append((error.epoch, error.step))
        finally:
            run.close()
        if len(rows) == run.num_epochs:
            return rows, left
    raise AssertionError("it leaves and leaves, and comes no further")


def on_a_rank(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """What a rank of two sees of a training that rank 1 is asked to leave, and of what follows."""
    spec = RunSpec(config, folder / "left")
    asked = Leaver(1)
    run = Run(spec, device=HOST, leave=Agreement(lambda: rank() == 1 and asked(), device=HOST))
    place = None
    try:
        while run.advance() is not None:
            pass
    except TrainingLeftError as error:
        place = (error.epoch, error.step)
    run.close()
    return {"left": place, "rest": _rows(spec), "whole": _rows(RunSpec(config, folder / "whole"))}


def in_a_group(config: ExperimentConfig, folder: Path, patience: dict[int, int]) -> Row:
    """The last metrics of this rank in a group that leaves after so many questions, by its size; 0 stays to the end."""
    after = patience[world_size()]
    leave = Agreement(Leaver(after), device=HOST) if after else stay
    run = Run(RunSpec(config, folder), device=HOST, leave=leave)
    rows: list[Row] = []
    with suppress(TrainingLeftError):
        while (row := run.advance()) is not None:
            rows.append(row)
    run.close()
    return rows[-1] if rows else {}


def _rows(spec: RunSpec) -> list[Row]:
    run = Run(spec, device=HOST)
    rows = [row for row in (run.advance() for _ in range(run.num_epochs)) if row is not None]
    run.close()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

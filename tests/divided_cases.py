"""What the tests of divided trainings share: configurations, and whether two runs are one, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raydml import checkpoint
from raydml.config import ExperimentConfig
from raydml.history import read_history
from raydml.training import Run, RunSpec
from tests.conftest import changed

HOST = torch.device("cpu")
Fields = Mapping[str, object]
Row = dict[str, float]

DIVIDE: Fields = {"num_learners": 4, "recluster_epochs": 2, "full_embedding_epoch": 3, "conquer_epoch": 5}
"""Of six epochs: clusterings before 0, 2 and 4, of which the last is in the full stage."""
NUM_EPOCHS = 6
SEE: Fields = {"num_expansions": 3, "schedule": "constant", "final_fraction": 0.5, "weight": 0.7}
"""As many expansions as four dimensions have room for."""


def divided(tiny: ExperimentConfig, divide: Fields | None = None, **values: object) -> ExperimentConfig:
    """Six epochs of three steps on 72 images of 9 classes; `divide` adds to the section."""
    base = changed(tiny, training__num_epochs=NUM_EPOCHS, divide={**DIVIDE, **(divide or {})})
    return changed(base, **values)


def trained(config: ExperimentConfig, directory: Path, *, epochs: int | None = None) -> list[Row]:
    """Metrics of the epochs of one process."""
    run = Run(RunSpec(config, directory), device=HOST)
    count = run.num_epochs if epochs is None else epochs
    rows = [row for row in (run.advance() for _ in range(count)) if row is not None]
    run.close()
    return rows


def timeless(rows: list[Row]) -> list[Row]:
    """Rows without what is another number in every run."""
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint's model and loss hold."""
    return checkpoint.load_objective(directory / "checkpoint")[0].state_dict()


def stored(directory: Path) -> Any:  # noqa: ANN401
    """The optimizer's state and the division."""
    return torch.load(directory / "checkpoint" / "state.pt", weights_only=True)


def assert_equal_trainings(ours: Path, theirs: Path, *, prefix: str = "") -> None:
    """Metrics but durations, and weights whose names start so, to the bit."""
    assert timeless(read_history(ours)) == timeless(read_history(theirs))
    found, expected = weights(ours), weights(theirs)
    assert {name for name in found if name.startswith(prefix)} == {n for n in expected if n.startswith(prefix)}
    torch.testing.assert_close(
        {name: x for name, x in found.items() if name.startswith(prefix)},
        {name: x for name, x in expected.items() if name.startswith(prefix)},
        rtol=0,
        atol=0,
    )


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    """The same trainings, optimizers and divisions, to the bit."""
    assert_equal_trainings(ours, theirs)
    torch.testing.assert_close(stored(ours), stored(theirs), rtol=0, atol=0)

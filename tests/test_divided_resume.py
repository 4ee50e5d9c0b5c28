"""Divided trainings resume exactly: a process for each epoch gives what one process does, across every boundary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydml import checkpoint
from raydml.config import ConfigError, ExperimentConfig
from raydml.history import read_history
from raydml.training import Run, RunSpec
from tests.conftest import changed
from tests.divided_cases import HOST, NUM_EPOCHS, SEE, Fields, assert_equal_runs, divided, stored, timeless, trained

MARGIN: Fields = {"kind": "margin", "learn_beta": "per_class"}
MEMORY: Fields = {**MARGIN, "memory": {"size": 40}}
CASES: dict[str, tuple[Fields, dict[str, object]]] = {
    "discriminate": ({}, {}),
    "proxies": ({}, {"loss": {"kind": "proxy_anchor"}}),
    "doubled": ({"hierarchical": True, "recluster_epochs": 1}, {"loss": {"kind": "proxy_anchor"}}),
    "masks": ({"masks": "learned", "normalise": "whole"}, {"loss": {"kind": "soft_triple"}}),
    "margin, frozen": ({"inactive_slices": "frozen"}, {"loss": MARGIN}),
    "memory, as many steps as images": ({"round_length": "max"}, {"loss": MEMORY}),
    "curriculum, resting": ({"freeze_epochs": 1}, {"loss": {"kind": "curricularface"}}),
    "see": ({}, {"loss": {"kind": "proxy_anchor"}, "see": SEE}),
    "see, prototypes, memory": ({"cluster_on": "embeddings"}, {"loss": MEMORY, "see": SEE}),
    "see, auxiliary, sgd": (
        {"cluster_by": "class", "num_learners": 2},
        {"see": {**SEE, "prototypes": "auxiliary"}, "optimizer": {"kind": "sgd", "lr": 0.01}},
    ),
}


def in_parts(config: ExperimentConfig, directory: Path) -> list[dict[str, float]]:
    """Every epoch in a process of its own; each has drawn other random numbers before."""
    for epoch in range(NUM_EPOCHS):
        torch.manual_seed(epoch)
        run = Run(RunSpec(config, directory), device=HOST)
        for _ in range(epoch + 1):
            run.advance()
        run.close()
    return read_history(directory)


@pytest.mark.parametrize("case", CASES)
def test_epoch_by_epoch_is_the_whole(case: str, tiny: ExperimentConfig, tmp_path: Path) -> None:
    """Re-clustered before epochs 0, 2 and 4, all dimensions from 3 on, all images from 5 on."""
    divide, values = CASES[case]
    config = divided(tiny, divide, data__augment={"smallest_crop": 0.5, "flip": 0.5}, **values)
    rows = trained(config, tmp_path / "whole")
    assert timeless(in_parts(config, tmp_path / "parts")) == timeless(rows)
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_division_of_a_checkpoint_is_the_last_one(epochs: int, tiny: ExperimentConfig, tmp_path: Path) -> None:
    """Before what no learner can use is left out: the next clustering is matched with all images."""
    rows = trained(divided(tiny), tmp_path, epochs=epochs)
    division = stored(tmp_path)["division"]
    state = checkpoint.load(tmp_path / "checkpoint", device=HOST)
    assert state.division is not None
    assert torch.equal(state.division.learners, division["learners"])
    last = rows[(epochs - 1) // 2 * 2]
    assert torch.bincount(division["learners"]).tolist() == [last[f"divide/size/{k}"] for k in range(4)]
    assert (division["num_learners"], division["epoch"]) == (4, (epochs - 1) // 2 * 2)


@pytest.mark.parametrize(("path", "value"), [("data__render_seed", 5), ("data__images_per_class", 7)])
def test_a_division_of_other_images_is_refused(path: str, value: int, tiny: ExperimentConfig, tmp_path: Path) -> None:
    trained(divided(tiny), tmp_path, epochs=1)
    with pytest.raises(ConfigError, match="other data"):
        Run(RunSpec(changed(divided(tiny), **{path: value}), tmp_path), device=HOST)


def test_another_division_is_another_experiment(tiny: ExperimentConfig, tmp_path: Path) -> None:
    trained(divided(tiny), tmp_path, epochs=1)
    with pytest.raises(ConfigError, match=r"divide\.recluster_epochs=2, but got 3"):
        Run(RunSpec(divided(tiny, {"recluster_epochs": 3}), tmp_path), device=HOST)

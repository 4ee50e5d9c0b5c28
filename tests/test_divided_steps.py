"""What moves in a learner's step: with frozen slices only its own; and the backbone, but where it rests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raydml.config import ExperimentConfig
from raydml.data.batches import Batch
from raydml.epoch import NonFiniteLossError, TrainingState, new_state, train_epoch
from raydml.objective import DataShape
from raydml.training import Run, RunSpec
from tests.conftest import changed
from tests.divided_cases import HOST, SEE, Fields, divided, weights
from tests.learner_cases import CLASSES, NAMES, NUM_CLASSES, PLACES, subset_of

SHAPE = DataShape(num_classes=NUM_CLASSES, in_channels=1, image_size=16, mean=(0.5,), std=(0.25,))
OPTIMIZERS: dict[str, Fields] = {
    "adamw": {"kind": "adamw", "weight_decay": 0.1, "loss_weight_decay": 0.1},
    "sgd": {"kind": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "loss_weight_decay": 0.1},
}
LOSSES: dict[str, dict[str, object]] = {
    "proxy_anchor": {"loss": {"kind": "proxy_anchor"}},
    "soft_triple": {"loss": {"kind": "soft_triple"}},
    "margin": {"loss": {"kind": "margin", "learn_beta": "per_class"}},
    "memory": {"loss": {"kind": "margin", "learn_beta": "shared", "memory": {"size": 40}}},
    "prototypes": {"loss": {"kind": "discriminate"}, "see": {**SEE, "num_expansions": 2, "prototypes": "auxiliary"}},
}
Entries = dict[tuple[str, str], Tensor]
"""Parameters and what the optimizer remembers of their entries, by name of the parameter and of that."""


def config_of(tiny: ExperimentConfig, optimizer: str, loss: str, inactive: str, **divide: object) -> ExperimentConfig:
    fields = {"inactive_slices": inactive, "full_embedding_epoch": 20, "conquer_epoch": 20, **divide}
    values: dict[str, object] = {"optimizer": OPTIMIZERS[optimizer], "model__embedding_dim": 14, **LOSSES[loss]}
    return divided(tiny, fields, training__num_epochs=20, **values)


def batches(learners: list[int], device: torch.device, *, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(NAMES)
    for learner in learners:
        images = torch.randint(0, 256, (len(NAMES), 1, 16, 16), generator=generator).byte()
        yield Batch(images.to(device), labels.to(device), torch.arange(len(NAMES)), learner=learner)


def train(state: TrainingState, learners: list[int], device: torch.device) -> None:
    """An epoch of one batch of each of these learners in turn."""
    subsets = [subset_of(CLASSES, device)] * 4
    train_epoch(state, batches(learners, device, seed=state.step), device=device, subsets=subsets)


def entries(state: TrainingState) -> Entries:
    found: Entries = {}
    for name, parameter in state.objective.named_parameters():
        remembered = {k: x for k, x in state.optimizer.state[parameter].items() if x.shape == parameter.shape}
        for what, x in {"": parameter.detach(), **remembered}.items():
            found[name, what] = x.clone()
    return found


def parts(name: str, x: Tensor) -> list[Tensor] | None:
    """What each learner owns of a parameter; None where it is all learners'."""
    if name.endswith("proxies"):
        return [x[..., first:behind] for first, behind in PLACES]
    if name.startswith("model.head"):
        return [x[first:behind] for first, behind in PLACES]
    return list(x) if name.endswith("beta") else None


def moved(before: Entries, after: Entries) -> tuple[set[int], bool]:
    """Learners of which anything moved, and whether all that is everybody's did."""
    learners: set[int] = set()
    for (name, what), x in before.items():
        mine, theirs = parts(name, x), parts(name, after[name, what])
        if mine is not None and theirs is not None:
            learners |= {k for k in range(4) if not torch.equal(mine[k], theirs[k])}
    # Scales of BatchNorm have no decay, and no gradient where the block behind them begins at zero.
    common = {key for key in before if parts(key[0], before[key]) is None and before[key].ndim > 1}
    return learners, all(not torch.equal(before[key], after[key]) for key in common)


def remembers(found: Entries, learner: int) -> Iterator[bool]:
    """Whether the optimizer remembers anything of a learner's entries, parameter by parameter."""
    for (name, what), x in found.items():
        of_each = parts(name, x) if what else None
        if of_each is not None:
            yield bool(of_each[learner].any())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_frozen_slice_is_as_it_was_with_its_momentum(
    optimizer: str, loss: str, tiny: ExperimentConfig, device: torch.device
) -> None:
    """From the first step on, and after everybody has momentum; decay is on."""
    config = config_of(tiny, optimizer, loss, "frozen")
    state = new_state(config, SHAPE, steps_per_epoch=3, device=device)
    first = entries(state)
    train(state, [2], device)
    now = entries(state)
    assert moved(first, {key: now[key] for key in first})[0] == {2}
    assert {k for k in range(4) if any(remembers(now, k))} == {2}
    train(state, [0, 1, 2, 3], device)
    for learner in (1, 3):
        before = entries(state)
        train(state, [learner, learner], device)
        assert moved(before, entries(state)) == ({learner}, True)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_otherwise_momentum_and_decay_move_all(
    optimizer: str, loss: str, tiny: ExperimentConfig, device: torch.device
) -> None:
    state = new_state(config_of(tiny, optimizer, loss, "momentum"), SHAPE, steps_per_epoch=3, device=device)
    train(state, [0, 1, 2, 3], device)
    before = entries(state)
    train(state, [1], device)
    assert moved(before, entries(state)) == ({0, 1, 2, 3}, True)


def test_two_children_are_frozen_and_move_together(tiny: ExperimentConfig, device: torch.device) -> None:
    config = config_of(tiny, "adamw", "proxy_anchor", "frozen", hierarchical=True, recluster_epochs=1)
    state = new_state(config, SHAPE, steps_per_epoch=3, device=device)
    state.epoch = 1
    before = entries(state)
    train(state, [1], device)
    assert moved(before, {k: x for k, x in entries(state).items() if k in before})[0] == {2, 3}


def test_all_move_in_the_full_stage(tiny: ExperimentConfig, device: torch.device) -> None:
    config = config_of(tiny, "adamw", "margin", "frozen", full_embedding_epoch=1)
    state = new_state(config, SHAPE, steps_per_epoch=3, device=device)
    train(state, [0], device)
    before = entries(state)
    train(state, [0], device)
    assert moved(before, entries(state)) == ({0, 1, 2, 3}, True)


@pytest.mark.parametrize("inactive", ["frozen", "momentum"])
def test_no_entry_moves_in_a_step_whose_loss_is_not_finite(
    inactive: str, tiny: ExperimentConfig, device: torch.device
) -> None:
    state = new_state(config_of(tiny, "adamw", "proxy_anchor", inactive), SHAPE, steps_per_epoch=3, device=device)
    train(state, [0, 1, 2, 3], device)
    before = entries(state)
    spoiled = next(iter(batches([2], device, seed=0)))
    with pytest.raises(NonFiniteLossError):
        train_epoch(state, [spoiled_by_nan(spoiled)], device=device, subsets=[subset_of(CLASSES, device)] * 4)
    assert all(torch.equal(x, before[key]) for key, x in entries(state).items())


def spoiled_by_nan(batch: Batch) -> Batch:
    images = batch.images.float() / 255.0
    images[0] = torch.nan
    return Batch(images, batch.labels, batch.index, learner=batch.learner)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_backbone_rests_after_a_clustering(optimizer: str, tiny: ExperimentConfig, tmp_path: Path) -> None:
    """Epochs 0, 3 and 6 begin with a clustering; the conquest, from 9 on, with none."""
    divide = {"recluster_epochs": 3, "freeze_epochs": 1, "full_embedding_epoch": 6, "conquer_epoch": 9}
    config = divided(tiny, divide, training__num_epochs=10, optimizer=OPTIMIZERS[optimizer])
    config = changed(config, model__batch_norm="frozen", training__steps_per_epoch=1, schedule__kind="constant")
    assert rests(config, tmp_path) == [True, False, False] * 3 + [False]


def test_the_backbone_never_rests_unless_asked(tiny: ExperimentConfig, tmp_path: Path) -> None:
    assert rests(divided(tiny), tmp_path) == [False] * 6


def test_the_backbone_does_not_rest_where_nothing_is_clustered(tiny: ExperimentConfig, tmp_path: Path) -> None:
    """There is one learner in epochs 0 and 1."""
    config = divided(tiny, {"hierarchical": True, "freeze_epochs": 1})
    assert rests(config, tmp_path) == [False, False, True, False, True, False]


def rests(config: ExperimentConfig, directory: Path) -> list[bool]:
    """Of every epoch, whether no parameter of the backbone moved; the head's always do."""
    run = Run(RunSpec(config, directory), device=HOST)
    found = [{name: x.clone() for name, x in run._models[0]._state.objective.named_parameters()}]
    while run.advance() is not None:
        found.append({name: x for name, x in weights(directory).items() if name in found[0]})
    run.close()
    stood: list[bool] = []
    for before, after in pairwise(found):
        same = {name: torch.equal(before[name], after[name]) for name in before}
        assert not same["model.head.weight"]
        of_backbone = {same[name] for name in same if name.startswith("model.backbone") and before[name].ndim > 1}
        assert len(of_backbone) == 1
        stood.append(of_backbone.pop())
    return stood

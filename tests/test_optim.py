"""Parameter groups, schedules as written lists, and the step that can be left out."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from raydml.config import (
    AdamWConfig,
    ConstantConfig,
    CosineConfig,
    ExperimentConfig,
    LossConfig,
    MarginConfig,
    ModelConfig,
    OptimizerConfig,
    ProxyAnchorConfig,
    ScheduleConfig,
    SgdConfig,
    StepConfig,
)
from raydml.objective import DataShape, Objective, build_objective
from raydml.optim import Moving, build_optimizer, lr_factor, masked_step, parameter_groups, set_learning_rates

_SHAPE = DataShape(num_classes=4, in_channels=1, image_size=16, mean=(0.5,), std=(0.25,))
_ADAMW = AdamWConfig(kind="adamw", lr=1e-3, weight_decay=1e-2, loss_lr=0.1, loss_weight_decay=1e-3)
_SGD = SgdConfig(kind="sgd", lr=1e-2, weight_decay=1e-2, loss_lr=0.1, loss_weight_decay=1e-3)
_LOSSES: tuple[LossConfig, ...] = (
    ProxyAnchorConfig(kind="proxy_anchor"),
    MarginConfig(kind="margin", learn_beta="fixed"),
    MarginConfig(kind="margin", learn_beta="per_class"),
)


def _objective(loss: LossConfig, *, frozen: bool = False) -> Objective:
    model = ModelConfig(embedding_dim=8, batch_norm="frozen" if frozen else "synchronised")
    return build_objective(ExperimentConfig(model=model, loss=loss), _SHAPE)


def _members(group: dict[str, object]) -> list[Tensor]:
    members = group["params"]
    assert isinstance(members, list)
    return members


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("loss", _LOSSES)
@pytest.mark.parametrize("config", [_ADAMW, _SGD])
def test_every_trainable_parameter_is_in_exactly_one_group(
    config: OptimizerConfig, loss: LossConfig, frozen: bool
) -> None:
    """A learned boundary that no optimizer sees cannot learn; one seen twice learns at twice the rate."""
    objective = _objective(loss, frozen=frozen)
    grouped = [id(p) for group in build_optimizer(objective, config).param_groups for p in group["params"]]
    trainable = [id(p) for p in objective.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    assert len(trainable) < len([*objective.parameters()]) or not frozen


def test_only_matrices_decay_and_the_loss_has_rates_of_its_own() -> None:
    objective = _objective(_LOSSES[0])
    matrices, vectors, head_matrix, head_vector, loss = parameter_groups(objective, _ADAMW)
    assert all(p.ndim > 1 for p in _members(matrices))
    assert all(p.ndim == 1 for p in _members(vectors))
    assert [p.shape for p in _members(loss)] == [(4, 8)]
    (weight,), (bias,) = _members(head_matrix), _members(head_vector)
    assert weight is objective.model.head.weight
    assert bias is objective.model.head.bias
    rates = [(group["lr"], group["weight_decay"]) for group in (matrices, vectors, head_matrix, head_vector, loss)]
    assert rates == [(1e-3, 1e-2), (1e-3, 0.0), (1e-3, 1e-2), (1e-3, 0.0), (0.1, 1e-3)]


def test_groups_without_parameters_are_left_out() -> None:
    assert len(parameter_groups(_objective(_LOSSES[1]), _ADAMW)) == 4


def test_the_kind_decides_the_optimizer() -> None:
    objective = _objective(_LOSSES[0])
    sgd = build_optimizer(objective, SgdConfig(kind="sgd", momentum=0.7))
    assert isinstance(build_optimizer(objective, _ADAMW), torch.optim.AdamW)
    assert isinstance(sgd, torch.optim.SGD)
    assert {group["momentum"] for group in sgd.param_groups} == {0.7}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ConstantConfig(kind="constant"), [1.0] * 8),
        (ConstantConfig(kind="constant", warmup_epochs=1.0), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (ConstantConfig(kind="constant", warmup_epochs=0.5), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        # (1 + cos(pi step / 7)) / 2
        (CosineConfig(kind="cosine"), [1.0, 0.95048, 0.81174, 0.61126, 0.38874, 0.18826, 0.04952, 0.0]),
        # the same of step - 2 over 5, squeezed into 0.1 ... 1
        (
            CosineConfig(kind="cosine", warmup_epochs=0.5, final_factor=0.1),
            [0.5, 1.0, 1.0, 0.91406, 0.68906, 0.41094, 0.18594, 0.1],
        ),
        (StepConfig(kind="step", every_epochs=1, factor=0.1), [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1]),
        (
            StepConfig(kind="step", every_epochs=1, factor=0.5, warmup_epochs=0.75),
            [1 / 3, 2 / 3, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5],
        ),
        (StepConfig(kind="step", every_epochs=2), [1.0] * 8),
    ],
)
def test_learning_rates_of_two_epochs_of_four_steps(schedule: ScheduleConfig, expected: list[float]) -> None:
    found = [lr_factor(schedule, step=step, steps_per_epoch=4, num_epochs=2) for step in range(8)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_training_of_one_step_has_the_peak_rate() -> None:
    for schedule in (ConstantConfig(kind="constant"), CosineConfig(kind="cosine"), StepConfig(kind="step")):
        assert lr_factor(schedule, step=0, steps_per_epoch=1, num_epochs=1) == 1.0


def test_every_group_follows_the_schedule_from_its_own_peak() -> None:
    optimizer = build_optimizer(_objective(_LOSSES[0]), _ADAMW)
    set_learning_rates(optimizer, 0.5)
    set_learning_rates(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-4] * 4 + [1e-2])
    set_learning_rates(optimizer, 0.1, backbone_rests=True)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0, 0.0, 1e-4, 1e-4, 1e-2])


def _trained(config: OptimizerConfig, device: torch.device, *, steps: int) -> tuple[Objective, Optimizer]:
    """An objective after some steps with made-up gradients."""
    objective = _objective(_LOSSES[0]).to(device)
    optimizer = build_optimizer(objective, config)
    for _ in range(steps):
        for p in objective.parameters():
            p.grad = torch.ones_like(p)
        masked_step(optimizer, torch.zeros((), dtype=torch.bool, device=device))
    return objective, optimizer


def _snapshot(objective: Objective, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, object]]:
    return deepcopy(objective.state_dict()), deepcopy(optimizer.state_dict()["state"])


@pytest.mark.parametrize("config", [_ADAMW, _SGD])
def test_a_masked_step_changes_nothing(config: OptimizerConfig, device: torch.device) -> None:
    """Neither parameters nor moments nor the count of steps, whatever the gradient; NaN is the case it is for."""
    objective, optimizer = _trained(config, device, steps=2)
    before = _snapshot(objective, optimizer)
    for p in objective.parameters():
        p.grad = torch.full_like(p, torch.nan)
    masked_step(optimizer, torch.ones((), dtype=torch.bool, device=device))
    torch.testing.assert_close(_snapshot(objective, optimizer), before, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("config", [_ADAMW, _SGD, SgdConfig(kind="sgd", momentum=0.0)])
def test_a_step_that_is_not_masked_is_a_plain_step(config: OptimizerConfig, device: torch.device) -> None:
    """Also right after one that was, and as the first of all: the mask must not linger in the optimizer."""
    objective, optimizer = _trained(config, device, steps=1)
    masked_step(optimizer, torch.ones((), dtype=torch.bool, device=device))
    masked_step(optimizer, torch.zeros((), dtype=torch.bool, device=device))
    plain = _objective(_LOSSES[0]).to(device)
    reference = build_optimizer(plain, config)
    for _ in range(2):
        for p in plain.parameters():
            p.grad = torch.ones_like(p)
        reference.step()
    torch.testing.assert_close(_snapshot(objective, optimizer), _snapshot(plain, reference), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("config", [_ADAMW, _SGD])
def test_a_masked_first_step_leaves_no_rubbish_behind(config: OptimizerConfig, device: torch.device) -> None:
    """Moments start at the first step: if that is left out, the next one must not start from uninitialised memory."""
    objective, optimizer = _trained(config, device, steps=0)
    before = deepcopy(objective.state_dict())
    for p in objective.parameters():
        p.grad = torch.ones_like(p)
    masked_step(optimizer, torch.ones((), dtype=torch.bool, device=device))
    torch.testing.assert_close(objective.state_dict(), before, rtol=0.0, atol=0.0)
    moments = [m for state in optimizer.state.values() for m in state.values() if isinstance(m, Tensor)]
    assert all(bool((m == 0).all()) for m in moments)


@pytest.mark.parametrize("config", [_ADAMW, _SGD])
def test_learners_that_share_a_parameter_step_as_if_each_had_an_optimizer(
    config: OptimizerConfig, device: torch.device
) -> None:
    """Also AdamW's correction of its moments: it counts a learner's own steps, of which others make more."""
    shared, alone = (_objective(_LOSSES[0]).to(device) for _ in range(2))
    halves = (slice(0, 4), slice(4, 8))
    together, own = build_optimizer(shared, config), [build_optimizer(deepcopy(alone), config) for _ in halves]
    parameter, rows = together.param_groups[2]["params"][0], torch.arange(8, device=device)[:, None]
    generator = torch.Generator(device).manual_seed(0)
    running = torch.zeros((), dtype=torch.bool, device=device)
    for learner in (0, 0, 1, 0, 1, 1, 1, 0):
        mask = (rows >= halves[learner].start) & (rows < halves[learner].stop)
        gradient = torch.randn(parameter.shape, generator=generator, device=device) * mask
        of_learner = own[learner].param_groups[2]["params"][0]
        parameter.grad, of_learner.grad = gradient.clone(), gradient.clone()
        masked_step(together, running, Moving([(parameter, mask)], slice(learner, learner + 1), 2))
        masked_step(own[learner], running)
    for learner, half in enumerate(halves):
        assert torch.equal(parameter[half], own[learner].param_groups[2]["params"][0][half])

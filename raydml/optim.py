"""Parameter groups, optimizer and learning-rate schedule. Every parameter is in exactly one group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, assert_never

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from raydml.config import (
    AdamWConfig,
    ConstantConfig,
    CosineConfig,
    OptimizerConfig,
    ScheduleConfig,
    SgdConfig,
    StepConfig,
)
from raydml.objective import Objective

# The steps of each learner, in an optimizer's state.
_OWN_STEPS = "own_steps"


def parameter_groups(objective: Objective, config: OptimizerConfig) -> list[dict[str, object]]:
    """Matrices and kernels of the model with decay, its vectors without, the loss's parameters with rates of their own.

    Those of the backbone apart from the head's, and marked, because it may rest. Frozen parameters are in no group; an
    empty group is left out.
    """
    groups: list[dict[str, object]] = []
    for part in (objective.model.backbone, objective.model.head):
        trainable = [p for p in part.parameters() if p.requires_grad]
        marks = {"backbone": part is objective.model.backbone}
        groups.append(_group([p for p in trainable if p.ndim > 1], config.lr, config.weight_decay) | marks)
        groups.append(_group([p for p in trainable if p.ndim <= 1], config.lr, 0.0) | marks)
    groups.append(_group(objective.loss_parameters(), config.loss_lr, config.loss_weight_decay) | {"backbone": False})
    return [group for group in groups if group["params"]]


def _group(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> dict[str, object]:
    return {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": weight_decay}


def build_optimizer(objective: Objective, config: OptimizerConfig) -> Optimizer:
    """The optimizer over all trainable parameters of model and loss.

    Fused: one kernel a step, and the only kind that takes a device flag to leave a step out (`masked_step`).
    """
    groups = parameter_groups(objective, config)
    match config:
        case AdamWConfig():
            return AdamW(groups, fused=True)
        case SgdConfig():
            return _with_momentum(SGD(groups, momentum=config.momentum, fused=True))
        case _:
            assert_never(config)


def _with_momentum(optimizer: SGD) -> SGD:
    """Momentum that starts at zero: torch's fused SGD leaves it uninitialised where the first step is masked."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] > 0 else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class Moving(NamedTuple):
    """What a step may move of parameters that learners share: as if each learner had an optimizer of its own."""

    parameters: Sequence[tuple[nn.Parameter, Tensor]]
    """Parameters, each with a bool mask of the entries that may move."""
    learners: slice
    """Whose entries these are."""
    num_learners: int


def masked_step(optimizer: Optimizer, stopped: Tensor, moving: Moving | None = None) -> None:
    """One optimizer step, left out where the device flag `stopped` is set; the host never looks at the flag.

    What `moving` does not let move stays as it is, to the bit, with its momentum. torch's fused optimizers leave a step
    out where `found_inf` is set: GradScaler's own way.
    """
    parameters = () if moving is None else moving.parameters
    before = [(parameter, mask, _entries(optimizer, parameter, copied=True)) for parameter, mask in parameters]
    if moving is not None:
        _take_own_steps(optimizer, moving)
    optimizer.found_inf = stopped.float()  # type: ignore[attr-defined]
    optimizer.step()
    for parameter, mask, earlier in before:
        for name, entries in _entries(optimizer, parameter).items():
            # What has no earlier value begins at zero.
            entries.copy_(torch.where(mask, entries, earlier.get(name, 0.0)))
    if moving is not None:
        _keep_own_steps(optimizer, moving)


def _entries(optimizer: Optimizer, parameter: nn.Parameter, *, copied: bool = False) -> dict[str, Tensor]:
    """A parameter and what the optimizer remembers of each of its entries."""
    remembered = optimizer.state[parameter].items()
    state = {name: x for name, x in remembered if name != _OWN_STEPS and x.shape == parameter.shape}
    entries = {"": parameter.detach(), **state}
    return {name: x.clone() for name, x in entries.items()} if copied else entries


def _take_own_steps(optimizer: Optimizer, moving: Moving) -> None:
    """AdamW corrects moments by the number of steps, which must be that of the steps that made them."""
    for parameter, _ in moving.parameters:
        state = optimizer.state[parameter]
        if "step" in state:
            own = state.setdefault(_OWN_STEPS, state["step"].repeat(moving.num_learners))
            state["step"].copy_(own[moving.learners.start])


def _keep_own_steps(optimizer: Optimizer, moving: Moving) -> None:
    for parameter, _ in moving.parameters:
        state = optimizer.state[parameter]
        if "step" in state:
            own = state.setdefault(_OWN_STEPS, state["step"].new_zeros(moving.num_learners))
            own[moving.learners] = state["step"]


def set_learning_rates(optimizer: Optimizer, factor: float, *, backbone_rests: bool = False) -> None:
    """Sets every group to a share of its peak rate; that of the backbone to zero where it rests."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if backbone_rests and group["backbone"] else group["peak_lr"] * factor


def lr_factor(config: ScheduleConfig, *, step: float, steps_per_epoch: int, num_epochs: int) -> float:
    """The share of the peak rate at a step, counted from 0 over the whole training; a part of one counts too.

    Warm-up rises linearly from 1 / warm-up steps to 1; cosine then falls to its final factor at the last step.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    match config:
        case ConstantConfig():
            return 1.0
        case CosineConfig():
            last = max(1, num_epochs * steps_per_epoch - 1 - warmup_steps)
            progress = min(1.0, (step - warmup_steps) / last)
            return config.final_factor + (1.0 - config.final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))
        case StepConfig():
            return float(config.factor ** (step // (config.every_epochs * steps_per_epoch)))
        case _:
            assert_never(config)

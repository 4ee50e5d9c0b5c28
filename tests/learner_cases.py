"""What the tests of learners share: slices and stages as written lists, a tiny network, and losses of any state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raydml.config import DivideConfig, SeeConfig
from raydml.expansion import SphericalExpansion
from raydml.learners import Learners, class_subsets
from raydml.losses import ClassSubset, LossOutput, View, build_loss
from raydml.models import EmbeddingModel
from raydml.objective import Objective, StepContext
from tests.expansion_cases import PAIR_CASES, PROXY_CASES
from tests.loss_cases import CASES, config_of

Fields = Mapping[str, object]
CPU = torch.device("cpu")
DIM = 14
NUM_LEARNERS = 4
PLACES = ((0, 4), (4, 8), (8, 11), (11, 14))
"""First dimension of each learner and the one behind its last: as even as 14 dimensions can be."""
NUM_EPOCHS = 10
FIRST_EPOCH = {"divide": 0, "full": 4, "conquer": 8}
NUM_CLASSES = 8
CLASSES = (0, 2, 3, 5, 6)
"""Those of the learner whose batch it is."""
NAMES = (0, 2, 2, 3, 0, 0, 2, 3, 5, 5, 5, 3)
"""A batch of these classes; no image of class 6 is in it, but in the cluster."""
EXPANDABLE = (*PROXY_CASES, *PAIR_CASES)
MEMORY: Fields = {"kind": "contrastive", "memory": {"size": 40}}
LEARNED: dict[str, Any] = {"masks": "learned", "normalise": "whole"}


def cases(*more: Fields) -> list[Fields]:
    """Every loss, and some more."""
    return [*CASES, *more]


def divide_config(**fields: object) -> DivideConfig:
    """Four learners; all dimensions from epoch 4 on, all images from epoch 8 on."""
    base = {"num_learners": NUM_LEARNERS, "full_embedding_epoch": 4, "conquer_epoch": 8}
    return DivideConfig.model_validate({**base, **fields})


def learners_of(*, dim: int = DIM, **fields: object) -> Learners:
    return Learners(divide_config(**fields), embedding_dim=dim, num_epochs=NUM_EPOCHS)


def see_config(**fields: object) -> SeeConfig:
    """Two expansions, all that three dimensions have room for, of half of a batch in every epoch."""
    base = {"num_expansions": 2, "schedule": "constant", "final_fraction": 0.5, "weight": 0.7}
    return SeeConfig.model_validate({**base, **fields})


def subset_of(classes: tuple[int, ...], device: torch.device = CPU) -> ClassSubset:
    """The classes of a learner, of NUM_CLASSES, by the code that makes them."""
    labels = torch.arange(NUM_CLASSES)
    division = torch.tensor([0 if name in classes else 1 for name in range(NUM_CLASSES)])
    return class_subsets(division, labels, num_learners=2, device=device)[0]


def view_of(learners: Learners, stage: str, learner: int | None = 1, device: torch.device = CPU) -> View:
    """What a step of a stage trains, with the batch of one learner."""
    subset = None if learner is None else subset_of(CLASSES, device)
    return learners.to(device).view(FIRST_EPOCH[stage], learner, subset)


def loss_of(
    fields: Fields,
    device: torch.device = CPU,
    *,
    dim: int = DIM,
    num_classes: int = NUM_CLASSES,
    num_learners: int = NUM_LEARNERS,
) -> nn.Module:
    """A loss in the middle of a training: boundaries and curricula of all learners and classes differ; float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = build_loss(
            config_of(fields),
            num_classes=num_classes,
            embedding_dim=dim,
            max_positives=15,
            num_learners=num_learners,
        ).double()
        for name, state in [*loss.named_parameters(), *loss.named_buffers()]:
            if name.rpartition(".")[2] in ("beta", "curriculum"):
                state.data.uniform_(0.2, 1.4)
    return loss.to(device)


def objective_of(
    fields: Fields, divide: DivideConfig, *, see: SeeConfig | None = None, device: torch.device = CPU
) -> Objective:
    """A network of two layers and a loss of the middle of a training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        learners = Learners(divide, embedding_dim=DIM, num_epochs=NUM_EPOCHS)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.Tanh())
        options: dict[str, Any] = {"num_features": 9, "embedding_dim": DIM, "mean": (0.5,), "std": (0.25,)}
        model = EmbeddingModel(backbone, **options, freeze_batch_norm=False, slices=learners.slices)
        expansion = None if see is None else expansion_of(fields, see)
    objective = Objective(model, loss_of(fields), image_size=6, see=expansion, learners=learners)
    return objective.double().to(device).train()


def expansion_of(fields: Fields, see: SeeConfig, *, dim: int = DIM, classes: int = NUM_CLASSES) -> SphericalExpansion:
    sizes = {"num_epochs": NUM_EPOCHS, "num_classes": classes, "embedding_dim": dim}
    return SphericalExpansion(see, config_of(fields), **sizes).double()


def images_of(seed: int = 0, device: torch.device = CPU) -> Tensor:
    """(12, 1, 6, 6) uint8."""
    return torch.randint(0, 256, (len(NAMES), 1, 6, 6), generator=torch.Generator().manual_seed(seed)).byte().to(device)


def step(
    objective: Objective, *, epoch: int, learner: int | None = 1, names: tuple[int, ...] = NAMES, number: int = 0
) -> LossOutput:
    """Forward and backward of one batch; gradients are left in the parameters."""
    device = next(objective.parameters()).device
    subset = None if learner is None else subset_of(CLASSES, device)
    context = StepContext(0, epoch, number, learner=learner, subset=subset)
    objective.zero_grad(set_to_none=True)
    labels = torch.tensor(names, device=device)
    output: LossOutput = objective(images_of(number, device), labels, context=context)
    output.value.backward()
    return output


def random_rows(device: torch.device = CPU, *, seed: int = 1, names: tuple[int, ...] = NAMES) -> Tensor:
    """Around a centre for each class, of any length."""
    centres = torch.randn(NUM_CLASSES, DIM, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    noise = torch.randn(len(names), DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (centres[list(names)] + 1.5 * noise).to(device)


def unit(row: Tensor) -> Tensor:
    """A row over its length, the obvious way."""
    return row / row.square().sum(-1, keepdim=True).sqrt()


def joined(rows: Tensor) -> Tensor:
    """Unit slices of a row one after another, over the length of that."""
    return unit(torch.cat([unit(rows[..., first:behind]) for first, behind in PLACES], -1))

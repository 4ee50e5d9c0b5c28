"""What the tests of Spherical Embedding Expansion share: small losses with it, and one step of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raydml.config import SeeConfig
from raydml.expansion import SphericalExpansion
from raydml.losses import LossOutput, build_loss
from raydml.see import expand
from tests import loss_oracles as oracle
from tests.loss_cases import CASES, WITH_CLASSES, config_of

Fields = Mapping[str, object]
DIM = 6
NUM_CLASSES = 8
NUM_EPOCHS = 10
STAND_ALONE = {"recall_at_k", "smooth_ap"}
"""Losses that SEE has no form for."""
PROXY_CASES = [case for case in CASES if case["kind"] in WITH_CLASSES]
PAIR_CASES = [case for case in CASES if case["kind"] not in WITH_CLASSES | STAND_ALONE]
HALF_WAY = {"schedule": "cosine", "initial_fraction": 0.1, "final_fraction": 0.9}
"""In epoch 5 half of a batch is expanded, within shapes that hold nine tenths of it."""
NAMES = [0, 2, 2, 1, 0, 0, 2, 3, 1, 4, 5, 5]
LARGE_CLASSES = [0, 2, 2, 1, 0, 0, 2, 1, 1, 2, 1, 0]
"""No image near the mean of its class: then every loss on pairs with synthetic rows has something to do."""


def words(case: Fields) -> str:
    """A name for a case."""
    return " ".join(map(str, case.values()))


def see_config(**fields: object) -> SeeConfig:
    """Three expansions of half of the batch in every epoch, unless told otherwise."""
    base = {"num_expansions": 3, "schedule": "constant", "final_fraction": 0.5, "weight": 0.7}
    return SeeConfig.model_validate({**base, **fields})


def loss_of(fields: Fields, device: torch.device, *, dim: int = DIM) -> nn.Module:
    """A loss with the same parameters every time, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = build_loss(config_of(fields), num_classes=NUM_CLASSES, embedding_dim=dim, max_positives=15)
    return loss.to(device).double()


def see_of(fields: Fields, config: SeeConfig, device: torch.device, *, dim: int = DIM) -> SphericalExpansion:
    """Spherical Embedding Expansion for such a loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        see = SphericalExpansion(
            config, config_of(fields), num_epochs=NUM_EPOCHS, num_classes=NUM_CLASSES, embedding_dim=dim
        )
    return see.to(device).double()


def batch(names: list[int], device: torch.device, *, seed: int = 3, dim: int = DIM) -> tuple[Tensor, Tensor]:
    """Rows around a centre for each class, float64, and their labels."""
    rows = oracle.unit_rows(len(names), dim, seed=seed, noise=1.5, classes=names)
    return rows.to(device), torch.tensor(names, device=device)


def seeded(device: torch.device, seed: int = 5) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


class Step(NamedTuple):
    """One step: what came out, and all gradients of it."""

    output: LossOutput
    gradient: Tensor
    parameter_gradients: dict[str, Tensor]

    def stat(self, name: str) -> float:
        return float(self.output.stats[f"see/{name}"])


def run_step(
    loss: nn.Module,
    see: SphericalExpansion | None,
    rows: Tensor,
    labels: Tensor,
    *,
    epoch: int = 0,
    seed: int = 9,
    within: AbstractContextManager[object] | None = None,
) -> Step:
    """The loss with SEE, or alone, and its gradients; frames come from the seed, `within` surrounds the forward."""
    leaf = rows.detach().clone().requires_grad_()
    for module in (loss, *([] if see is None else [see])):
        module.zero_grad()
    generator = seeded(rows.device)
    frames = partial(seeded, rows.device, seed)
    with within or nullcontext():
        if see is None:
            output: LossOutput = loss(leaf, labels, generator=generator)
        else:
            output = see(loss, leaf, labels, epoch=epoch, generator=generator, frames=frames)
    output.value.backward()
    assert leaf.grad is not None
    found = {
        f"{place}.{name}": p.grad.clone()
        for place, module in (("loss", loss), ("see", see))
        if module is not None
        for name, p in module.named_parameters()
        if p.grad is not None
    }
    return Step(output._replace(value=output.value.detach()), leaf.grad, found)


class Chosen(NamedTuple):
    """Synthetic rows made one image at a time."""

    source: list[int]
    rows: Tensor
    """(n * E, D)."""
    names: list[int]


def chosen(rows: Tensor, labels: Tensor, proxies: Tensor, *, num: int, num_expansions: int, seed: int = 9) -> Chosen:
    """The `num` nearest to their class, each expanded alone; of several centres the nearest is the class's direction.

    With a shared frame an embedding's points do not depend on who else is expanded.
    """
    directions = []
    for row, label in zip(rows, labels.tolist(), strict=True):
        centres = proxies[label].detach().view(-1, rows.shape[1])
        unit = [centre / centre.norm() for centre in centres]
        directions.append(max(unit, key=lambda centre: float((centre * row).sum())))
    cosines = [float((row * p).sum()) for row, p in zip(rows, directions, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: (-cosines[i], i))
    source = order[:num]
    points = [
        expand(rows[i : i + 1], directions[i][None], num_expansions, generator=seeded(rows.device, seed))[0]
        for i in source
    ]
    names = [int(labels[i]) for i in source for _ in range(num_expansions)]
    return Chosen(source, torch.cat(points), names)


def batch_prototypes(rows: Tensor, labels: Tensor) -> Tensor:
    """(C, D) unit means of each class in the batch; zero of the others."""
    found = torch.zeros(NUM_CLASSES, rows.shape[1], dtype=rows.dtype, device=rows.device)
    for name in {*labels.tolist()}:
        mean = rows[labels == name].mean(0)
        found[name] = mean / mean.norm()
    return found

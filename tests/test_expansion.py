"""Spherical Embedding Expansion around a loss: who is expanded, what learns from it, and when nothing happens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from raydml.config import SeeConfig
from raydml.expansion import SphericalExpansion
from raydml.losses import LossOutput
from tests.expansion_cases import (
    NAMES,
    NUM_CLASSES,
    batch,
    loss_of,
    run_step,
    see_config,
    see_of,
)

ANCHOR = {"kind": "proxy_anchor"}


def with_proxies(proxies: Tensor, config: SeeConfig) -> tuple[nn.Module, SphericalExpansion]:
    """Proxy-Anchor with alpha = 32 and delta = 0.1 and these proxies."""
    loss = loss_of(ANCHOR, proxies.device, dim=proxies.shape[1])
    loss.proxies = nn.Parameter(proxies.clone())
    return loss, see_of(ANCHOR, config, proxies.device, dim=proxies.shape[1])


def axes(num: int, dim: int, device: torch.device) -> Tensor:
    return torch.eye(dim, dtype=torch.float64, device=device)[:num]


class Seen(nn.Module):
    """A loss that remembers which synthetic rows it was given."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.rows = self.labels = torch.empty(0)

    @property
    def proxies(self) -> Tensor:
        assert isinstance(self.loss.proxies, Tensor)
        return self.loss.proxies

    def forward(self, embeddings: Tensor, labels: Tensor, **options: Tensor) -> LossOutput:
        counted = options.get("counted")
        if counted is not None:
            self.rows, self.labels = embeddings[counted], labels[counted]
        output: LossOutput = self.loss(embeddings, labels, **options)
        return output


def sources(
    rows: Tensor, labels: Tensor, proxies: Tensor, config: SeeConfig, *, epoch: int = 0, seed: int = 9
) -> set[int]:
    """Positions of the embeddings that were expanded, told from their mirror images: one expansion each."""
    loss, see = with_proxies(proxies, config)
    seen = Seen(loss)
    step = run_step(seen, see, rows, labels, epoch=epoch, seed=seed)
    p = nn.functional.normalize(proxies, dim=1)[seen.labels]
    back = 2.0 * (seen.rows * p).sum(1, keepdim=True) * p - seen.rows
    near = (back[:, None] - rows[None]).norm(dim=2) < 1e-10
    found = [row.nonzero().flatten().tolist() for row in near]
    assert all(len(places) == 1 for places in found)
    assert step.stat("selected") == len(found)
    return {places[0] for places in found}


@pytest.mark.parametrize("frames", ["shared", "independent"])
@pytest.mark.parametrize(
    ("num_expansions", "synthetic", "total"),
    [(1, 5.64545677409e-08, 11.2000000115714), (2, 1.65880297560802e-03, 11.2003317608756)],
)
def test_golden_numbers(num_expansions: int, synthetic: float, total: float, frames: str, device: torch.device) -> None:
    """specs/see.md, 7: x = (.8, .6, 0) of the first of two classes at e_1 and e_2."""
    config = see_config(num_expansions=num_expansions, final_fraction=1.0, weight=0.2, frames=frames)
    loss, see = with_proxies(axes(2, 3, device), config)
    rows = torch.tensor([[0.8, 0.6, 0.0]], dtype=torch.float64, device=device)
    labels = torch.zeros(1, dtype=torch.int64, device=device)
    assert float(loss(rows, labels).value.detach()) == pytest.approx(11.2000000002805, abs=5e-13)
    step = run_step(loss, see, rows, labels)
    assert step.stat("loss") == pytest.approx(synthetic, rel=1e-11)
    assert float(step.output.value) == pytest.approx(total, abs=5e-13)


@pytest.mark.parametrize("num_expansions", [1, 2, 4])
def test_the_own_proxy_is_pushed_away_from_the_embedding(num_expansions: int, device: torch.device) -> None:
    """I15: with a = exp(-alpha (c - delta)), d/dP is +alpha a / (1 + K a) r / |P|; of the real one -alpha a / (1 + a).

    One class, so that there is nothing but the positive part.
    """
    rows = torch.tensor([[0.1, 0.7, 0.5, 0.5, 0.0]], dtype=torch.float64, device=device)
    labels = torch.zeros(1, dtype=torch.int64, device=device)
    loss, see = with_proxies(2.0 * axes(1, 5, device), see_config(num_expansions=num_expansions, final_fraction=1.0))
    c, r = 0.1, rows[0] - 0.1 * axes(1, 5, device)[0]
    a = math.exp(-32.0 * (c - 0.1))
    real = -32.0 * a / (1.0 + a) * r / 2.0
    synthetic = 32.0 * a / (1.0 + num_expansions * a) * r / 2.0
    torch.testing.assert_close(run_step(loss, None, rows, labels).parameter_gradients["loss.proxies"][0], real)
    found = run_step(loss, see, rows, labels).parameter_gradients["loss.proxies"][0]
    torch.testing.assert_close(found, real + 0.7 * synthetic, rtol=1e-12, atol=1e-13)


def test_synthetic_rows_train_the_proxies_alone(device: torch.device) -> None:
    """I13: the gradient of the embeddings is the base's, to the bit."""
    rows, labels = batch(NAMES, device)
    plain = run_step(loss_of(ANCHOR, device), None, rows, labels)
    found = run_step(loss_of(ANCHOR, device), see_of(ANCHOR, see_config(), device), rows, labels)
    assert torch.equal(found.gradient, plain.gradient)
    ours, theirs = (step.parameter_gradients["loss.proxies"] for step in (found, plain))
    assert float((ours - theirs).norm() / theirs.norm()) > 1e-3


def test_reflections_train_the_embeddings_of_the_selected(device: torch.device) -> None:
    """The same value, and the gradient of the synthetic rows carried back by the mirrors of specs/see.md, 5."""
    rows, labels = batch(NAMES, device)
    constant = run_step(loss_of(ANCHOR, device), see_of(ANCHOR, see_config(), device), rows, labels)
    config = see_config(gradient="reflect")
    found = run_step(loss_of(ANCHOR, device), see_of(ANCHOR, config, device), rows, labels)
    torch.testing.assert_close(found.output.value, constant.output.value, rtol=1e-12, atol=0.0)
    moved = (found.gradient - constant.gradient).norm(dim=1) > 1e-12
    proxies = loss_of(ANCHOR, device).proxies
    assert isinstance(proxies, Tensor)
    cosine = (rows * nn.functional.normalize(proxies.detach(), dim=1)[labels]).sum(1)
    assert {*moved.nonzero().flatten().tolist()} == {*cosine.topk(6).indices.tolist()}


def test_the_nearest_are_expanded_or_the_farthest_or_any(device: torch.device) -> None:
    """I16: exactly round(G q) of them."""
    rows, labels = batch(NAMES, device)
    proxies = nn.functional.normalize(batch([*range(NUM_CLASSES)], device, seed=8)[0], dim=1)
    order = (rows * proxies[labels]).sum(1).argsort().tolist()
    for fraction, num in ((0.5, 6), (0.125, 2), (0.2, 2), (1.0, 12)):
        fields = {"num_expansions": 1, "final_fraction": fraction}
        assert sources(rows, labels, proxies, see_config(**fields)) == {*order[-num:]}
        assert sources(rows, labels, proxies, see_config(**fields, selection="bottom")) == {*order[:num]}
    drawn = [
        sources(rows, labels, proxies, see_config(num_expansions=1, selection="random"), seed=seed)
        for seed in (1, 1, 2, 3)
    ]
    assert [len(found) for found in drawn] == [6] * 4
    assert drawn[0] == drawn[1]
    assert len({tuple(sorted(found)) for found in drawn}) > 1


def test_a_threshold_falls_on_whoever_reaches_it(device: torch.device) -> None:
    rows, labels = batch(NAMES, device)
    proxies = nn.functional.normalize(batch([*range(NUM_CLASSES)], device, seed=8)[0], dim=1)
    cosine = (rows * proxies[labels]).sum(1)
    config = see_config(num_expansions=1, schedule="threshold", initial_fraction=0.0, final_fraction=0.2)
    for epoch, tau in ((0, 0.2), (5, 0.1), (9, 0.1 * (1.0 + math.cos(0.9 * math.pi)))):
        expected = {*(cosine >= tau).nonzero().flatten().tolist()}
        assert 0 < len(expected) < len(NAMES)
        assert sources(rows, labels, proxies, config, epoch=epoch) == expected


def test_ties_go_to_the_first(device: torch.device) -> None:
    """I16: a hundred embeddings with exactly the same cosine; fewer are sorted in order by any algorithm."""
    rows = torch.zeros(100, 101, dtype=torch.float64, device=device)
    rows[:, 0], rows[:, 1:] = 0.6, 0.8 * torch.eye(100, dtype=torch.float64)
    labels = torch.zeros(100, dtype=torch.int64, device=device)
    for selection in ("top", "bottom"):
        config = see_config(num_expansions=1, selection=selection)
        assert sources(rows, labels, axes(2, 101, device), config) == {*range(50)}


def test_only_directions_of_proxies_count(device: torch.device) -> None:
    """I10: proxies of any length give the same term."""
    rows, labels = batch(NAMES, device)
    proxies = batch([*range(NUM_CLASSES)], device, seed=8)[0]
    short, long = (run_step(*with_proxies(t * proxies, see_config()), rows, labels) for t in (0.3, 5.0))
    assert float(short.output.value.detach()) == pytest.approx(float(long.output.value.detach()), rel=1e-13)
    assert short.stat("selected_cosine") == pytest.approx(long.stat("selected_cosine"), rel=1e-13)


@pytest.mark.parametrize("kind", ["proxy_anchor", "discriminate", "margin", "soft_triple"])
def test_nothing_expanded_is_the_loss_alone(kind: str, device: torch.device) -> None:
    """I12: to the bit, without a draw, and without the statistics of what did not happen."""
    rows, labels = batch(NAMES, device)
    plain = run_step(loss_of({"kind": kind}, device), None, rows, labels)
    see = see_of({"kind": kind}, see_config(schedule="cosine", initial_fraction=0.0), device)
    before = torch.get_rng_state()
    generator = torch.Generator(device).manual_seed(5)

    def refuse() -> torch.Generator:
        raise AssertionError("a frame was drawn")

    leaf = rows.clone().requires_grad_()
    loss = loss_of({"kind": kind}, device)
    output = see(loss, leaf, labels, epoch=0, generator=generator, frames=refuse)
    output.value.backward()
    assert torch.equal(output.value, plain.output.value)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, plain.gradient)
    found = {f"loss.{name}": p.grad for name, p in loss.named_parameters() if p.grad is not None}
    assert found.keys() == plain.parameter_gradients.keys()
    assert all(torch.equal(gradient, plain.parameter_gradients[name]) for name, gradient in found.items())
    assert output.stats.keys() == plain.output.stats.keys()
    assert torch.equal(torch.get_rng_state(), before)
    assert "see/loss" in run_step(loss_of({"kind": kind}, device), see, rows, labels, epoch=9).output.stats


def test_statistics_are_right_after_the_backward_pass(device: torch.device) -> None:
    """Gradient norms are those of the two terms by the unit proxies, the second with its weight."""
    rows, labels = batch(NAMES, device)
    loss = loss_of(ANCHOR, device)
    assert isinstance(loss.proxies, nn.Parameter)
    with torch.no_grad():
        loss.proxies.copy_(nn.functional.normalize(loss.proxies, dim=1))
    seen = Seen(loss)
    step = run_step(seen, see_of(ANCHOR, see_config(), device), rows, labels)
    for name, number in step.output.stats.items():
        assert (number.shape, number.requires_grad, number.device.type) == ((), False, device.type), name
    assert (step.stat("selected"), step.stat("fraction")) == (6, 0.5)
    cosine = (rows * loss.proxies.detach()[labels]).sum(1)
    assert step.stat("selected_cosine") == pytest.approx(float(cosine.topk(6).values.mean()), rel=1e-12)
    unit = loss.proxies.detach().clone().requires_grad_()
    base = torch.autograd.grad(loss(rows, labels, proxies=unit).value, unit)[0].norm()
    assert step.stat("base_gradient") == pytest.approx(float(base), rel=1e-12)
    synthetic = torch.autograd.grad(0.7 * loss(seen.rows, seen.labels, proxies=unit).value, unit)[0].norm()
    assert step.stat("gradient") == pytest.approx(float(synthetic), rel=1e-12)
    total = step.stat("loss") * 0.7 + float(loss(rows, labels).value.detach())
    assert float(step.output.value.detach()) == pytest.approx(total, rel=1e-13)


def test_collisions_are_the_share_nearer_to_another_class(device: torch.device) -> None:
    """On the rim around e_1 the mirror image of (.6, .8) is (.6, -.8): nearer to a proxy at (.5, -.866) than to e_1."""
    proxies = torch.tensor([[1.0, 0.0], [0.5, -0.866], [-1.0, 0.0]], dtype=torch.float64, device=device)
    rows = torch.tensor([[0.6, 0.8], [0.96, 0.28], [-0.6, 0.8], [-0.8, -0.6]], dtype=torch.float64, device=device)
    labels = torch.tensor([0, 0, 2, 2], device=device)
    step = run_step(*with_proxies(proxies, see_config(num_expansions=1, final_fraction=1.0)), rows, labels)
    assert step.stat("collisions") == 0.25

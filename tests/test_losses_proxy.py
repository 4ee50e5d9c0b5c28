"""Proxy-Anchor against a loop over proxies, and against another library."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from pytorch_metric_learning import losses as pml
from torch import Tensor

from raydml.config import ProxyAnchorConfig
from raydml.losses.proxy import ProxyAnchorLoss
from tests import loss_oracles as oracle

_DIM = 8


def _loss(device: torch.device, fields: Mapping[str, object] | None = None, *, num_classes: int = 6) -> ProxyAnchorLoss:
    """In float64, with the same proxies every time."""
    config = ProxyAnchorConfig.model_validate({"kind": "proxy_anchor", **(fields or {})})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        loss = ProxyAnchorLoss(config, num_classes=num_classes, embedding_dim=_DIM)
    return loss.to(device).double()


def _rows(names: list[int], device: torch.device) -> Tensor:
    return oracle.unit_rows(len(names), _DIM, seed=2, classes=names).to(device)


@pytest.mark.parametrize("fields", [{}, {"margin": 0.4, "scale": 4.0}, {"margin": 0.0, "scale": 128.0}])
@pytest.mark.parametrize(
    "names",
    [[0, 0, 1, 1, 2, 2, 5, 5], [4, 0, 0, 0, 4, 2], [3, 3, 3, 3], [1]],
    ids=["balanced", "unsorted, unequal", "one class", "one row"],
)
def test_equals_the_loop_over_proxies(names: list[int], fields: dict[str, object], device: torch.device) -> None:
    """Classes without an image count among the pushing proxies, not among the pulling ones."""
    loss, embeddings = _loss(device, fields), _rows(names, device)
    config = loss.config
    expected = oracle.judge(
        lambda x, proxies: oracle.proxy_anchor(x, names, proxies, margin=config.margin, scale=config.scale),
        embeddings,
        loss.proxies,
    )
    oracle.assert_agree(oracle.run_loss(loss, embeddings, torch.tensor(names, device=device)), expected, 1e-12)


@pytest.mark.parametrize("num_classes", [6, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_library(dtype: torch.dtype, num_classes: int, device: torch.device) -> None:
    """Goal L4 of specs/performance.md: 1e-5 in float32, proxies included."""
    names = [i % num_classes for i in (0, 0, 1, 1, 4, 4, 5, 77)]
    ours = _loss(device, num_classes=num_classes).to(dtype)
    theirs = pml.ProxyAnchorLoss(num_classes, _DIM, margin=0.1, alpha=32).to(device, dtype)
    theirs.proxies.data.copy_(ours.proxies.data)
    embeddings, labels = _rows(names, device).to(dtype), torch.tensor(names, device=device)
    found = oracle.run_loss(ours, embeddings, labels)
    leaf = embeddings.clone().requires_grad_()
    value = theirs(leaf, labels)
    value.backward()
    assert leaf.grad is not None
    # The library normalises once more, which projects its gradient; ours leaves that to the model.
    rows = embeddings.cpu().double()
    projected = found.gradient - (found.gradient * rows).sum(1, keepdim=True) * rows
    expected = oracle.Judged(
        value.detach().cpu().double(), leaf.grad.cpu().double(), (theirs.proxies.grad.cpu().double(),)
    )
    oracle.assert_agree(found._replace(gradient=projected), expected, 1e-5)


def test_a_large_scale_does_not_overflow(device: torch.device) -> None:
    """exp(128 * 1.4) is beyond float32, though the loss is about 179: opposite, and equal to a wrong proxy."""
    loss = _loss(device, {"scale": 128.0, "margin": 0.4})
    own = torch.nn.functional.normalize(loss.proxies.detach(), dim=1)
    embeddings, names = torch.stack([-own[0], own[2]]), [0, 1]
    expected = oracle.judge(
        lambda x, proxies: oracle.proxy_anchor(x, names, proxies, margin=0.4, scale=128.0), embeddings, loss.proxies
    )
    found = oracle.run_loss(loss.float(), embeddings.float(), torch.tensor(names, device=device))
    assert math.isfinite(float(found.value))
    assert float(expected.value) > 100
    oracle.assert_agree(found, expected, 1e-5)


def test_solved_batches_cost_almost_nothing(device: torch.device) -> None:
    loss = _loss(device, {"scale": 64.0}, num_classes=4)
    with torch.no_grad():
        loss.proxies.copy_(torch.eye(4, _DIM, device=device))
    labels = torch.tensor([0, 1, 2, 3], device=device)
    rows = torch.eye(4, _DIM, device=device, dtype=torch.float64)
    with torch.no_grad():
        solved, turned = loss(rows, labels), loss(rows.roll(1, 0), labels)
    assert float(solved.value) == pytest.approx(math.log(1 + 3 * math.exp(6.4)), rel=1e-9)
    assert float(turned.value) > 60
    assert (float(solved.stats["proxy_similarity"]), float(turned.stats["proxy_similarity"])) == (1.0, 0.0)


def test_the_length_of_a_proxy_does_not_matter(device: torch.device) -> None:
    names = [0, 0, 1, 3]
    embeddings, labels, loss = _rows(names, device), torch.tensor(names, device=device), _loss(device)
    before = loss(embeddings, labels).value.item()
    with torch.no_grad():
        loss.proxies.mul_(torch.arange(1, 7, device=device)[:, None])
    assert loss(embeddings, labels).value.item() == pytest.approx(before, rel=1e-12)


def test_proxies_stay_float32_under_half_precision_embeddings(device: torch.device) -> None:
    """pytorch-metric-learning casts them to the dtype of the batch for good (specs/losses.md, 2.3, number 12)."""
    loss = _loss(device).float()
    loss(_rows([0, 1], device).bfloat16(), torch.tensor([0, 1], device=device)).value.backward()
    assert loss.proxies.dtype == torch.float32
    assert loss.proxies.grad is not None
    assert loss.proxies.grad.dtype == torch.float32


def test_proxies_start_as_the_authors_draw_them() -> None:
    """kaiming_normal with fan_out: standard deviation sqrt(2 / C)."""
    config = ProxyAnchorConfig(kind="proxy_anchor")
    proxies = ProxyAnchorLoss(config, num_classes=200, embedding_dim=100).proxies.detach()
    assert proxies.shape == (200, 100)
    assert float(proxies.std()) == pytest.approx(math.sqrt(2 / 200), rel=0.03)

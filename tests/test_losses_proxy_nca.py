"""Proxy-NCA in both forms and SoftTriple: against loops, by hand, and against another library."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.regularizers import SparseCentersRegularizer
from torch import Tensor

from raydml.config import CosFaceConfig, ProxyNCAConfig, SoftTripleConfig, parse
from raydml.losses import build_loss
from raydml.losses.proxy import ProxyNCALoss, SoftTripleLoss
from raydml.losses.softmax import MarginSoftmaxLoss
from tests import loss_oracles as oracle
from tests import proxy_oracles as proxies_of

_Loss = ProxyNCALoss | SoftTripleLoss
_DIM, _NUM_CLASSES = 5, 6
_CONFIGS: dict[str, dict[str, object]] = {
    "original": {"kind": "proxy_nca", "form": "original", "scale": 1.0},
    "sharp original": {"kind": "proxy_nca", "form": "original", "scale": 9.0},
    "plus plus": {"kind": "proxy_nca"},
    "flat plus plus": {"kind": "proxy_nca", "scale": 0.5},
    "soft triple": {"kind": "soft_triple"},
    "one centre": {"kind": "soft_triple", "centers_per_class": 1, "margin": 0.3},
    "two centres": {
        "kind": "soft_triple",
        "centers_per_class": 2,
        "scale": 3.0,
        "assignment_scale": 2.0,
        "margin": 0.5,
        "regularizer_weight": 1.5,
    },
    "no regulariser": {"kind": "soft_triple", "centers_per_class": 3, "regularizer_weight": 0.0},
}


def _build(fields: Mapping[str, object], device: torch.device, num_classes: int = _NUM_CLASSES) -> _Loss:
    """In float64, with the same proxies every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        loss = build_loss(parse({"loss": fields}).loss, num_classes=num_classes, embedding_dim=_DIM)
    assert isinstance(loss, _Loss)
    return loss.to(device).double()


def _loop(loss: _Loss, names: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    match loss.config:
        case ProxyNCAConfig(scale=scale, form=form):
            return lambda x, p: proxies_of.proxy_nca(x, names, p, scale=scale, form=form)
        case SoftTripleConfig() as c:
            return lambda x, p: proxies_of.soft_triple(
                x,
                names,
                p,
                scale=c.scale,
                assignment_scale=c.assignment_scale,
                margin=c.margin,
                weight=c.regularizer_weight,
            )


def _expect_the_loop(loss: _Loss, names: list[int], embeddings: Tensor) -> None:
    expected = oracle.judge(_loop(loss, names), embeddings, loss.proxies)
    found = oracle.run_loss(loss, embeddings, torch.tensor(names, device=embeddings.device))
    assert len(found.parameter_gradients) == 1
    oracle.assert_agree(found, expected, 1e-10)


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
@pytest.mark.parametrize("names", proxies_of.LAYOUTS.values(), ids=proxies_of.LAYOUTS)
def test_equals_the_loop_over_classes(names: list[int], fields: dict[str, object], device: torch.device) -> None:
    _expect_the_loop(_build(fields, device), names, oracle.unit_rows(len(names), _DIM, seed=2).to(device))


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_no_row_is_special(fields: dict[str, object], device: torch.device) -> None:
    """Duplicates, a batch of one row only, and rows at and opposite to their own proxy or first centre."""
    loss, rows = _build(fields, device), oracle.unit_rows(2, _DIM, seed=2).to(device)
    _expect_the_loop(loss, [0, 0, 1, 3], rows[[0, 0, 0, 1]])
    _expect_the_loop(loss, [0, 1, 2, 2], rows[[0, 0, 0, 0]])
    first = loss.proxies.detach().reshape(_NUM_CLASSES, -1, _DIM)[:, 0]
    poles = torch.nn.functional.normalize(first[:2], dim=1)
    _expect_the_loop(loss, [0, 1, 0, 1], torch.cat([poles, -poles]))


def _with_axes(fields: Mapping[str, object], device: torch.device, num_classes: int) -> _Loss:
    """Proxies and centres are the axes, one after the other."""
    loss = _build(fields, device, num_classes)
    with torch.no_grad():
        loss.proxies.copy_(3.0 * torch.eye(loss.proxies[..., 0].numel(), _DIM).view(loss.proxies.shape))
    return loss


@pytest.mark.parametrize(
    ("form", "at_its_own", "at_another"),
    [("original", math.log(3) - 4.0, 4.0 + math.log(1 + 2 * math.exp(-4.0))),
     ("plus_plus", math.log(1 + 3 * math.exp(-4.0)), math.log(3 + math.exp(4.0)))],
)  # fmt: skip
def test_proxy_nca_of_orthogonal_proxies(form: str, at_its_own: float, at_another: float, device: torch.device) -> None:
    """Four axes, scale 2: squared distances are 0 or 2, so e^0 or e^-4 each. The original goes below zero."""
    loss = _with_axes({"kind": "proxy_nca", "form": form, "scale": 2.0}, device, 4)
    rows = torch.eye(2, _DIM, device=device, dtype=torch.float64)
    found = [float(loss(rows[i : i + 1], torch.tensor([0], device=device)).value.detach()) for i in (0, 1)]
    assert found == pytest.approx([at_its_own, at_another], rel=1e-12)


def test_proxies_start_as_the_authors_of_plus_plus_draw_them() -> None:
    """torch.randn(C, D) / 8."""
    proxies = ProxyNCALoss(ProxyNCAConfig(kind="proxy_nca"), num_classes=200, embedding_dim=100).proxies
    assert proxies.shape == (200, 100)
    assert float(proxies.detach().std()) == pytest.approx(1 / 8, rel=0.03)


def test_soft_triple_of_orthogonal_centres(device: torch.device) -> None:
    """Two classes of two axes each, a row at the first: S = e^a / (e^a + 1) for its class, 0 for the other.

    Both classes have one pair of centres, sqrt(2) apart: R = 2 sqrt(2) / (C K (K - 1)) = sqrt(2) / 2.
    """
    fields = {"kind": "soft_triple", "centers_per_class": 2, "scale": 3.0, "assignment_scale": 2.0, "margin": 0.1}
    loss = _with_axes({**fields, "regularizer_weight": 0.5}, device, 2)
    row = torch.eye(1, _DIM, device=device, dtype=torch.float64)
    own = math.exp(2.0) / (math.exp(2.0) + 1.0)
    expected = math.log(1 + math.exp(-3.0 * (own - 0.1))) + 0.5 * math.sqrt(2) / 2
    output = loss(row, torch.tensor([0], device=device))
    assert float(output.value.detach()) == pytest.approx(expected, rel=1e-12)
    assert float(output.stats["class_similarity"]) == pytest.approx(own, rel=1e-12)


def test_one_centre_is_the_softmax_with_a_margin(device: torch.device) -> None:
    """The mean over one centre is its cosine: CosFace with lambda for its scale; the weight has nothing to weigh."""
    names = [0, 0, 1, 4, 5]
    rows, labels = oracle.unit_rows(5, _DIM, seed=3).to(device), torch.tensor(names, device=device)
    triple = _build({"kind": "soft_triple", "centers_per_class": 1, "margin": 0.2, "scale": 7.0}, device)
    cosface = MarginSoftmaxLoss(
        CosFaceConfig(kind="cosface", margin=0.2, scale=7.0), num_classes=_NUM_CLASSES, embedding_dim=_DIM
    ).to(device, torch.float64)
    with torch.no_grad():
        cosface.proxies.copy_(triple.proxies[:, 0])
    expected = oracle.run_loss(cosface, rows, labels)
    found = oracle.run_loss(triple, rows, labels)
    squeezed = found._replace(parameter_gradients=(found.parameter_gradients[0][:, 0],))
    oracle.assert_agree(squeezed, expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coinciding_centres_have_no_distance_and_a_finite_gradient(dtype: torch.dtype, device: torch.device) -> None:
    """All three are one: the value is that of a single centre. The root has no derivative at zero."""
    loss = _build({"kind": "soft_triple", "centers_per_class": 3}, device).to(dtype)
    single = _build({"kind": "soft_triple", "centers_per_class": 1}, device).to(dtype)
    with torch.no_grad():
        loss.proxies.copy_(loss.proxies[:, :1] * torch.tensor([1.0, 2.0, 0.3], device=device)[None, :, None])
        single.proxies.copy_(loss.proxies[:, :1])
    rows, labels = oracle.unit_rows(4, _DIM, seed=3).to(device, dtype), torch.tensor([0, 1, 1, 5], device=device)
    found, expected = oracle.run_loss(loss, rows, labels), oracle.run_loss(single, rows, labels)
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-5)
    assert bool(found.parameter_gradients[0].isfinite().all())
    assert oracle.relative(found.gradient, expected.gradient) < 1e-5


def test_the_regulariser_merges_centres(device: torch.device) -> None:
    """Descent on it alone: a scale of nothing leaves the rest of the loss without gradient."""
    loss = _build({"kind": "soft_triple", "centers_per_class": 2, "regularizer_weight": 1.0, "scale": 1e-6}, device)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    rows, labels = oracle.unit_rows(2, _DIM).to(device), torch.tensor([0, 1], device=device)

    def apart() -> Tensor:
        unit = torch.nn.functional.normalize(loss.proxies.detach(), dim=-1)
        distance: Tensor = (unit[:, 0] - unit[:, 1]).norm(dim=1)
        return distance

    before = apart()
    for _ in range(5):
        optimizer.zero_grad()
        loss(rows, labels).value.backward()
        optimizer.step()
    assert bool((apart() < before).all())


@pytest.mark.parametrize("kind", ["proxy_nca", "soft_triple"])
@pytest.mark.parametrize("form", ["plus_plus", "original"])
def test_a_single_class_costs_its_regulariser_at_most(kind: str, form: str, device: torch.device) -> None:
    """Nothing to tell apart; the original form has an empty sum below, which is defined as no loss."""
    fields = {"kind": kind, **({"form": form} if kind == "proxy_nca" else {"regularizer_weight": 0.0})}
    labels = torch.zeros(3, dtype=torch.int64, device=device)
    found = oracle.run_loss(_build(fields, device, 1), oracle.unit_rows(3, _DIM).to(device), labels)
    assert float(found.value) == float(found.gradient.norm()) == float(found.parameter_gradients[0].norm()) == 0.0


def _with_regulariser(num_classes: int, dim: int) -> Any:  # noqa: ANN401
    regulariser = SparseCentersRegularizer(num_classes, 3)
    return pml.SoftTripleLoss(
        num_classes,
        dim,
        centers_per_class=3,
        la=6,
        gamma=0.5,
        margin=0.1,
        weight_regularizer=regulariser,
        weight_reg_weight=0.2,
    )


_TRIPLE = {"kind": "soft_triple", "centers_per_class": 3, "scale": 6.0, "assignment_scale": 2.0, "margin": 0.1}
_LIBRARY: dict[str, tuple[dict[str, object], Callable[[int, int], Any]]] = {
    "plus plus": ({"kind": "proxy_nca", "scale": 4.0}, lambda c, d: pml.ProxyNCALoss(c, d, softmax_scale=4)),
    # Its gamma is the paper's temperature. It knows the regulariser, but leaves it out unless asked.
    "soft triple": (
        {**_TRIPLE, "regularizer_weight": 0.0},
        lambda c, d: pml.SoftTripleLoss(c, d, centers_per_class=3, la=6, gamma=0.5, margin=0.1),
    ),
    "soft triple with regulariser": ({**_TRIPLE, "regularizer_weight": 0.2}, _with_regulariser),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("fields", "theirs"), _LIBRARY.values(), ids=_LIBRARY)
def test_agrees_with_the_library(
    fields: dict[str, object], theirs: Callable[[int, int], Any], dtype: torch.dtype, device: torch.device
) -> None:
    """Goal L4 of specs/performance.md: 1e-5. Its Proxy-NCA is the plus_plus form."""
    names = [0, 0, 1, 4, 5]
    rows, labels = oracle.unit_rows(5, _DIM, seed=4).to(device, dtype), torch.tensor(names, device=device)
    ours, other = _build(fields, device).to(dtype), theirs(_NUM_CLASSES, _DIM).to(device, dtype)
    flat = ours.proxies.detach().reshape(-1, _DIM)
    parameter = other.proxies if isinstance(ours, ProxyNCALoss) else other.fc
    parameter.data.copy_(flat if isinstance(ours, ProxyNCALoss) else flat.T)
    leaf = rows.clone().requires_grad_()
    value = other(leaf, labels)
    value.backward()
    assert leaf.grad is not None
    proxy_gradient = parameter.grad if isinstance(ours, ProxyNCALoss) else parameter.grad.T
    expected = oracle.Judged(
        value.detach().cpu().double(),
        proxies_of.tangential(leaf.grad.cpu().double(), rows),
        (proxy_gradient.reshape(ours.proxies.shape).cpu().double(),),
    )
    found = oracle.run_loss(ours, rows, labels)
    projected = found._replace(gradient=proxies_of.tangential(found.gradient, rows))
    oracle.assert_agree(projected, expected, 1e-5)

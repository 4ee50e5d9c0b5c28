"""Normalised softmax, CosFace, ArcFace, CurricularFace: against loops, by hand, and against another library."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from torch import Tensor, nn

from raydml.config import ArcFaceConfig, CosFaceConfig, CurricularFaceConfig, NormalisedSoftmaxConfig, parse
from raydml.losses import build_loss
from raydml.losses.softmax import CurricularFaceLoss, MarginSoftmaxLoss, angle_plus_margin
from tests import loss_oracles as oracle
from tests import proxy_oracles as proxies_of

_Loss = MarginSoftmaxLoss | CurricularFaceLoss
_DIM, _NUM_CLASSES = 5, 6
_CONFIGS: dict[str, dict[str, object]] = {
    "softmax": {"kind": "normalised_softmax"},
    "warm softmax": {"kind": "normalised_softmax", "temperature": 0.7},
    "cosface": {"kind": "cosface"},
    "gentle cosface": {"kind": "cosface", "margin": 0.1, "scale": 3.0},
    "arcface": {"kind": "arcface"},
    "gentle arcface": {"kind": "arcface", "margin_deg": 80.0, "scale": 3.0},
    "arcface without margin": {"kind": "arcface", "margin_deg": 0.0, "scale": 10.0},
    "curricularface": {"kind": "curricularface"},
    "gentle curricularface": {"kind": "curricularface", "margin_deg": 60.0, "scale": 3.0, "momentum": 0.3},
}


def _build(fields: dict[str, object], device: torch.device, num_classes: int = _NUM_CLASSES) -> _Loss:
    """In float64, with the same proxies every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        loss = build_loss(parse({"loss": fields}).loss, num_classes=num_classes, embedding_dim=_DIM)
    assert isinstance(loss, _Loss)
    return loss.to(device).double()


def _with_unit_axes(fields: dict[str, object], device: torch.device, num_classes: int) -> _Loss:
    """Proxies are the axes, of different lengths."""
    loss = _build(fields, device, num_classes)
    with torch.no_grad():
        loss.proxies.copy_(torch.eye(num_classes, _DIM) * torch.arange(1, num_classes + 1)[:, None])
    return loss


def _loop(loss: _Loss, names: list[int], embeddings: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    match loss.config:
        case NormalisedSoftmaxConfig(temperature=temperature):
            return lambda x, p: proxies_of.margin_softmax(x, names, p, scale=1 / temperature, target=lambda c: c)
        case CosFaceConfig(margin=margin, scale=scale):
            return lambda x, p: proxies_of.margin_softmax(x, names, p, scale=scale, target=lambda c: c - margin)
        case ArcFaceConfig(margin_deg=margin, scale=scale):
            target = partial(proxies_of.arcface_target, margin_deg=margin)
            return lambda x, p: proxies_of.margin_softmax(x, names, p, scale=scale, target=target)
        case CurricularFaceConfig(margin_deg=margin, scale=scale, momentum=momentum):
            assert isinstance(loss, CurricularFaceLoss)
            own = _own_cosines(loss, names, embeddings)
            t = proxies_of.curriculum_after(float(loss.curriculum), own, momentum)
            return lambda x, p: proxies_of.curricularface(x, names, p, scale=scale, margin_deg=margin, curriculum=t)


def _own_cosines(loss: _Loss, names: list[int], embeddings: Tensor) -> list[float]:
    rows = embeddings.detach().cpu()
    proxies = loss.proxies.detach().cpu()
    return [float(proxies_of.cosines(x, proxies)[y]) for x, y in zip(rows, names, strict=True)]


def _expect_the_loop(loss: _Loss, names: list[int], embeddings: Tensor) -> None:
    expected = oracle.judge(_loop(loss, names, embeddings), embeddings, loss.proxies)
    found = oracle.run_loss(loss, embeddings, torch.tensor(names, device=embeddings.device))
    assert len(found.parameter_gradients) == 1
    oracle.assert_agree(found, expected, 1e-10)


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
@pytest.mark.parametrize("names", proxies_of.LAYOUTS.values(), ids=proxies_of.LAYOUTS)
def test_equals_the_loop_over_classes(names: list[int], fields: dict[str, object], device: torch.device) -> None:
    """Twice: CurricularFace's second step starts from another curriculum."""
    loss = _build(fields, device)
    for seed in (2, 3):
        _expect_the_loop(loss, names, oracle.unit_rows(len(names), _DIM, seed=seed).to(device))


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_duplicates_and_equal_rows_are_rows_like_others(fields: dict[str, object], device: torch.device) -> None:
    rows = oracle.unit_rows(2, _DIM, seed=2).to(device)
    _expect_the_loop(_build(fields, device), [0, 0, 1, 3], rows[[0, 0, 0, 1]])
    _expect_the_loop(_build(fields, device), [0, 1, 2, 2], rows[[0, 0, 0, 0]])


_AT_THE_POLES: dict[str, tuple[dict[str, object], float, float]] = {
    "softmax": ({"kind": "normalised_softmax", "temperature": 0.5}, 2.0, -2.0),
    "cosface": ({"kind": "cosface", "margin": 0.25, "scale": 2.0}, 1.5, -2.5),
    # 60 degrees: cos m = 1/2; opposite, cos(180) - m sin m.
    "arcface": ({"kind": "arcface", "margin_deg": 60.0, "scale": 2.0}, 1.0, -2.0 - math.pi / 3 * math.sqrt(3)),
    "curricularface": (
        {"kind": "curricularface", "margin_deg": 60.0, "scale": 2.0},
        1.0,
        -2.0 - math.pi / 3 * math.sqrt(3),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("fields", "own", "opposite"), _AT_THE_POLES.values(), ids=_AT_THE_POLES)
def test_at_and_opposite_to_the_own_proxy(
    fields: dict[str, object], own: float, opposite: float, dtype: torch.dtype, device: torch.device
) -> None:
    """Proxies are axes, so the three others have cosine 0: log(1 + 3 e^-z), z the scaled target of the own class.

    acos has no derivative here. For CurricularFace the limit is cos(m) = 1/2 at its proxy and cos(180 + m) = -1/2
    opposite: there the others are hard, and 0 (t + 0) is 0 too, but its derivative is t.
    """
    loss = _with_unit_axes(fields, device, 4).to(dtype)
    for sign, target in ((1.0, own), (-1.0, opposite)):
        row = sign * torch.eye(4, _DIM, device=device, dtype=dtype)[:1]
        found = oracle.run_loss(loss, row, torch.tensor([0], device=device))
        assert float(found.value) == pytest.approx(math.log1p(3 * math.exp(-target)), rel=1e-6)
        assert bool(found.gradient.isfinite().all())
        assert bool(found.parameter_gradients[0].isfinite().all())
        # The others pull sideways, each by its softmax p = e^0 / (e^z + 3) times the scale.
        slope = float(loss.curriculum) if isinstance(loss, CurricularFaceLoss) and sign < 0 else 1.0
        sideways = [2.0 * slope / (math.exp(target) + 3.0)] * 3
        assert found.gradient[0, 1:4].tolist() == pytest.approx(sideways, rel=1e-5)


def test_golden_values_of_orthogonal_proxies(device: torch.device) -> None:
    """Rows at 45 degrees between the own axis and another, c = 1/sqrt(2) with both and 0 with the third axis."""
    c, labels = math.sqrt(0.5), torch.tensor([0], device=device)
    row = torch.tensor([[c, c, 0.0, 0.0, 0.0]], device=device, dtype=torch.float64)

    def value(**fields: object) -> float:
        return float(_with_unit_axes(fields, device, 3)(row, labels).value.detach())

    softmax = value(kind="normalised_softmax", temperature=0.5)
    assert softmax == pytest.approx(math.log(2 + math.exp(-2 * c)), rel=1e-12)
    cosface = value(kind="cosface", margin=0.25, scale=2.0)
    assert cosface == pytest.approx(math.log(1 + math.exp(0.5) + math.exp(0.5 - 2 * c)), rel=1e-12)
    # 45 + 45 = 90 degrees: the target is 0.
    arcface = value(kind="arcface", margin_deg=45.0, scale=2.0)
    assert arcface == pytest.approx(math.log(2 + math.exp(2 * c)), rel=1e-12)
    # The second axis is hard: c (t + c) with t = c / 2; the third is not, 0 being no more than 0.
    curricular = value(kind="curricularface", margin_deg=45.0, scale=2.0, momentum=0.5)
    assert curricular == pytest.approx(math.log(2 + math.exp(2 * (c * c / 2 + c * c))), rel=1e-12)


@pytest.mark.parametrize("margin_deg", [0.0, 5.0, 28.6, 60.0, 89.0])
def test_arcface_falls_with_the_angle_all_the_way(margin_deg: float, device: torch.device) -> None:
    """Both branches, and the step between them, which is downwards: -1 to -cos(m) - m sin(m), never above -1."""
    theta = torch.linspace(0.0, math.pi, 702, dtype=torch.float64)
    target = angle_plus_margin(theta.cos().to(device), margin_deg).cpu()
    m = math.radians(margin_deg)
    before = theta <= math.pi - m
    expected = torch.where(before, (theta + m).cos(), theta.cos() - m * math.sin(m))
    torch.testing.assert_close(target, expected, rtol=0.0, atol=1e-9)
    assert bool((target.diff() < 0).all())
    assert bool(before.any())
    assert margin_deg == 0.0 or not bool(before.all())


def test_a_negative_is_hard_by_the_angle_even_beyond_the_turn(device: torch.device) -> None:
    """150 degrees from its class, m = 60: the limit is cos(210), which 165 degrees do not exceed; 140 would.

    The target cos(150) - m sin(m) lies below every cosine, and would make all of them hard.
    """
    loss = _with_unit_axes({"kind": "curricularface", "margin_deg": 60.0, "scale": 2.0}, device, 2)
    degrees = torch.deg2rad(torch.tensor([0.0, -15.0, 150.0], dtype=torch.float64))
    plane = torch.nn.functional.pad(torch.stack([degrees.cos(), degrees.sin()], dim=1), (0, _DIM - 2)).to(device)
    with torch.no_grad():
        loss.proxies.copy_(plane[:2])
    target = math.cos(math.radians(150)) - math.pi / 3 * math.sin(math.pi / 3)
    easy = math.log1p(math.exp(2 * (math.cos(math.radians(165)) - target)))
    value = loss(plane[2:], torch.tensor([0], device=device)).value
    assert float(value.detach()) == pytest.approx(easy, rel=1e-12)


@pytest.mark.parametrize("kind", ["arcface", "curricularface"])
def test_the_loss_rises_with_the_angle_and_its_gradient_points_home(kind: str, device: torch.device) -> None:
    """Beyond 180 degrees - m too, where cos(theta + m) itself would turn back. The other proxy stays at 90 degrees."""
    loss = _with_unit_axes({"kind": kind, "margin_deg": 50.0, "scale": 8.0}, device, 2)
    with torch.no_grad():
        loss.proxies.copy_(torch.eye(5, device=device)[[0, 2]])
    labels, values = torch.tensor([0], device=device), []
    for degrees in range(1, 180, 2):
        theta = torch.tensor(math.radians(degrees), dtype=torch.float64, requires_grad=True)
        row = torch.stack([theta.cos(), theta.sin(), *torch.zeros(3, dtype=torch.float64)])[None].to(device)
        value = loss(row, labels).value
        (slope,) = torch.autograd.grad(value, theta)
        assert float(slope) > 0, degrees
        values.append(float(value.detach()))
    assert values == sorted(values)


def test_curriculum_follows_the_loop_and_a_reload(device: torch.device) -> None:
    """A buffer: 0 at first, the running mean after; a run that goes on from a checkpoint goes on with it."""
    fields: dict[str, object] = {"kind": "curricularface", "momentum": 0.8, "scale": 6.0}
    loss, names, t = _build(fields, device), [0, 1, 2, 2], 0.0
    assert isinstance(loss, CurricularFaceLoss)
    assert float(loss.curriculum) == 0.0
    labels = torch.tensor(names, device=device)
    for seed in range(4):
        rows = oracle.unit_rows(4, _DIM, seed=seed, noise=0.4, classes=names).to(device)
        t = proxies_of.curriculum_after(t, _own_cosines(loss, names, rows), 0.8)
        _expect_the_loop(loss, names, rows)
        assert float(loss.curriculum) == pytest.approx(t, rel=1e-12)
    state = {key: value.clone() for key, value in loss.state_dict().items()}
    assert set(state) == {"proxies", "curriculum"}
    fresh = _build(fields, device)
    fresh.load_state_dict(state)
    rows = oracle.unit_rows(4, _DIM, seed=9).to(device)
    again, straight = fresh(rows, labels), loss(rows, labels)
    assert torch.equal(again.value, straight.value)
    assert torch.equal(again.stats["curriculum"], straight.stats["curriculum"])
    assert not torch.equal(_build(fields, device)(rows, labels).value, straight.value)


def test_a_step_does_not_change_the_curriculum_of_an_earlier_one(device: torch.device) -> None:
    """Backward may come after a later forward, and what was logged stays what it was."""
    loss = _build({"kind": "curricularface", "momentum": 0.5}, device)
    labels = torch.tensor([0, 1], device=device)
    rows = [oracle.unit_rows(2, _DIM, seed=seed).to(device).requires_grad_() for seed in range(2)]
    first = loss(rows[0], labels)
    logged = float(first.stats["curriculum"])
    loss(rows[1], labels)
    first.value.backward()
    assert float(first.stats["curriculum"]) == logged


@pytest.mark.parametrize("kind", ["normalised_softmax", "cosface", "arcface", "curricularface"])
def test_a_single_class_costs_nothing(kind: str, device: torch.device) -> None:
    """Its softmax is over itself alone."""
    found = oracle.run_loss(
        _build({"kind": kind}, device, num_classes=1),
        oracle.unit_rows(3, _DIM).to(device),
        torch.zeros(3, dtype=torch.int64, device=device),
    )
    assert float(found.value) == 0.0
    assert float(found.gradient.norm()) == float(found.parameter_gradients[0].norm()) == 0.0


_LIBRARY: dict[str, tuple[dict[str, object], Callable[..., Any]]] = {
    "softmax": (
        {"kind": "normalised_softmax", "temperature": 0.1},
        partial(pml.NormalizedSoftmaxLoss, temperature=0.1),
    ),
    "cosface": ({"kind": "cosface", "margin": 0.2, "scale": 8.0}, partial(pml.CosFaceLoss, margin=0.2, scale=8)),
    "arcface": ({"kind": "arcface", "margin_deg": 40, "scale": 8.0}, partial(pml.ArcFaceLoss, margin=40, scale=8)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("fields", "theirs"), _LIBRARY.values(), ids=_LIBRARY)
def test_agrees_with_the_library(
    fields: dict[str, object], theirs: Callable[..., Any], dtype: torch.dtype, device: torch.device
) -> None:
    """Goal L4 of specs/performance.md. One row is nearly opposite to its proxy, beyond ArcFace's 180 degrees - m."""
    loss, other = _build(fields, device).to(dtype), theirs(_NUM_CLASSES, _DIM).to(device, dtype)
    other.W.data.copy_(loss.proxies.data.T)
    names = [0, 0, 1, 4, 5]
    rows = oracle.unit_rows(5, _DIM, seed=4, classes=names)
    proxy = loss.proxies[5].detach().cpu().double()
    rows[4] = nn.functional.normalize(0.3 * rows[4] - proxy / proxy.norm(), dim=0)
    rows, labels = rows.to(device, dtype), torch.tensor(names, device=device)
    leaf = rows.clone().requires_grad_()
    value = other(leaf, labels)
    value.backward()
    assert leaf.grad is not None
    found = oracle.run_loss(loss, rows, labels)
    expected = oracle.Judged(
        value.detach().cpu().double(),
        proxies_of.tangential(leaf.grad.cpu().double(), rows),
        (other.W.grad.T.cpu().double(),),
    )
    projected = found._replace(gradient=proxies_of.tangential(found.gradient, rows))
    oracle.assert_agree(projected, expected, 1e-5)


def test_the_library_casts_its_weights_for_good_and_ours_stay(device: torch.device) -> None:
    """specs/losses.md, 2.3, number 12: when this fails, the defect is gone, and `raydml.losses.library` can do less."""
    rows, labels = oracle.unit_rows(2, _DIM).to(device).bfloat16(), torch.tensor([0, 1], device=device)
    theirs = pml.ArcFaceLoss(_NUM_CLASSES, _DIM).to(device)
    theirs(rows, labels)
    assert theirs.W.dtype == torch.bfloat16
    ours = _build({"kind": "arcface"}, device).float()
    assert isinstance(ours, MarginSoftmaxLoss)
    ours(rows, labels).value.backward()
    assert ours.proxies.dtype == torch.float32
    assert ours.proxies.grad is not None
    assert ours.proxies.grad.dtype == torch.float32

"""The invariants of the Margin-based Discriminate Loss, by their numbers T1 ... T17 in specs/losses.md, 1.5.

T9 and T13 hold for every loss and are tested in test_losses_common.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import GeneralizedLiftedStructureLoss, NTXentLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn

from raydml.config import DiscriminateConfig
from raydml.losses.discriminate import DiscriminateLoss
from tests import loss_oracles as oracle

_LABELS = [0, 0, 0, 1, 1, 2, 2, 3]  # three sizes of class, a singleton among them
_EACH_OPTION: tuple[dict[str, object], ...] = (
    {},
    {"margin": 0.0, "scale": 2.0},
    {"scope": "batch"},
    {"surrogate": "hinge", "margin": 1.0},
    {"similarity": "euclidean"},
    {"similarity": "squared_euclidean", "margin": 0.5},
    {"positive_scale": 4.0},
    {"negative_scale": 40.0},
    {"positive_scale": 3.0, "negative_scale": 7.0, "scope": "batch", "surrogate": "hinge", "similarity": "euclidean"},
)
Forged = Callable[[Tensor], DiscriminateLoss]


def _loss(**fields: object) -> DiscriminateLoss:
    return DiscriminateLoss(DiscriminateConfig.model_validate({"kind": "discriminate", **fields}))


def _value(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> Tensor:
    value: Tensor = loss(embeddings, labels).value
    return value


def _batch(device: torch.device, labels: list[int], *, dim: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    rows = oracle.unit_rows(len(labels), dim, seed=seed, classes=labels)
    return rows.to(device), torch.tensor(labels, device=device)


def _forge(monkeypatch: pytest.MonkeyPatch, similarity: Tensor) -> None:
    """Makes the loss see this matrix, which need not come from embeddings."""
    monkeypatch.setattr("raydml.losses.discriminate.cosine", lambda a, b: similarity)


def _gates(s: Tensor, labels: list[int], *, scale: float, margin: float) -> tuple[Tensor, Tensor]:
    """T2, closed form: sigma of the valid anchors, and dL/dS."""
    gradient, sigmas = torch.zeros_like(s), []
    for i in range(len(labels)):
        p, n = oracle.positives(labels, i), oracle.negatives(labels, i)
        if not p or not n:
            continue
        z = (scale * s[i, n]).logsumexp(0) + (-scale * s[i, p]).logsumexp(0) + scale * margin
        sigmas.append(torch.sigmoid(z))
        gradient[i, n] = sigmas[-1] * (scale * s[i, n]).softmax(0)
        gradient[i, p] = -sigmas[-1] * (-scale * s[i, p]).softmax(0)
    return torch.stack(sigmas), gradient / len(sigmas)


@pytest.mark.parametrize("fields", _EACH_OPTION)
def test_t1_equals_the_double_sum_over_pairs(fields: dict[str, object], device: torch.device) -> None:
    loss = _loss(**fields)
    embeddings, labels = _batch(device, _LABELS)
    expected = oracle.judge(lambda x: oracle.discriminate(x, _LABELS, loss.config), embeddings)
    assert float(expected.value) > 1e-3
    oracle.assert_agree(oracle.run_loss(loss, embeddings, labels), expected, 1e-11)


def test_equal_scales_of_their_own_are_the_common_scale(device: torch.device) -> None:
    batch = _batch(device, _LABELS)
    own = _loss(scale=8.0, positive_scale=8.0, negative_scale=8.0)
    torch.testing.assert_close(_value(own, *batch), _value(_loss(scale=8.0), *batch), rtol=1e-14, atol=0.0)


def test_t2_gradient_is_the_closed_form(device: torch.device) -> None:
    embeddings, labels = _batch(device, _LABELS)
    _, by_similarity = _gates((embeddings @ embeddings.T).cpu(), _LABELS, scale=6.0, margin=0.3)
    expected = (by_similarity + by_similarity.T) @ embeddings.cpu()
    found = oracle.run_loss(_loss(scale=6.0, margin=0.3), embeddings, labels).gradient
    assert oracle.relative(found, expected) < 1e-13


@pytest.mark.parametrize("fields", [{}, {"scope": "batch"}, {"similarity": "euclidean"}, {"positive_scale": 3.0}])
def test_t2_gradcheck(fields: dict[str, object], device: torch.device) -> None:
    loss = _loss(scale=4.0, **fields)
    projections, labels = _batch(device, [0, 0, 1, 1, 2], dim=3)

    def value(x: Tensor) -> Tensor:
        return _value(loss, nn.functional.normalize(x, dim=1), labels)

    assert torch.autograd.gradcheck(value, (projections.requires_grad_(),))


@pytest.mark.parametrize("scale", [5.0, 100.0, 1e4])
def test_t3_lies_between_the_hinge_and_its_smoothing(scale: float, device: torch.device) -> None:
    embeddings, labels = _batch(device, _LABELS)
    s, anchors = (embeddings @ embeddings.T).cpu(), range(7)  # the last row is a singleton
    hinges = [
        max(0.0, float(s[i, oracle.negatives(_LABELS, i)].max() - s[i, oracle.positives(_LABELS, i)].min()) + 0.2)
        for i in anchors
    ]
    pairs = [len(oracle.negatives(_LABELS, i)) * len(oracle.positives(_LABELS, i)) for i in anchors]
    upper = [h + math.log(1 + k) / scale for h, k in zip(hinges, pairs, strict=True)]
    value = float(_value(_loss(scale=scale, margin=0.2), embeddings, labels))
    assert sum(hinges) / 7 <= value * (1 + 1e-12)
    assert value <= sum(upper) / 7


def test_t4_hard_limit_is_the_batch_hard_triplet(device: torch.device) -> None:
    embeddings, labels = _batch(device, [0, 0, 0, 1, 1, 2, 2, 2])
    triplet = TripletMarginLoss(margin=0.3, distance=CosineSimilarity(), reducer=MeanReducer())
    hardest = BatchHardMiner(distance=CosineSimilarity())(embeddings, labels)
    value = _value(_loss(scale=1e6, margin=0.3), embeddings, labels)
    assert float(value) == pytest.approx(float(triplet(embeddings, labels, hardest)), abs=1e-6)


def test_t5_one_positive_without_margin_is_nt_xent(device: torch.device) -> None:
    embeddings, labels = _batch(device, [0, 0, 1, 1, 2, 2])
    found = oracle.run_loss(_loss(scale=10.0, margin=0.0), embeddings, labels)
    leaf = embeddings.detach().requires_grad_()
    nt_xent = NTXentLoss(temperature=0.1)(leaf, labels) / 10.0
    (gradient,) = torch.autograd.grad(nt_xent, leaf)
    # The library normalises once more, which projects its gradient; ours leaves that to the model.
    projected = found.gradient - (found.gradient * embeddings.cpu()).sum(1, keepdim=True) * embeddings.cpu()
    assert float(found.value) == pytest.approx(float(nt_xent.detach()), rel=1e-12)
    assert oracle.relative(projected, gradient.cpu()) < 1e-12


def test_t5_one_positive_without_margin_is_n_pair(device: torch.device) -> None:
    """N-pair: cross-entropy of each anchor's positive among its positive and its negatives."""
    names = [0, 0, 1, 1, 2, 2]
    embeddings, labels = _batch(device, names)
    logits = 10.0 * embeddings @ embeddings.T
    terms = []
    for i in range(6):
        row = torch.stack([logits[i, j] for j in oracle.positives(names, i) + oracle.negatives(names, i)])
        terms.append(nn.functional.cross_entropy(row[None], torch.tensor([0], device=device)) / 10.0)
    value = _value(_loss(scale=10.0, margin=0.0), embeddings, labels)
    assert float(value) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-13)


def test_t6_unit_scale_on_distances_is_generalised_lifted_structure(device: torch.device) -> None:
    """With a hinge exactly; with softplus from above, by at most log 2."""
    batch = _batch(device, [0, 0, 0, 1, 1, 2, 2])
    lifted = float(GeneralizedLiftedStructureLoss(neg_margin=0.5, pos_margin=0.0)(*batch))
    hinge, smooth = (
        float(_value(_loss(scale=1.0, margin=0.5, similarity="euclidean", surrogate=surrogate), *batch))
        for surrogate in ("hinge", "softplus")
    )
    assert hinge == pytest.approx(lifted, rel=1e-12)
    assert 0.0 <= smooth - hinge <= math.log(2.0)


def test_t7_squared_distance_is_the_cosine_form_in_other_units(device: torch.device) -> None:
    batch = _batch(device, _LABELS)
    squared = _loss(similarity="squared_euclidean", margin=0.6, scale=5.0)
    cosine = _loss(similarity="cosine", margin=0.3, scale=10.0)
    assert float(_value(squared, *batch)) == pytest.approx(2.0 * float(_value(cosine, *batch)), rel=1e-12)


def test_t8_t16_a_shift_of_an_anchors_similarities_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    embeddings, labels = _batch(device, _LABELS)
    s = (embeddings @ embeddings.T).requires_grad_()
    _forge(monkeypatch, s)
    value = _value(_loss(), embeddings, labels)
    (gradient,) = torch.autograd.grad(value, s)
    assert float(gradient.sum(1).abs().max()) < 1e-15 < float(gradient.abs().max())
    _forge(monkeypatch, s.detach() + torch.arange(8.0, device=device, dtype=s.dtype)[:, None])
    assert float(_value(_loss(), embeddings, labels)) == pytest.approx(float(value.detach()), rel=1e-12)


def test_t10_a_small_loss_certifies_strict_separation(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """L_i < log(2) / scale implies separation by the margin; and not by much more, or the bound were no use."""
    labels = torch.tensor([0, 0, 1], device=device)
    generator = torch.Generator().manual_seed(0)
    loss, certified, gaps = _loss(scale=10.0, margin=0.3), 0, []
    for _ in range(500):
        positive, negative = torch.rand(2, generator=generator).tolist()
        # The second anchor is separated beyond doubt and costs nothing: the loss is half that of the first.
        rows = [[0.0, positive, negative], [99.0, 0.0, -99.0], [0.0, 0.0, 0.0]]
        _forge(monkeypatch, torch.tensor(rows, device=device, dtype=torch.float64))
        output = loss(torch.zeros(3, 2, device=device), labels)
        separated = positive - negative > 0.3
        assert float(output.stats["separated"]) == (1.0 if separated else 0.5)
        if 2.0 * float(output.value) < math.log(2.0) / 10.0:
            assert separated
            certified += 1
            gaps.append(positive - negative)
    assert certified > 50
    assert min(gaps) < 0.35


@pytest.mark.parametrize("fields", _EACH_OPTION)
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [5]], ids=["no negatives", "no positives", "one row"])
def test_t11_nothing_to_compare_is_zero_with_zero_gradient(
    labels: list[int], fields: dict[str, object], device: torch.device
) -> None:
    embeddings = oracle.unit_rows(len(labels), 4).to(device)
    found = oracle.run_loss(_loss(**fields), embeddings, torch.tensor(labels, device=device))
    assert float(found.value) == 0.0
    assert bool((found.gradient == 0).all())


@pytest.mark.parametrize("fields", [{}, {"scale": 1e4}, {"scope": "batch"}, {"surrogate": "hinge"}])
def test_t12_extreme_similarities_stay_finite(
    fields: dict[str, object], monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    embeddings, labels = _batch(device, _LABELS)
    s = (1e4 * (embeddings @ embeddings.T)).float()
    for leaf in (s.clone().requires_grad_(), s.neg().requires_grad_()):
        _forge(monkeypatch, leaf)
        value = _value(_loss(**fields), embeddings, labels)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert math.isfinite(float(value.detach()))
        assert bool(torch.isfinite(gradient).all())


def test_t14_t17_slope_in_the_margin_is_the_mean_gate(device: torch.device) -> None:
    """Gates lie in (0, 1), so the loss rises with the margin; it starts above zero."""
    embeddings, labels = _batch(device, _LABELS)
    sigmas, _ = _gates((embeddings @ embeddings.T).cpu(), _LABELS, scale=6.0, margin=0.3)
    low, high = (float(_value(_loss(scale=6.0, margin=m), embeddings, labels)) for m in (0.3 - 1e-5, 0.3 + 1e-5))
    assert (high - low) / 2e-5 == pytest.approx(float(sigmas.mean()), rel=1e-8)
    values = [float(_value(_loss(margin=m), embeddings, labels)) for m in (0.0, 0.1, 0.5, 2.0)]
    assert values[0] >= 0.0
    assert values == sorted(values)


def test_t15_negatives_repeated_k_times_act_as_a_margin_of_log_k(device: torch.device) -> None:
    """Only the two anchors of class 0 count: the others, k copies each, have labels of their own."""
    rows = oracle.unit_rows(5, 4, seed=6).to(device)
    once = _value(
        _loss(scale=8.0, margin=0.1 + math.log(3.0) / 8.0), rows, torch.tensor([0, 0, 1, 2, 3], device=device)
    )
    thrice = torch.cat([rows, rows[2:], rows[2:]])
    repeated = _value(_loss(scale=8.0, margin=0.1), thrice, torch.tensor([0, 0, *range(1, 10)], device=device))
    assert float(repeated) == pytest.approx(float(once), rel=1e-13)


def test_repeated_rows_have_finite_gradients(device: torch.device) -> None:
    embeddings, labels = _batch(device, [0, 0, 1, 1])
    same = embeddings[:1].expand(4, -1).float()
    for similarity in ("cosine", "euclidean", "squared_euclidean"):
        found = oracle.run_loss(_loss(similarity=similarity), same, labels)
        assert bool(torch.isfinite(found.gradient).all())
        assert float(found.value) > 0.2  # nothing is separated, so the hinge alone is the margin

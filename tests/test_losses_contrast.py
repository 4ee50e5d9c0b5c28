"""N-pair, NT-Xent, SupCon, multi-similarity and circle against loops, hand-made numbers and another library.

pytorch-metric-learning 2.9.0 is a second opinion where it is right; test_losses_structured says where it is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import exp, log

import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor, nn

from raydml.losses import References, build_loss
from tests import loss_oracles as oracle
from tests import pair_oracles as loops

Fields = dict[str, object]
_CASES: tuple[Fields, ...] = (
    {"kind": "n_pair"},
    {"kind": "n_pair", "scale": 3.0},
    {"kind": "nt_xent"},
    {"kind": "nt_xent", "temperature": 0.5},
    {"kind": "supcon"},
    {"kind": "supcon", "temperature": 0.7},
    {"kind": "multi_similarity"},
    {"kind": "multi_similarity", "epsilon": 0.4, "alpha": 5.0, "beta": 12.0, "base": 0.1},
    {"kind": "multi_similarity", "epsilon": None},
    {"kind": "circle"},
    {"kind": "circle", "margin": 0.1, "scale": 6.0},
)
_SQRT_3 = math.sqrt(3.0)


def _loss(fields: Fields) -> nn.Module:
    return build_loss(loops.configured(fields), num_classes=8, embedding_dim=6)


def _judge(fields: Fields, rows: Tensor, names: list[int]) -> oracle.Judged:
    return oracle.run_loss(_loss(fields), rows, torch.tensor(names, device=rows.device))


def _rows(names: list[int], device: torch.device, *, dim: int = 6, seed: int = 0) -> Tensor:
    return oracle.unit_rows(len(names), dim, seed=seed, noise=1.5, classes=names).to(device)


def _softplus(z: float) -> float:
    return log(1.0 + exp(z))


@pytest.mark.parametrize("batch", loops.BATCHES)
@pytest.mark.parametrize("fields", _CASES, ids=str)
def test_equals_the_loop(fields: Fields, batch: str, device: torch.device) -> None:
    names, config = loops.BATCHES[batch], loops.configured(fields)
    rows = _rows(names, device)
    expected = oracle.judge(lambda x: loops.loop(loops.within(x, names), config), rows)
    oracle.assert_agree(_judge(fields, rows, names), expected, 1e-10)


@pytest.mark.parametrize("fields", _CASES, ids=str)
def test_equals_the_loop_where_rows_repeat(fields: Fields, device: torch.device) -> None:
    """An image that a small class repeats, and the same point in two classes."""
    names, config = [0, 0, 0, 1, 1, 2], loops.configured(fields)
    rows = _rows([0, 0, 1], device, seed=4)[[0, 0, 1, 2, 2, 1]]
    expected = oracle.judge(lambda x: loops.loop(loops.within(x, names), config), rows)
    oracle.assert_agree(_judge(fields, rows, names), expected, 1e-10)


_COLLAPSED: tuple[tuple[Fields, float], ...] = (
    ({"kind": "n_pair"}, log(4)),  # one for each class
    ({"kind": "nt_xent"}, log(1 + 9)),
    ({"kind": "supcon"}, log(2 + 9)),
    ({"kind": "multi_similarity"}, log(1 + 2 * exp(-1)) / 2 + log(1 + 9 * exp(25)) / 50),
    ({"kind": "multi_similarity", "epsilon": None}, log(1 + 2 * exp(-1)) / 2 + log(1 + 9 * exp(25)) / 50),
    # exponents g (1 + m)(1 - m) of negatives and -g m (1 - (1 - m)) of positives, weight 1 + m - 1 = m
    ({"kind": "circle", "margin": 0.25, "scale": 8.0}, _softplus(log(2 * 9) + 8 * (1 - 0.25**2) + 8 * 0.25 * -0.25)),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("fields", "value"), _COLLAPSED, ids=[str(f) for f, _ in _COLLAPSED])
def test_collapsed_embeddings_cost_what_the_formula_says(
    fields: Fields, value: float, dtype: torch.dtype, device: torch.device
) -> None:
    """Four classes of three, all cosines 1: two positives and nine negatives for every anchor, no direction to go."""
    names = [i // 3 for i in range(12)]
    found = _judge(fields, loops.plane([30.0] * 12, device).to(dtype), names)
    assert float(found.value) == pytest.approx(value, rel=1e-6)
    # Pulls and pushes are along the common row: the part that a model sees is rounding.
    assert bool(torch.isfinite(found.gradient).all())
    assert float(loops.tangential(found, loops.plane([30.0] * 12, device)).gradient.norm()) < 1e-5


# Rows at 0, 60, 90 and 180 degrees: cosines .5, 0 and -1 of the first, .866 and -.5 of the second, 0 of the third.
_A, _B = 0.5, _SQRT_3 / 2
_BY_HAND: tuple[tuple[Fields, list[int], float], ...] = (
    (
        {"kind": "n_pair", "scale": 1.0},  # the singletons of classes 1 and 2 beside the pair of class 0
        [0, 0, 1, 2],
        (log(1 + exp(0 - _A) + exp(-1 - _A)) + log(1 + exp(_B - _A) + exp(-_A - _A))) / 2,
    ),
    (
        {"kind": "n_pair", "scale": 1.0},  # one other class, of two images or of three: their mean
        [0, 0, 1, 1],
        (
            log(1 + (exp(0 - _A) + exp(-1 - _A)) / 2)
            + log(1 + (exp(_B - _A) + exp(-_A - _A)) / 2)
            + log(1 + (exp(0) + exp(_B)) / 2)
            + log(1 + (exp(-1) + exp(-_A)) / 2)
        )
        / 4,
    ),
    (
        {"kind": "nt_xent", "temperature": 1.0},  # six positive pairs, one negative each
        [0, 0, 0, 1],
        (
            _softplus(-1 - _A)
            + _softplus(-1 - 0)
            + _softplus(-_A - _A)
            + _softplus(-_A - _B)
            + _softplus(0)
            + _softplus(-_B)
        )
        / 6,
    ),
    (
        {"kind": "supcon", "temperature": 1.0},  # three anchors, both positives in every denominator
        [0, 0, 0, 1],
        (
            log(exp(_A) + exp(0) + exp(-1))
            - _A / 2
            + log(exp(_A) + exp(_B) + exp(-_A))
            - (_A + _B) / 2
            + log(exp(0) + exp(_B) + exp(0))
            - _B / 2
        )
        / 3,
    ),
    (
        {"kind": "multi_similarity", "alpha": 2.0, "beta": 4.0, "epsilon": None},
        [0, 0, 1],  # the positive lies at the base; the singleton pushes too
        (
            log(2) / 2
            + log(1 + exp(-2)) / 4
            + log(2) / 2
            + log(1 + exp(4 * _B - 2)) / 4
            + log(1 + exp(-2) + exp(4 * _B - 2)) / 4
        )
        / 3,
    ),
    (
        {"kind": "multi_similarity", "alpha": 2.0, "beta": 4.0, "epsilon": 0.1},
        [0, 0, 1],  # the first anchor is solved, .5 > 0 + .1; the singleton has no positive: three anchors all the same
        (log(2) / 2 + log(1 + exp(4 * _B - 2)) / 4) / 3,
    ),
    (
        {"kind": "circle", "margin": 0.25, "scale": 2.0},
        # Positives: -2 * (1.25 - .5) * (.5 - .75) = .375. Negatives: 2 (s^2 - m^2) = -.125 of 0 and 1.375 of .866.
        [0, 0, 1],
        (_softplus(0.375 - 0.125) + _softplus(0.375 + 1.375)) / 2,
    ),
)


@pytest.mark.parametrize(("fields", "names", "value"), _BY_HAND, ids=[f"{f} {n}" for f, n, _ in _BY_HAND])
def test_hand_made_numbers(fields: Fields, names: list[int], value: float, device: torch.device) -> None:
    rows = loops.plane([0.0, 60.0, 90.0, 180.0][: len(names)], device)
    assert float(_judge(fields, rows, names).value) == pytest.approx(value, rel=1e-12)


def test_negatives_of_circle_below_minus_margin_weigh_nothing(device: torch.device) -> None:
    """A cosine of -1 against m = .25: weight 0, exponent 0, a term of exp(0), without gradient to the negative."""
    found = _judge({"kind": "circle", "margin": 0.25, "scale": 2.0}, loops.plane([0.0, 60.0, 180.0], device), [0, 0, 1])
    assert float(found.value) == pytest.approx(_softplus(0.375), rel=1e-12)
    assert bool((found.gradient[2] == 0).all())


def test_one_positive_makes_three_losses_one(device: torch.device) -> None:
    """specs/losses.md, 1.3: discriminate without margin, NT-Xent and SupCon are one softmax."""
    names = [0, 0, 1, 1, 2, 2]
    rows = _rows(names, device)
    nt_xent = _judge({"kind": "nt_xent", "temperature": 0.1}, rows, names)
    discriminate = _judge({"kind": "discriminate", "margin": 0.0, "scale": 10.0}, rows, names)
    oracle.assert_agree(_judge({"kind": "supcon", "temperature": 0.1}, rows, names), nt_xent, 1e-12)
    scaled = oracle.Judged(10.0 * discriminate.value, 10.0 * discriminate.gradient)
    oracle.assert_agree(scaled, nt_xent, 1e-12)


def test_n_pair_is_nt_xent_where_every_other_class_is_one_image(device: torch.device) -> None:
    names = [0, 0, 0, 1, 2, 3]
    rows = _rows(names, device)
    expected = _judge({"kind": "nt_xent", "temperature": 0.25}, rows, names)
    oracle.assert_agree(_judge({"kind": "n_pair", "scale": 4.0}, rows, names), expected, 1e-12)


def test_repeated_negatives_are_a_margin_for_nt_xent_and_nothing_for_n_pair(device: torch.device) -> None:
    """Class 0 is seen alone, from references that hold class 1 once or three times: log 3 in the exponent."""
    rows = _rows([0, 0, 1], device)
    labels = torch.tensor([0, 0], device=device)

    def value(fields: Fields, order: list[int]) -> float:
        other_labels = torch.tensor([0, 0, 1, 1, 1], device=device)[: len(order)]
        references = References(rows[order], other_labels, torch.tensor([0, 1], device=device))
        return float(_loss(fields)(rows[:2], labels, references=references).value)

    once, thrice = [0, 1, 2], [0, 1, 2, 2, 2]
    assert value({"kind": "n_pair"}, thrice) == pytest.approx(value({"kind": "n_pair"}, once), rel=1e-12)
    nt_xent, margin = {"kind": "nt_xent", "temperature": 0.5}, 0.5 * log(3.0)
    discriminate = {"kind": "discriminate", "scale": 2.0, "margin": margin}
    assert value(nt_xent, thrice) == pytest.approx(2.0 * value(discriminate, once), rel=1e-12)


def _library(loss: nn.Module, labels: Tensor, miner: nn.Module | None = None) -> Callable[[Tensor], Tensor]:
    def value(x: Tensor) -> Tensor:
        chosen: Tensor = loss(x, labels) if miner is None else loss(x, labels, miner(x, labels))
        return chosen

    return value


_OPINIONS: tuple[tuple[Fields, nn.Module, nn.Module | None], ...] = (
    ({"kind": "nt_xent"}, pml.NTXentLoss(0.07), None),
    ({"kind": "nt_xent", "temperature": 0.5}, pml.NTXentLoss(0.5), None),
    ({"kind": "supcon"}, pml.SupConLoss(0.1), None),
    ({"kind": "supcon", "temperature": 0.5}, pml.SupConLoss(0.5), None),
    ({"kind": "multi_similarity", "epsilon": None}, pml.MultiSimilarityLoss(), None),
    ({"kind": "multi_similarity"}, pml.MultiSimilarityLoss(), MultiSimilarityMiner(0.1)),
    (
        {"kind": "multi_similarity", "epsilon": 0.3, "alpha": 4.0, "beta": 20.0, "base": 0.2},
        pml.MultiSimilarityLoss(4, 20, 0.2),
        MultiSimilarityMiner(0.3),
    ),
    ({"kind": "circle"}, pml.CircleLoss(), None),
    ({"kind": "circle", "margin": 0.25, "scale": 16.0}, pml.CircleLoss(0.25, 16), None),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("fields", "loss", "miner"), _OPINIONS, ids=[str(f) for f, _, _ in _OPINIONS])
def test_agrees_with_the_library(
    fields: Fields, loss: nn.Module, miner: nn.Module | None, dtype: torch.dtype, device: torch.device
) -> None:
    """Goal L4 of specs/performance.md: 1e-5 in float32."""
    names = [i // 4 for i in range(64)]
    rows = _rows(names, device, dim=32, seed=1).to(dtype)
    expected = loops.second_opinion(_library(loss, torch.tensor(names, device=device), miner), rows)
    assert float(expected.value) > 0
    oracle.assert_agree(loops.tangential(_judge(fields, rows, names), rows), expected, 1e-5)


def test_n_pair_agrees_with_the_library_where_definitions_coincide(device: torch.device) -> None:
    """It takes the first image of each class for an anchor and the second for a positive, without temperature.

    With both the same point it is ours, and the two copies share its gradient.
    """
    names = [i // 2 for i in range(16)]
    points = _rows(list(range(8)), device, seed=2)
    rows, labels = points.repeat_interleave(2, dim=0), torch.tensor(names, device=device)
    expected = loops.second_opinion(_library(pml.NPairsLoss(), labels), rows)
    found = loops.tangential(_judge({"kind": "n_pair", "scale": 1.0}, rows, names), rows)
    shared = [j.gradient.view(8, 2, 6).sum(1) for j in (found, expected)]
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-12)
    assert oracle.relative(*shared) < 1e-12


def test_n_pair_is_the_paper_with_an_anchor_and_a_positive_of_each_class(device: torch.device) -> None:
    """Sohn 2016: anchors against positives only, which is what the library has; anchors' copies are not there."""
    anchors, positives = (_rows(list(range(5)), device, seed=seed) for seed in (2, 3))
    labels = torch.arange(5, device=device)
    absent = References(
        torch.cat([positives, positives[:1]]),
        torch.cat([labels, labels.new_tensor([-1])]),
        torch.full((5,), 5, device=device),
    )
    found = _loss({"kind": "n_pair", "scale": 1.0})(anchors, labels, references=absent).value
    expected = pml.NPairsLoss()(torch.cat([anchors, positives]), torch.cat([labels, labels]))
    assert float(found) == pytest.approx(float(expected), rel=1e-12)

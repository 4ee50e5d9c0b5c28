"""Losses that smooth a retrieval metric: against loops, and against the metric that they smooth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from pytorch_metric_learning import losses as pml
from torch import Tensor

from raydml.config import RecallAtKConfig, SmoothAPConfig, parse
from raydml.losses import build_loss
from raydml.losses.ranking import RankingLoss
from tests import loss_oracles as oracle

_CONFIGS: dict[str, dict[str, object]] = {
    "recall": {"kind": "recall_at_k", "temperature": 0.1},
    "one rank": {"kind": "recall_at_k", "ranks": [3], "temperature": 0.3, "rank_temperature": 0.2},
    "ap": {"kind": "smooth_ap", "temperature": 0.1},
    "sharp ap": {"kind": "smooth_ap"},
    "flat ap": {"kind": "smooth_ap", "temperature": 2.0},
}
_LAYOUTS: dict[str, list[int]] = {
    "balanced": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "unequal, unsorted": [4, 0, 9, 0, 0, 4, 2, 0, 9],
    "one class": [3, 3, 3, 3],
    "pairs": [0, 1, 0, 1],
}


def _build(fields: dict[str, object], device: torch.device, max_positives: int | None = None) -> RankingLoss:
    loss = build_loss(parse({"loss": fields}).loss, num_classes=1, embedding_dim=1, max_positives=max_positives)
    assert isinstance(loss, RankingLoss)
    return loss.to(device).double()


def _step(x: Tensor, temperature: float) -> Tensor:
    return 1.0 / (1.0 + (-x / temperature).exp())


def _soft_rank(s: oracle.Rows, q: int, p: int, among: Sequence[int], temperature: float) -> Tensor:
    return torch.stack([_step(s[q][z] - s[q][p], temperature) for z in among if z != p] + [torch.ones(())]).sum()


def _recall_at_k(x: Tensor, names: Sequence[int], c: RecallAtKConfig) -> Tensor:
    s, per_query = oracle.similarities(x, "cosine"), []
    for q in range(len(names)):
        others, own = [z for z in range(len(names)) if z != q], oracle.positives(names, q)
        ranks = [_soft_rank(s, q, p, others, c.temperature) for p in own]
        shares = [_step(k - r, c.rank_temperature) / len(own) for k in c.ranks for r in ranks]
        per_query += [1.0 - torch.stack(shares).sum() / len(c.ranks)] if own else []
    return oracle.mean(per_query, x)


def _smooth_ap(x: Tensor, names: Sequence[int], temperature: float, *, with_query: bool = False) -> Tensor:
    """`with_query` as the authors' release: the query is its own positive and in its own gallery."""
    s, per_query = oracle.similarities(x, "cosine"), []
    for q in range(len(names)):
        others = [z for z in range(len(names)) if z != q or with_query]
        own = [z for z in others if names[z] == names[q]]
        terms = [_soft_rank(s, q, p, own, temperature) / _soft_rank(s, q, p, others, temperature) for p in own]
        per_query += [1.0 - torch.stack(terms).mean()] if own else []
    return oracle.mean(per_query, x)


def _loop(loss: RankingLoss, names: list[int]) -> Callable[[Tensor], Tensor]:
    match loss.config:
        case RecallAtKConfig() as config:
            return lambda x: _recall_at_k(x, names, config)
        case SmoothAPConfig(temperature=temperature):
            return lambda x: _smooth_ap(x, names, temperature)


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
@pytest.mark.parametrize("names", _LAYOUTS.values(), ids=_LAYOUTS)
def test_equals_the_loop_over_queries(names: list[int], fields: dict[str, object], device: torch.device) -> None:
    """Random rows, and batches with duplicates within and across classes."""
    loss, labels = _build(fields, device), torch.tensor(names, device=device)
    rows = oracle.unit_rows(len(names), 4, seed=5).to(device)
    for embeddings in (rows, rows[[0, 0, *range(2, len(names))]], rows[[0, 1, 2, *[1] * (len(names) - 3)]]):
        found, expected = oracle.run_loss(loss, embeddings, labels), oracle.judge(_loop(loss, names), embeddings)
        # Not relative: where all are of one class the average precision is 1 whatever the order, its gradient rounding.
        torch.testing.assert_close(found.value, expected.value, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("names", [[0, 1, 2, 3], [7]], ids=["singletons", "one row"])
@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_without_a_positive_there_is_nothing_to_lose(
    names: list[int], fields: dict[str, object], device: torch.device
) -> None:
    for bound in (None, 0, 3):
        found = oracle.run_loss(
            _build(fields, device, bound),
            oracle.unit_rows(len(names), 4).to(device),
            torch.tensor(names, device=device),
        )
        assert float(found.value) == float(found.gradient.norm()) == 0.0


def test_golden_values(device: torch.device) -> None:
    """Two pairs of equal rows, at right angles, T = 1/2: the positive at 1, two others at 0, r = 1 + 2 s(-2)."""
    rows = torch.eye(2, 4, dtype=torch.float64, device=device)[[0, 0, 1, 1]]
    labels = torch.tensor([0, 0, 1, 1], device=device)

    def s(x: float) -> float:
        return 1.0 / (1.0 + math.exp(-x))

    rank = 1.0 + 2.0 * s(-2.0)
    ap = _build({"kind": "smooth_ap", "temperature": 0.5}, device)(rows, labels)
    assert float(ap.value) == pytest.approx(1.0 - 1.0 / rank, rel=1e-12)
    assert float(ap.stats["positive_rank"]) == pytest.approx(rank, rel=1e-12)
    fields: dict[str, object] = {"kind": "recall_at_k", "ranks": [1, 2], "temperature": 0.5, "rank_temperature": 0.25}
    recall = _build(fields, device)(rows, labels)
    expected = 1.0 - 0.5 * (s(4.0 * (1.0 - rank)) + s(4.0 * (2.0 - rank)))
    assert float(recall.value) == pytest.approx(expected, rel=1e-12)
    assert float(recall.stats["positive_rank"]) == pytest.approx(rank, rel=1e-12)


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_equal_embeddings_tie_half_way(fields: dict[str, object], device: torch.device) -> None:
    """All six are equal, classes of three: every positive has rank 1 + 4/2, and 1 + 1/2 among positives."""
    rows = oracle.unit_rows(1, 4).to(device).expand(6, 4)
    loss = _build(fields, device)
    found = oracle.run_loss(loss, rows, torch.tensor([0, 0, 0, 1, 1, 1], device=device))
    config = loss.config
    if isinstance(config, RecallAtKConfig):
        shares = [1.0 / (1.0 + math.exp((3.0 - k) / config.rank_temperature)) for k in config.ranks]
        assert float(found.value) == pytest.approx(1.0 - sum(shares) / len(shares), rel=1e-9)
    else:
        assert float(found.value) == pytest.approx(0.5, rel=1e-9)
    assert bool(found.gradient.isfinite().all())


def _hard_ranks(rows: Tensor, names: Sequence[int]) -> list[list[int]]:
    """Of every query's positives among all others, nearest first."""
    similarity = (rows @ rows.T).cpu()
    found = []
    for q in range(len(names)):
        order = [z for z in similarity[q].argsort(descending=True).tolist() if z != q]
        found.append([rank for rank, z in enumerate(order, start=1) if names[z] == names[q]])
    return found


_MIXED = [0, 1, 2, 0, 1, 0, 3, 2, 0, 1, 2, 0]


def test_sharp_recall_is_the_recall(device: torch.device) -> None:
    """1 - mean over k of a query's share of positives among its k nearest; as s(0) = 1/2, rank k itself counts half.

    So the limit at k is the mean of the shares at k and at k - 1.
    """
    rows = oracle.unit_rows(12, 6, seed=8, noise=1.5, classes=_MIXED).to(device)
    fields: dict[str, object] = {"kind": "recall_at_k", "ranks": [1, 2, 5, 8], "rank_temperature": 1e-3}
    found = _build({**fields, "temperature": 1e-6}, device)(rows, torch.tensor(_MIXED, device=device))

    def share(ranks: list[int], k: int) -> float:
        return sum(r <= k for r in ranks) / len(ranks)

    hard = [ranks for ranks in _hard_ranks(rows, _MIXED) if ranks]
    shares = [(share(ranks, k) + share(ranks, k - 1)) / 2 for k in (1, 2, 5, 8) for ranks in hard]
    assert 0.1 < 1.0 - sum(shares) / len(shares) < 0.9
    assert float(found.value) == pytest.approx(1.0 - sum(shares) / len(shares), abs=1e-9)
    mean_rank = sum(map(sum, hard)) / sum(map(len, hard))
    assert float(found.stats["positive_rank"]) == pytest.approx(mean_rank, abs=1e-9)


def test_sharp_ap_is_the_average_precision(device: torch.device) -> None:
    """1 - mean over queries of the mean over positives of (positives so far) / rank."""
    rows = oracle.unit_rows(12, 6, seed=8, noise=1.5, classes=_MIXED).to(device)
    found = _build({"kind": "smooth_ap", "temperature": 1e-6}, device)(rows, torch.tensor(_MIXED, device=device))
    hard = [ranks for ranks in _hard_ranks(rows, _MIXED) if ranks]
    precisions = [sum(i / r for i, r in enumerate(ranks, start=1)) / len(ranks) for ranks in hard]
    assert len(precisions) == 11
    assert 0.1 < 1.0 - sum(precisions) / len(precisions) < 0.9
    assert float(found.value) == pytest.approx(1.0 - sum(precisions) / len(precisions), abs=1e-9)


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_any_sufficient_bound_gives_the_same(fields: dict[str, object], device: torch.device) -> None:
    """Five images of class 0: four positives each. Columns beyond are padding, even more of them than images."""
    rows, labels = oracle.unit_rows(12, 6, seed=8).to(device), torch.tensor(_MIXED, device=device)
    expected = oracle.run_loss(_build(fields, device), rows, labels)
    for bound in (4, 5, 11, 12, 100):
        oracle.assert_agree(oracle.run_loss(_build(fields, device, bound), rows, labels), expected, 1e-12)


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_too_small_a_bound_is_no_number(fields: dict[str, object], device: torch.device) -> None:
    """A mean over some of the positives would pass for the loss; training stops at a NaN instead."""
    rows, labels = oracle.unit_rows(12, 6, seed=8).to(device), torch.tensor(_MIXED, device=device)
    for bound in (0, 1, 3):
        assert math.isnan(float(_build(fields, device, bound)(rows, labels).value))


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_only_without_a_bound_the_device_is_asked(fields: dict[str, object]) -> None:
    """A tensor on `meta` has no data to ask for."""
    rows, labels = torch.empty(4, 3, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    nowhere = torch.device("meta")
    assert _build(fields, nowhere, 3)(rows, labels).value.shape == ()
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        _build(fields, nowhere)(rows, labels)


def _library_ap(rows: Tensor, names: list[int], order: list[int]) -> float:
    labels = torch.tensor(names, device=rows.device)
    return float(pml.SmoothAPLoss(temperature=0.01)(rows[order], labels[order]).detach())


@pytest.mark.parametrize(("num_classes", "is_right"), [(4, True), (2, False), (8, False)])
def test_the_librarys_smooth_ap_is_wrong_but_for_squares(
    num_classes: int, is_right: bool, device: torch.device
) -> None:
    """specs/losses.md, 2.3, number 1: right where classes are as many as samples of each, and sorted.

    The release's own form has the query among its positives; ours has not, so it is not compared with. When this
    fails the defect is gone.
    """
    names = [i // 4 for i in range(4 * num_classes)]
    rows = oracle.unit_rows(len(names), 6, seed=1, noise=1.5, classes=names).to(device)
    straight = list(range(len(names)))
    mixed = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    expected = float(_smooth_ap(rows.cpu(), names, 0.01, with_query=True))
    assert (abs(_library_ap(rows, names, straight) - expected) < 1e-5) == is_right
    assert abs(_library_ap(rows, names, mixed) - expected) > 1e-3
    ours, labels = _build({"kind": "smooth_ap"}, device), torch.tensor(names, device=device)
    value, again = ours(rows, labels).value, ours(rows[mixed], labels[mixed]).value
    assert float(again) == pytest.approx(float(value), rel=1e-12)
    assert float(value) == pytest.approx(float(_smooth_ap(rows.cpu(), names, 0.01)), rel=1e-10)


@pytest.mark.parametrize("kind", ["recall_at_k", "smooth_ap"])
def test_queries_in_blocks_are_all_queries(kind: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [i // 4 for i in range(24)]
    rows, labels = oracle.unit_rows(24, 6, seed=1, classes=names).to(device), torch.tensor(names, device=device)
    config = parse({"loss": {"kind": kind}}).loss
    loss = build_loss(config, num_classes=6, embedding_dim=6, max_positives=3).to(device).double()
    whole = oracle.run_loss(loss, rows, labels)
    monkeypatch.setattr("raydml.losses.ranking._LARGEST", 24 * 3 * 5)
    oracle.assert_agree(oracle.run_loss(loss, rows, labels), whole, 1e-12)

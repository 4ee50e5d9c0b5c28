"""Batches that leave a loss nothing to compare, or everything equal: a finite value, a finite gradient, no surprise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydml.losses import build_loss
from tests.loss_cases import CASES, WITH_CLASSES, config_of
from tests.loss_oracles import unit_rows

_DIM = 6
_BATCHES: dict[str, tuple[list[int], bool]] = {
    "one sample": ([2], False),
    "two equal samples of a class": ([1, 1], True),
    "two equal samples of two classes": ([0, 1], True),
    "one class": ([3, 3, 3, 3], False),
    "no positives": ([0, 1, 2, 3], False),
    "everything equal": ([0, 0, 1, 1, 2, 2], True),
    "one class has no positive": ([0, 0, 1], False),
}
"""Labels, and whether all rows are the same."""


@pytest.fixture(params=CASES, ids=lambda case: " ".join(map(str, case.values())))
def case(request: pytest.FixtureRequest) -> dict[str, object]:
    """A loss as plain data."""
    fields: dict[str, object] = request.param
    return fields


def _found(case: dict[str, object], rows: Tensor, labels: list[int], memory: int = 0) -> tuple[float, Tensor]:
    """Value, and gradients of embeddings and parameters in one vector."""
    fields = {**case, "memory": {"size": memory}} if memory else case
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = build_loss(config_of(fields), num_classes=4, embedding_dim=_DIM, max_positives=5).to(rows.device)
    leaf = rows.float().requires_grad_()
    output = loss(leaf, torch.tensor(labels, device=rows.device), generator=torch.Generator(rows.device), check=True)
    output.value.backward()
    assert leaf.grad is not None
    assert all(number.isfinite() for number in output.stats.values())
    gradients = [leaf.grad, *(p.grad for p in loss.parameters() if p.grad is not None)]
    return float(output.value.detach()), torch.cat([gradient.flatten() for gradient in gradients])


def _rows(labels: list[int], *, equal: bool, device: torch.device) -> Tensor:
    rows = unit_rows(len(labels), _DIM, seed=4).to(device)
    return rows[:1].expand_as(rows).clone() if equal else rows


@pytest.mark.parametrize("batch", _BATCHES)
def test_value_and_gradient_are_finite(batch: str, case: dict[str, object], device: torch.device) -> None:
    labels, equal = _BATCHES[batch]
    rows = _rows(labels, equal=equal, device=device)
    for memory in (0, 8) if case["kind"] not in WITH_CLASSES | {"recall_at_k", "smooth_ap"} else (0,):
        value, gradient = _found(case, rows, labels, memory)
        assert value >= 0.0 or case.get("form") == "original"  # Proxy-NCA's own proxy is not in its denominator
        assert abs(value) < 1e4
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("labels", [[2], [0, 1, 2, 3], [3, 3, 3, 3]], ids=["one sample", "no positives", "one class"])
def test_without_pairs_of_both_kinds_there_is_nothing_to_lose(
    labels: list[int], case: dict[str, object], device: torch.device
) -> None:
    """Zero, where a loss compares positives with negatives.

    Contrastive, multi-similarity without miner and the proxy losses have terms for one kind alone; SupCon pulls
    positives even from each other; a smoothed metric needs no negative, but is perfect without one.
    """
    alone = {"contrastive", "supcon", "recall_at_k"} | WITH_CLASSES
    if case["kind"] in alone or case.get("epsilon", 0) is None:
        pytest.skip("has terms for one kind of pairs alone")
    value, gradient = _found(case, _rows(labels, equal=False, device=device), labels)
    assert value == pytest.approx(0.0, abs=1e-6)
    if case["kind"] != "smooth_ap":
        assert not bool(gradient.any())


def test_a_duplicate_costs_no_more_than_a_neighbour(case: dict[str, object], device: torch.device) -> None:
    """Images repeat where a class is small: the value moves a little when a near copy becomes a copy."""
    labels = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    rows = _rows(labels, equal=False, device=device)
    near, copied = rows.clone(), rows.clone()
    copied[1] = rows[0]
    near[1] = torch.nn.functional.normalize(rows[0] + 1e-4 * rows[5], dim=0)
    if case["kind"] == "margin":
        pytest.skip("draws its negatives")
    assert _found(case, copied, labels)[0] == pytest.approx(_found(case, near, labels)[0], rel=1e-2, abs=1e-3)

"""Learned masks: what they weigh, what trains them, and how much two of them overlap."""

from __future__ import annotations

import pytest
import torch

from tests.learner_cases import (
    DIM,
    LEARNED,
    divide_config,
    learners_of,
    objective_of,
    random_rows,
    step,
    unit,
    view_of,
)


def test_masks_overlap_by_their_mean_cosine() -> None:
    learners = learners_of(**LEARNED)
    assert learners.masks is not None
    with torch.no_grad():
        learners.masks.normal_(generator=torch.Generator().manual_seed(3))
    rows = [[max(float(x), 0.0) for x in row] for row in learners.masks.tolist()]
    cosines = []
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if i != j:
                dot, lengths = sum(x * y for x, y in zip(a, b, strict=True)), [sum(x * x for x in r) for r in (a, b)]
                cosines.append(dot / (lengths[0] * lengths[1]) ** 0.5)
    found = learners.overlap(0)
    assert found is not None
    assert found.item() == pytest.approx(sum(cosines) / 12, rel=1e-6)
    assert [learners.overlap(epoch) for epoch in (4, 8)] == [0.0, 0.0]
    assert learners_of().overlap(0) is None


def test_masks_weigh_all_dimensions_for_one_learner_and_none_later(device: torch.device) -> None:
    learners = learners_of(**LEARNED).double()
    assert learners.masks is not None
    torch.nn.init.normal_(learners.masks)
    rows = random_rows(device)
    mask = learners.masks.detach()[2].clamp(min=0.0).to(device)
    view = view_of(learners, "divide", 2, device)
    torch.testing.assert_close(view.project(rows), unit(rows * mask))
    assert (view.columns, view.learners) == (slice(0, DIM), slice(2, 3))
    torch.testing.assert_close(view_of(learners, "full", 2, device).project(rows), unit(rows))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_learners_step_trains_its_mask_and_overlap_all(weight: float, device: torch.device) -> None:
    objective = objective_of({"kind": "proxy_anchor"}, divide_config(**LEARNED, mask_weight=weight), device=device)
    assert objective.learners is not None
    assert objective.learners.masks is not None
    output = step(objective, epoch=0, learner=1)
    assert float(output.stats["mask_overlap"]) == pytest.approx(1.0)
    torch.nn.init.uniform_(objective.learners.masks)
    step(objective, epoch=0, learner=1)
    gradient = objective.learners.masks.grad
    assert gradient is not None
    assert [bool(row.any()) for row in gradient] == [weight > 0, True, weight > 0, weight > 0]
    step(objective, epoch=4, learner=1)
    gradient = objective.learners.masks.grad
    assert gradient is not None
    assert not bool(gradient.any())


def test_learners_to_be_split_keep_equal_masks(device: torch.device) -> None:
    """Two rows stand for one learner until it is split: both must stay that learner's."""
    divide = divide_config(**LEARNED, hierarchical=True, recluster_epochs=2, mask_weight=0.5)
    objective = objective_of({"kind": "proxy_anchor"}, divide, device=device)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1, weight_decay=0.1)
    for number in range(6):
        step(objective, epoch=2, learner=number % 2, number=number)
        optimizer.step()
    assert objective.learners is not None
    assert objective.learners.masks is not None
    first, second, third, fourth = objective.learners.masks.detach()
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.allclose(first, third, atol=0.01)

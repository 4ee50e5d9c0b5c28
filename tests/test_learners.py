"""Learners: what each of them sees and trains in every stage (specs/divide_and_conquer.md, 1.5 to 1.7)."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from raydml.learners import Learners, active_rows, class_subsets
from raydml.models import EmbeddingModel
from tests.learner_cases import (
    CLASSES,
    CPU,
    DIM,
    EXPANDABLE,
    FIRST_EPOCH,
    LEARNED,
    MEMORY,
    NUM_CLASSES,
    NUM_LEARNERS,
    PLACES,
    Fields,
    cases,
    divide_config,
    images_of,
    joined,
    learners_of,
    objective_of,
    see_config,
    step,
    unit,
    view_of,
)

ALL = (0, DIM)
AUXILIARY: Fields = {"prototypes": "auxiliary"}


def words(case: Fields) -> str:
    return " ".join(map(str, case.values()))


def random_rows(num: int = 5, dim: int = DIM, seed: int = 1) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(learners: Learners, epoch: int, learner: int | None) -> tuple[int, int]:
    part = learners.view(epoch, learner, None).columns
    return part.start, part.stop


@pytest.mark.parametrize("learner", range(NUM_LEARNERS))
def test_before_the_full_stage_a_learner_has_its_slice_and_then_all_have_all(learner: int) -> None:
    learners = learners_of()
    for epoch in range(4):
        assert columns(learners, epoch, learner) == PLACES[learner]
        assert learners.view(epoch, learner, None).learners == slice(learner, learner + 1)
    for epoch in range(4, 10):
        view = learners.view(epoch, learner if epoch < 8 else None, None)
        assert (view.columns, view.learners, view.is_whole) == (slice(*ALL), slice(0, NUM_LEARNERS), True)


@pytest.mark.parametrize("dim", [4, 5, 13, 14, 16])
def test_slices_share_the_dimensions_evenly(dim: int) -> None:
    learners = learners_of(dim=dim)
    parts = [columns(learners, 0, learner) for learner in range(NUM_LEARNERS)]
    assert (parts[0][0], parts[-1][1]) == (0, dim)
    assert all(before[1] == behind[0] for before, behind in pairwise(parts))
    sizes = [behind - first for first, behind in parts]
    assert max(sizes) - min(sizes) <= 1
    assert tuple(sizes) == learners.sizes


@pytest.mark.parametrize(
    ("epoch", "learner", "place"),
    [
        (0, None, (0, 14)),  # one learner, so that nothing is divided yet
        (1, 0, (0, 8)),
        (1, 1, (8, 14)),
        (2, 0, (0, 4)),
        (2, 3, (11, 14)),
        (3, 2, (8, 11)),
        (4, 2, ALL),
    ],
)
def test_a_learner_of_fewer_ones_has_what_it_is_to_be_split_into(
    epoch: int, learner: int | None, place: tuple[int, int]
) -> None:
    learners = learners_of(hierarchical=True, recluster_epochs=1)
    assert columns(learners, epoch, learner) == place
    view = learners.view(epoch, learner, None)
    starts, ends = [first for first, _ in PLACES], [behind for _, behind in PLACES]
    assert (starts[view.learners.start], ends[view.learners.stop - 1]) == place
    assert view.is_whole == (place == ALL)


@pytest.mark.parametrize("normalise", ["slices", "whole"])
@pytest.mark.parametrize("learner", range(NUM_LEARNERS))
def test_one_learner_sees_its_slice_at_unit_length(learner: int, normalise: str) -> None:
    rows, (first, behind) = random_rows(), PLACES[learner]
    found = view_of(learners_of(normalise=normalise), "divide", learner).project(rows)
    torch.testing.assert_close(found, unit(rows[:, first:behind]), rtol=1e-14, atol=1e-14)


def test_two_children_are_seen_as_two_slices_of_one_length_or_as_one() -> None:
    rows = random_rows()
    both = torch.cat([unit(rows[:, 8:11]), unit(rows[:, 11:14])], 1) / 2**0.5
    of_slices = learners_of(hierarchical=True, recluster_epochs=1).view(1, 1, None)
    torch.testing.assert_close(of_slices.project(rows), both, rtol=1e-14, atol=1e-14)
    whole = learners_of(hierarchical=True, recluster_epochs=1, normalise="whole").view(1, 1, None)
    torch.testing.assert_close(whole.project(rows), unit(rows[:, 8:14]), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("stage", ["full", "conquer"])
def test_all_learners_see_joined_slices_or_the_whole(stage: str) -> None:
    rows = random_rows()
    torch.testing.assert_close(view_of(learners_of(), stage).project(rows), joined(rows), rtol=1e-14, atol=1e-14)
    whole = view_of(learners_of(normalise="whole"), stage).project(rows)
    torch.testing.assert_close(whole, unit(rows), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("normalise", ["slices", "whole"])
def test_the_models_rows_have_one_length_and_slices_one_length_where_asked(
    normalise: str, device: torch.device
) -> None:
    model = objective_of({"kind": "contrastive"}, divide_config(normalise=normalise), device=device).model.eval()
    rows = model(images_of(device=device))
    lengths = torch.stack([rows[:, first:behind].norm(dim=1) for first, behind in PLACES], 1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones_like(rows[:, 0]))
    equal = torch.full_like(lengths, NUM_LEARNERS**-0.5)
    assert torch.allclose(lengths, equal, atol=1e-12) == (normalise == "slices")


def test_the_full_stage_takes_what_the_model_puts_out() -> None:
    """To rounding: nothing is weighed anew behind the model."""
    for normalise in ("slices", "whole"):
        objective = objective_of({"kind": "contrastive"}, divide_config(normalise=normalise))
        assert objective.learners is not None
        rows = objective.model(images_of()).detach()
        assert float((view_of(objective.learners, "full").project(rows) - rows).abs().max()) < 1e-15


def outside(of_all: Tensor, place: tuple[int, int], dim: int) -> Tensor:
    """What no learner but that of the place owns: of rows (dim 0) or columns (dim -1)."""
    first, behind = place
    return torch.cat([of_all.narrow(dim, 0, first), of_all.narrow(dim, behind, DIM - behind)], dim)


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def assert_trains_only(place: tuple[int, int], gradient: Tensor, dim: int) -> None:
    """Exactly: of a gradient that is mere rounding Adam would make a step of full length."""
    assert float(outside(gradient, place, dim).abs().max()) == 0.0
    assert float(gradient.narrow(dim, place[0], place[1] - place[0]).abs().max()) > 0.0


@pytest.mark.parametrize("normalise", ["slices", "whole"])
@pytest.mark.parametrize("case", cases(MEMORY), ids=words)
def test_a_learners_step_trains_its_rows_of_the_head_and_its_columns_of_the_proxies(
    case: Fields, normalise: str, device: torch.device
) -> None:
    objective = objective_of(case, divide_config(normalise=normalise), device=device)
    for learner, place in enumerate(PLACES):
        step(objective, epoch=3, learner=learner)
        for parameter in (objective.model.head.weight, objective.model.head.bias):
            assert_trains_only(place, gradient_of(parameter), 0)
        for name, parameter in objective.loss.named_parameters():
            if name == "proxies":
                assert_trains_only(place, gradient_of(parameter), -1)


@pytest.mark.parametrize("gradient", ["none", "reflect"])
@pytest.mark.parametrize("case", [*EXPANDABLE, MEMORY], ids=words)
def test_so_does_its_step_with_expansions(case: Fields, gradient: str, device: torch.device) -> None:
    see = see_config(gradient=gradient, **AUXILIARY)
    objective = objective_of(case, divide_config(), see=see, device=device)
    for learner, place in enumerate(PLACES):
        output = step(objective, epoch=3, learner=learner)
        assert float(output.stats["see/selected"]) == 6
        assert_trains_only(place, gradient_of(objective.model.head.weight), 0)
        for name, parameter in objective.named_parameters():
            if name.endswith("proxies"):
                assert_trains_only(place, gradient_of(parameter), -1)


@pytest.mark.parametrize("case", cases(), ids=words)
def test_later_all_rows_of_the_head_train(case: Fields) -> None:
    objective = objective_of(case, divide_config())
    for epoch in (4, 8):
        step(objective, epoch=epoch)
        assert float(gradient_of(objective.model.head.weight).abs().amax(1).min()) > 0.0


@pytest.mark.parametrize(
    "divide", [{}, LEARNED, {**LEARNED, "hierarchical": True, "recluster_epochs": 2}], ids=["fixed", "masks", "tree"]
)
@pytest.mark.parametrize("case", cases(MEMORY), ids=words)
def test_every_parameter_has_a_gradient_in_every_stage(case: Fields, divide: Fields, device: torch.device) -> None:
    """Data parallelism waits for each of them; zero will do, none will not."""
    objective = objective_of(case, divide_config(**divide), device=device)
    for epoch, learner in ((0, None), (0, 0), (3, 1), (4, 1), (8, None)):
        if not divide.get("hierarchical") or (epoch, learner) != (0, 0):
            step(objective, epoch=epoch, learner=learner)
            assert not [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("case", EXPANDABLE, ids=words)
@pytest.mark.parametrize("prototypes", ["moving_average", "auxiliary"])
def test_every_parameter_has_a_gradient_with_expansions(case: Fields, prototypes: str) -> None:
    objective = objective_of(case, divide_config(), see=see_config(prototypes=prototypes))
    for epoch in FIRST_EPOCH.values():
        step(objective, epoch=epoch)
        assert not [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]


def test_class_subsets_are_the_classes_of_each_learner() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4])
    division = torch.tensor([1, 1, 0, 1, 0, 0, 0, 1, -1])
    first, second, third = class_subsets(division, labels, num_learners=3, device=CPU)
    assert (first.classes.tolist(), first.place.tolist()) == ([1, 2, 3], [-1, 0, 1, 2, -1])
    assert (second.classes.tolist(), second.place.tolist()) == ([0, 1, 3], [0, 1, -1, 2, -1])
    assert (third.classes.tolist(), third.place.tolist()) == ([], [-1] * 5)


def test_only_the_divide_stage_leaves_classes_out() -> None:
    learners, labels = learners_of(), torch.tensor(CLASSES)
    assert view_of(learners, "divide").labels(labels).tolist() == [0, 1, 2, 3, 4]
    assert len(view_of(learners, "divide").proxies(random_rows(NUM_CLASSES))) == len(CLASSES)
    for stage in ("full", "conquer"):
        assert view_of(learners, stage).labels(labels).tolist() == list(CLASSES)
        assert len(view_of(learners, stage).proxies(random_rows(NUM_CLASSES))) == NUM_CLASSES


@pytest.mark.parametrize("kind", ["proxy_anchor", "soft_triple", "margin"])
def test_active_rows_are_where_a_learners_gradient_may_be(kind: str) -> None:
    """Of everything that any learner owns a part of; None is what all share, the backbone."""
    objective = objective_of(
        {"kind": kind, "learn_beta": "per_class"} if kind == "margin" else {"kind": kind}, divide_config()
    )
    for learner in range(NUM_LEARNERS):
        step(objective, epoch=0, learner=learner)
        view = objective.learners.view(0, learner, None) if objective.learners else None
        assert view is not None
        for name, parameter in objective.named_parameters():
            rows = active_rows(name, parameter, view)
            assert (rows is None) == name.startswith("model.backbone")
            if rows is not None:
                assert not bool((gradient_of(parameter) != 0).logical_and(~rows).any())
                assert 0 < int(rows.sum()) * (parameter.numel() // rows.numel()) <= 0.3 * parameter.numel()


def test_a_model_without_learners_has_no_slices() -> None:
    model = EmbeddingModel(
        nn.Flatten(), num_features=36, embedding_dim=4, mean=(0.5,), std=(0.2,), freeze_batch_norm=False
    )
    rows = model(images_of())
    torch.testing.assert_close(rows.norm(dim=1), torch.ones_like(rows[:, 0]))

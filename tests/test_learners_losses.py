"""A learner's loss is the same loss of a smaller world: its dimensions, its classes, its own state.

The oracle cuts slices out by hand and builds the loss at their dimension, with the classes of the cluster renamed.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from raydml.expansion import SphericalExpansion
from raydml.losses import LossOutput, View
from raydml.losses.memory import CrossBatchMemory
from tests.expansion_cases import seeded
from tests.learner_cases import (
    CLASSES,
    EXPANDABLE,
    NAMES,
    NUM_LEARNERS,
    PLACES,
    Fields,
    cases,
    expansion_of,
    joined,
    learners_of,
    loss_of,
    random_rows,
    see_config,
    unit,
    view_of,
)
from tests.loss_oracles import relative

LIBRARY: Fields = {"kind": "library", "name": "TripletMarginLoss"}
NOT_OF_A_SLICE = {"beta", "see/base_gradient", "see/gradient"}
"""Statistics over all classes, or of gradients by the whole embedding."""
WITH_PROXIES = [case for case in cases() if "proxies" in dict(loss_of(case).named_parameters())]


def words(case: Fields) -> str:
    return " ".join(map(str, case.values()))


def labels_of(names: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(names, device=device)


class Found(NamedTuple):
    """A loss, its gradients by rows and by all parameters, and its statistics."""

    value: Tensor
    gradient: Tensor
    parameters: dict[str, Tensor]
    stats: dict[str, Tensor]


def run(
    loss: nn.Module,
    rows: Tensor,
    labels: Tensor,
    *,
    see: SphericalExpansion | None = None,
    view: View | None = None,
    slices: tuple[int, int] | None = None,
) -> Found:
    """One step with a view, or of unit rows of the dimensions `slices` without one."""
    leaf = rows.detach().clone().requires_grad_()
    seen = leaf if slices is None else unit(leaf[:, slices[0] : slices[1]])
    generator = seeded(rows.device)
    modules = [loss] if see is None else [loss, see]
    for module in modules:
        module.zero_grad()
    if see is None:
        output: LossOutput = loss(seen, labels, generator=generator, view=view)
    else:
        output = see(loss, seen, labels, epoch=0, generator=generator, frames=lambda: seeded(rows.device, 4), view=view)
    output.value.backward()
    assert leaf.grad is not None
    learned = {name: p.grad for module in modules for name, p in module.named_parameters() if p.grad is not None}
    return Found(output.value.detach(), leaf.grad, learned, output.stats)


def cut(name: str, of_all: Tensor, learner: int) -> Tensor:
    """What a learner has of a parameter or buffer: boundaries and curricula by row, proxies by class and column."""
    first, behind = PLACES[learner]
    field = name.rpartition(".")[2]
    if field == "beta":
        return of_all[learner : learner + 1][:, list(CLASSES)] if of_all.shape[1] > 1 else of_all[learner : learner + 1]
    if field == "curriculum":
        return of_all[learner : learner + 1]
    return of_all[list(CLASSES)][..., first:behind]


@torch.no_grad()
def small(module: nn.Module, of_all: nn.Module, learner: int) -> nn.Module:
    """The module of a smaller world with what the learner has of the whole one's state."""
    for name, state in module.state_dict().items():
        state.copy_(cut(name, of_all.state_dict()[name], learner))
    return module


def small_loss(case: Fields, of_all: nn.Module, learner: int, device: torch.device) -> nn.Module:
    dim = PLACES[learner][1] - PLACES[learner][0]
    return small(loss_of(case, device, dim=dim, num_classes=len(CLASSES), num_learners=1), of_all, learner)


def assert_cut(found: Found, expected: Found, learner: int) -> None:
    """The value, the gradient by rows, and of the parameters nothing but what the learner has."""
    assert relative(found.value, expected.value) < 1e-12
    assert relative(found.gradient, expected.gradient) < 1e-10
    for name, gradient in found.parameters.items():
        own = cut(name, gradient, learner)
        assert relative(own, expected.parameters[name]) < 1e-10
        assert float(gradient.abs().sum() - own.abs().sum()) == pytest.approx(0.0, abs=1e-12)
    assert found.stats.keys() == expected.stats.keys()
    for name in expected.stats.keys() - NOT_OF_A_SLICE:
        number = expected.stats[name]
        assert float(found.stats[name]) == pytest.approx(float(number), rel=1e-10, abs=1e-12), name


@pytest.mark.parametrize("normalise", ["slices", "whole"])
@pytest.mark.parametrize("case", cases(LIBRARY), ids=words)
def test_a_learners_loss_is_the_loss_of_its_slice(case: Fields, normalise: str, device: torch.device) -> None:
    places = labels_of(tuple(CLASSES.index(name) for name in NAMES), device)
    for learner in range(NUM_LEARNERS):
        rows, of_all = random_rows(device), loss_of(case, device)
        alone = small_loss(case, of_all, learner, device)
        expected = run(alone, rows, places, slices=PLACES[learner])
        view = view_of(learners_of(normalise=normalise), "divide", learner, device)
        assert_cut(run(of_all, rows, labels_of(NAMES, device), view=view), expected, learner)
        assert float(expected.gradient.norm()) > 1e-6


@pytest.mark.parametrize("prototypes", ["moving_average", "auxiliary"])
@pytest.mark.parametrize("case", EXPANDABLE, ids=words)
def test_expansions_in_a_learner_are_those_of_its_slice(case: Fields, prototypes: str, device: torch.device) -> None:
    """specs/see.md, 13: embeddings, proxies, selection and frames in the slice; and what the class directions become.

    Twice, because the first batch only makes the moving averages.
    """
    places = labels_of(tuple(CLASSES.index(name) for name in NAMES), device)
    config = see_config(prototypes=prototypes)
    for learner, (first, behind) in enumerate(PLACES):
        of_all, see = loss_of(case, device), expansion_of(case, config).to(device)
        alone = small_loss(case, of_all, learner, device)
        small_see = expansion_of(case, config, dim=behind - first, classes=len(CLASSES)).to(device)
        small(small_see, see, learner)
        view = view_of(learners_of(), "divide", learner, device)
        for seed in (1, 2):
            rows = random_rows(device, seed=seed)
            expected = run(alone, rows, places, see=small_see, slices=PLACES[learner])
            assert_cut(run(of_all, rows, labels_of(NAMES, device), see=see, view=view), expected, learner)
        for name, state in small_see.state_dict().items():
            torch.testing.assert_close(cut(name, see.state_dict()[name], learner), state, rtol=1e-12, atol=1e-12)
            assert float(state.abs().sum()) > 0.0
            if name == "prototypes.means":
                assert float(see.state_dict()[name].abs().sum()) == pytest.approx(float(state.abs().sum()), rel=1e-12)


@pytest.mark.parametrize("case", WITH_PROXIES, ids=words)
def test_full_proxies_are_joined_unit_slices(case: Fields, device: torch.device) -> None:
    """At the hand-over nothing new is made: the loss of all is that of the joined slices, with all classes."""
    loss, whole = loss_of(case, device), loss_of(case, device, num_learners=1)
    with torch.no_grad():
        whole.get_parameter("proxies").copy_(joined(loss.get_parameter("proxies")))
        if case["kind"] == "curricularface":
            whole.get_buffer("curriculum").copy_(loss.get_buffer("curriculum").mean())
    for stage in ("full", "conquer"):
        rows, labels = random_rows(device), labels_of(NAMES, device)
        found = run(loss, rows, labels, view=view_of(learners_of(), stage, device=device))
        expected = run(whole, joined(rows), labels)
        assert relative(found.value, expected.value) < 1e-12


def test_without_slices_full_proxies_are_as_they_are(device: torch.device) -> None:
    view = view_of(learners_of(normalise="whole"), "full", device=device)
    loss, rows, labels = loss_of({"kind": "proxy_anchor"}, device), random_rows(device), labels_of(NAMES, device)
    assert relative(run(loss, rows, labels, view=view).value, run(loss, unit(rows), labels).value) < 1e-12


@pytest.mark.parametrize("learn_beta", ["fixed", "shared", "per_class"])
def test_all_learners_have_the_root_mean_square_of_their_boundaries(learn_beta: str, device: torch.device) -> None:
    """The squared distance of joined slices is the mean of the slices' squared distances, and a boundary is one."""
    case = {"kind": "margin", "learn_beta": learn_beta}
    loss, whole = loss_of(case, device), loss_of(case, device, num_learners=1)
    rows, labels = random_rows(device), labels_of(NAMES, device)
    parts = [unit(rows[:, first:behind]) for first, behind in PLACES]
    squares = [(part[0] - part[1]).square().sum() for part in parts]
    both = joined(rows)
    torch.testing.assert_close((both[0] - both[1]).square().sum(), torch.stack(squares).mean())
    with torch.no_grad():
        for beta, of_each in zip(whole.get_parameter("beta").T, loss.get_parameter("beta").T, strict=True):
            beta.fill_(float(sum(b**2 for b in of_each) / NUM_LEARNERS) ** 0.5)
    found = run(loss, rows, labels, view=view_of(learners_of(), "full", device=device))
    assert relative(found.value, run(whole, both, labels).value) < 1e-12


def test_the_curriculum_of_a_learner_moves_in_its_own_steps_only(device: torch.device) -> None:
    loss = loss_of({"kind": "curricularface"}, device)
    before = loss.get_buffer("curriculum").clone()
    run(loss, random_rows(device), labels_of(NAMES, device), view=view_of(learners_of(), "divide", 2, device))
    after = loss.get_buffer("curriculum")
    assert (after != before).tolist() == [False, False, True, False]
    output = run(loss, random_rows(device), labels_of(NAMES, device), view=view_of(learners_of(), "full", 2, device))
    expected = 0.99 * after.mean() + 0.01 * output.stats["proxy_similarity"]
    torch.testing.assert_close(loss.get_buffer("curriculum"), expected.expand(NUM_LEARNERS))


ROUNDS = ((0, NAMES), (1, (2, 2, 5, 5)), (3, (0, 0, 3)), (0, (0, 3, 3)), (1, NAMES), (0, NAMES))
"""Whose batch came when; 38 images in all."""
SIZE = 64


@pytest.mark.parametrize("kind", ["contrastive", "multi_similarity", "margin"])
def test_a_learner_remembers_its_own_batches_and_all_learners_all(kind: str, device: torch.device) -> None:
    """As if each learner had a memory of its own slice, and all together one of joined slices."""
    case = {"kind": kind, "memory": {"size": SIZE}}
    shared, whole = loss_of(case, device), loss_of(case, device)
    assert isinstance(shared, CrossBatchMemory)
    alone = [small_memory(case, shared, learner, device) for learner in range(NUM_LEARNERS)]
    for number, (learner, names) in enumerate(ROUNDS):
        rows, labels = random_rows(device, seed=number, names=names), labels_of(names, device)
        found = run(shared, rows, labels, view=view_of(learners_of(), "divide", learner, device))
        expected = run(alone[learner], rows, labels, slices=PLACES[learner])
        assert relative(found.value, expected.value) < 1e-12
        assert relative(found.gradient, expected.gradient) < 1e-10
        run(whole, joined(rows), labels, view=view_of(learners_of(), "full", learner, device))
    rows, labels = random_rows(device, seed=99), labels_of(NAMES, device)
    view = view_of(learners_of(), "full", None, device)
    assert relative(run(shared, rows, labels, view=view).value, run(whole, rows, labels, view=view).value) < 1e-12


def small_memory(case: Fields, of_all: nn.Module, learner: int, device: torch.device) -> nn.Module:
    """A memory of one learner, that knows the classes by their old names."""
    first, behind = PLACES[learner]
    made = loss_of(case, device, dim=behind - first, num_learners=1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(of_all.get_parameter(name)[learner : learner + 1])
    return made

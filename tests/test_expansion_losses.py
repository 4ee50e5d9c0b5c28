"""Spherical Embedding Expansion around every loss: the term is the loss on synthetic rows that were made one by one.

Shapes are padded to the largest share of a batch; nothing of the padding may reach a value or a gradient.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from raydml.losses import LossOutput, References
from raydml.losses.classes import class_directions
from raydml.losses.memory import CrossBatchMemory
from tests import loss_oracles as oracle
from tests import pair_oracles as loops
from tests.expansion_cases import (
    DIM,
    HALF_WAY,
    LARGE_CLASSES,
    NAMES,
    NUM_CLASSES,
    PAIR_CASES,
    PROXY_CASES,
    Chosen,
    Fields,
    Step,
    batch,
    batch_prototypes,
    chosen,
    loss_of,
    run_step,
    see_config,
    see_of,
    seeded,
    words,
)

WEIGHT = 0.7
HARD_MINED = [{"kind": "triplet", "mining": mining} for mining in ("semi_hard", "hardest")]
# Few bins, because the loop over them is long.
IN_LOOPS = [
    {**case, "num_bins": 9} if case["kind"] == "histogram" else case
    for case in PAIR_CASES
    if case["kind"] != "margin" and "scope" not in case and case not in HARD_MINED
]


def relative(found: Tensor, expected: Tensor) -> float:
    return oracle.relative(found.double().cpu(), expected.double().cpu())


def proxies_of(loss: nn.Module) -> Tensor:
    assert isinstance(loss.proxies, Tensor)
    return loss.proxies.detach()


def alone(loss: nn.Module, points: Chosen, fields: Fields) -> tuple[float, Tensor]:
    """The loss on the chosen rows, and its gradient by the proxies; without what is not of rows."""
    labels = torch.tensor(points.names, device=points.rows.device)
    # The curriculum moves on real rows: a mask of ones says that these are not.
    everyone = torch.ones_like(labels, dtype=torch.bool) if fields["kind"] == "curricularface" else None
    output: LossOutput = loss(points.rows, labels, counted=everyone)
    value = output.value
    if fields["kind"] == "soft_triple":
        inner: Any = loss
        value = value - inner._regularizer(nn.functional.normalize(inner.proxies, dim=-1))
    (gradient,) = torch.autograd.grad(value, [p for name, p in loss.named_parameters() if name == "proxies"])
    return float(value.detach()), gradient


@pytest.mark.parametrize("fields", PROXY_CASES, ids=words)
@pytest.mark.parametrize("num_expansions", [1, 3, 5])
def test_the_term_is_the_loss_with_the_same_proxies_on_synthetic_rows_alone(
    num_expansions: int, fields: Fields, device: torch.device
) -> None:
    rows, labels = batch(NAMES, device)
    loss = loss_of(fields, device)
    see = see_of(fields, see_config(num_expansions=num_expansions, **HALF_WAY), device)
    assert [*see.parameters(), *see.buffers()] == []
    found = run_step(loss, see, rows, labels, epoch=5)
    points = chosen(rows, labels, proxies_of(loss), num=6, num_expansions=num_expansions)
    value, gradient = alone(loss, points, fields)
    assert found.stat("selected") == 6
    assert found.stat("loss") == pytest.approx(value, rel=1e-10)
    base = run_step(loss_of(fields, device), None, rows, labels)
    assert float(found.output.value) == pytest.approx(float(base.output.value) + WEIGHT * value, rel=1e-12)
    assert torch.equal(found.gradient, base.gradient)
    expected = base.parameter_gradients["loss.proxies"] + WEIGHT * gradient
    assert relative(found.parameter_gradients["loss.proxies"], expected) < 1e-10
    assert float(gradient.norm()) > 0.0


@pytest.mark.parametrize("fields", PROXY_CASES, ids=words)
def test_classes_in_chunks_are_all_classes(fields: Fields, device: torch.device) -> None:
    """Recomputed in the backward pass, when what the loss was given is gone."""
    rows, labels = batch(NAMES, device)

    def found() -> Step:
        return run_step(loss_of(fields, device), see_of(fields, see_config(), device), rows, labels)

    whole = found()
    with mock.patch("raydml.losses.classes._LARGEST", 30):
        in_chunks = found()
    assert relative(in_chunks.output.value, whole.output.value) < 1e-12
    for name, gradient in whole.parameter_gradients.items():
        assert relative(in_chunks.parameter_gradients[name], gradient) < 1e-11


def test_the_curriculum_moves_on_real_rows_alone(device: torch.device) -> None:
    fields, (rows, labels) = {"kind": "curricularface", "momentum": 0.5}, batch(NAMES, device)
    with_see, without = loss_of(fields, device), loss_of(fields, device)
    for _ in range(3):
        run_step(with_see, see_of(fields, see_config(), device), rows, labels)
        run_step(without, None, rows, labels)
    assert isinstance(without.curriculum, Tensor)
    assert torch.equal(with_see.get_buffer("curriculum"), without.curriculum)
    assert float(without.curriculum) != 0.0


def test_of_several_centres_the_nearest_is_the_direction(device: torch.device) -> None:
    """Two centres of class 0 at e_1 and e_2, an embedding at 10 degrees from e_2: its mirror image is at 100."""
    fields = {"kind": "soft_triple", "centers_per_class": 2}
    loss, see = loss_of(fields, device, dim=2), see_of(fields, see_config(num_expansions=1), device, dim=2)
    loss.proxies = nn.Parameter(torch.eye(2, dtype=torch.float64, device=device).repeat(NUM_CLASSES, 1, 1))
    rows = loops.plane([80.0], device)
    directions = class_directions(rows, torch.tensor([0], device=device), proxies_of(loss))
    torch.testing.assert_close(directions, loops.plane([90.0], device), atol=1e-15, rtol=0.0)
    found = run_step(loss, see, rows.repeat(2, 1), torch.zeros(2, dtype=torch.int64, device=device))
    assert found.stat("selected_cosine") == pytest.approx(float(rows[0, 1]), rel=1e-12)


def explicit(points: Chosen, num_rows: int, device: torch.device) -> References:
    """References without padding but for one place, in which copies of those not chosen lie."""
    num = len(points.names)
    per_image = num // len(points.source)
    own = torch.full((num_rows, per_image), num)
    for place, i in enumerate(points.source):
        own[i] = torch.arange(place * per_image, (place + 1) * per_image)
    labels = torch.tensor([*points.names, -1], device=device)
    return References(torch.cat([points.rows, torch.ones_like(points.rows[:1])]), labels, own.to(device))


@pytest.mark.parametrize("prototypes", ["moving_average", "auxiliary"])
@pytest.mark.parametrize("fields", PAIR_CASES, ids=words)
def test_the_term_compares_embeddings_with_synthetic_rows(
    fields: Fields, prototypes: str, device: torch.device
) -> None:
    """24 images of which 12 with 6 expansions each: enough that a loss that draws has 64 draws, padded or not.

    No class of two: around their mean they mirror each other, and rounding would choose the hardest.
    """
    rows, labels = batch(LARGE_CLASSES * 2, device, dim=8)
    loss = loss_of(fields, device, dim=8)
    see = see_of(fields, see_config(num_expansions=6, prototypes=prototypes, **HALF_WAY), device, dim=8)
    assert see.prototypes is not None
    proxies = batch_prototypes(rows, labels) if prototypes == "moving_average" else see.prototypes.proxies
    points = chosen(rows, labels, proxies, num=12, num_expansions=6)
    # Draws go on where the base ended.
    leaf, generator = rows.clone().requires_grad_(), seeded(device)
    base: LossOutput = loss(leaf, labels, generator=generator)
    term: LossOutput = loss(leaf, labels, references=explicit(points, 24, device), generator=generator)
    learned = [p for p in loss.parameters() if p.requires_grad]
    total = base.value + WEIGHT * term.value
    gradient, *others = torch.autograd.grad(total, [leaf, *learned])
    found = run_step(loss, see, rows, labels, epoch=5)
    assert found.stat("selected") == 12
    assert float(term.value.detach()) > 0.0
    assert found.stat("loss") == pytest.approx(float(term.value.detach()), rel=1e-10)
    assert relative(found.gradient, gradient) < 1e-10
    for parameter, other in zip(learned, others, strict=True):
        assert parameter.grad is not None
        assert relative(parameter.grad, other) < 1e-10
    alone = see.prototypes.loss(rows, labels) if prototypes == "auxiliary" else torch.zeros(())
    assert float(found.output.value) == pytest.approx(float((total + alone.to(device)).detach()), rel=1e-12)


@pytest.mark.parametrize("fields", IN_LOOPS, ids=words)
def test_the_term_is_the_loop_over_pairs_without_own_copies(fields: Fields, device: torch.device) -> None:
    rows, labels = batch(LARGE_CLASSES, device)
    see = see_of(fields, see_config(**HALF_WAY), device)
    points = chosen(rows, labels, batch_prototypes(rows, labels), num=6, num_expansions=3)
    place = {i: range(3 * k, 3 * k + 3) for k, i in enumerate(points.source)}
    own = [place.get(i, range(0)) for i in range(len(LARGE_CLASSES))]
    config = loops.configured(fields)

    def term(x: Tensor) -> Tensor:
        return loops.loop(loops.Compared(x, LARGE_CLASSES, points.rows.cpu(), points.names, own), config)

    found = run_step(loss_of(fields, device), see, rows, labels, epoch=5)
    base = run_step(loss_of(fields, device), None, rows, labels)
    expected = oracle.judge(term, rows)
    assert float(expected.value) > 0.0
    assert found.stat("loss") == pytest.approx(float(expected.value), rel=1e-10)
    assert relative((found.gradient - base.gradient) / WEIGHT, expected.gradient) < 1e-10


@pytest.mark.parametrize("fields", [*PROXY_CASES, *PAIR_CASES], ids=words)
@pytest.mark.parametrize("frames", ["shared", "independent"])
@pytest.mark.parametrize("gradient", ["none", "reflect"])
def test_every_loss_has_a_finite_value_and_gradient(
    gradient: str, frames: str, fields: Fields, device: torch.device
) -> None:
    """In float32, with as many expansions as the dimension holds."""
    rows, labels = batch(LARGE_CLASSES, device)
    config = see_config(num_expansions=DIM - 1, final_fraction=1.0, frames=frames, gradient=gradient)
    found = run_step(loss_of(fields, device).float(), see_of(fields, config, device).float(), rows.float(), labels)
    assert found.output.value.dtype == torch.float32
    numbers = [found.output.value, found.gradient, *found.parameter_gradients.values(), *found.output.stats.values()]
    assert all(bool(number.isfinite().all()) for number in numbers)
    assert found.stat("loss") > 0.0


@pytest.mark.parametrize("fields", [{"kind": "contrastive"}, {"kind": "margin", "learn_beta": "shared"}], ids=words)
def test_synthetic_rows_never_enter_a_memory(fields: Fields, device: torch.device) -> None:
    """And the term is that of the loss within: it is the same with a memory and without."""
    remembering = {**fields, "memory": {"size": 40}}
    with_see, without = loss_of(remembering, device), loss_of(remembering, device)
    see, terms = see_of(fields, see_config(), device), []
    for seed in range(5):
        rows, labels = batch(NAMES, device, seed=seed)
        terms.append(run_step(with_see, see, rows, labels).stat("loss"))
        run_step(without, None, rows, labels)
        assert isinstance(with_see, CrossBatchMemory)
        for name, buffer in without.named_buffers():
            assert torch.equal(with_see.get_buffer(name), buffer), name
    if fields["kind"] == "contrastive":
        twin = see_of(fields, see_config(), device)
        plain = [run_step(loss_of(fields, device), twin, *batch(NAMES, device, seed=seed)) for seed in range(5)]
        assert [step.stat("loss") for step in plain] == terms


def test_running_means_are_those_of_the_loop(device: torch.device) -> None:
    """specs/see.md, 6: mu <- normalise(beta mu + (1 - beta) batch mean); a new class starts at its batch mean."""
    fields = {"kind": "discriminate"}
    see = see_of(fields, see_config(prototype_momentum=0.8), device)
    assert see.prototypes is not None
    means: dict[int, Tensor] = {}
    for step, names in enumerate(([0, 0, 1, 1, 2, 2], [2, 1, 1, 1, 5, 2], [5, 0, 5, 0, 7, 7])):
        rows, labels = batch(names, device, seed=step)
        run_step(loss_of(fields, device), see, rows, labels)
        for name in {*names}:
            of_class = torch.stack([row for row, y in zip(rows, names, strict=True) if y == name]).mean(0)
            moved = 0.8 * means[name] + 0.2 * of_class if name in means else of_class
            means[name] = moved / moved.norm()
    for name in range(NUM_CLASSES):
        expected = means.get(name, torch.zeros(DIM, dtype=torch.float64, device=device))
        torch.testing.assert_close(see.prototypes.means[name], expected, atol=1e-14, rtol=0.0)


def test_running_means_move_before_anything_is_expanded(device: torch.device) -> None:
    """In the first epochs the share is zero: they are warm when the first image is expanded."""
    fields, (rows, labels) = {"kind": "discriminate"}, batch(NAMES, device)
    see = see_of(fields, see_config(schedule="cosine", initial_fraction=0.0), device)
    assert "see/loss" not in run_step(loss_of(fields, device), see, rows, labels, epoch=0).output.stats
    assert see.prototypes is not None
    torch.testing.assert_close(see.prototypes.means, batch_prototypes(rows, labels), atol=1e-15, rtol=0.0)


def test_auxiliary_proxies_are_trained_and_train_nothing(device: torch.device) -> None:
    """Their gradient is Proxy-Anchor's on constants, whatever is expanded; the embeddings have none from them."""
    fields, (rows, labels) = {"kind": "discriminate"}, batch(NAMES, device)
    for epoch in (0, 9):
        config = see_config(schedule="cosine", initial_fraction=0.0, prototypes="auxiliary")
        see, loss = see_of(fields, config, device), loss_of(fields, device)
        found = run_step(loss, see, rows, labels, epoch=epoch)
        assert see.prototypes is not None
        assert see.prototypes.auxiliary is not None
        expected = run_step(see.prototypes.auxiliary, None, rows, labels)
        gradient = found.parameter_gradients["see.prototypes.auxiliary.proxies"]
        assert relative(gradient, expected.parameter_gradients["loss.proxies"]) < 1e-12
        plain = run_step(loss_of(fields, device), None, rows, labels)
        assert torch.equal(found.gradient, plain.gradient) == (epoch == 0)

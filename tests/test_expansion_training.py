"""Spherical Embedding Expansion in a training: absent where it does nothing, resumed to the bit, in chunks, refused."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raydml.config import ConfigError, ExperimentConfig, parse
from raydml.data.batches import Batch
from raydml.epoch import TrainingState, new_state, train_epoch
from raydml.expansion import SphericalExpansion
from raydml.objective import DataShape, Objective, StepContext, build_objective
from raydml.seeds import Purpose, derive
from tests.conftest import changed
from tests.expansion_cases import STAND_ALONE

SHAPE = DataShape(num_classes=6, in_channels=1, image_size=16, mean=(0.5,), std=(0.25,))
LATE = StepContext(seed=0, epoch=2, step=7)
SEE = {"num_expansions": 4, "weight": 0.5, "final_fraction": 0.8}


@pytest.fixture
def config(tiny: ExperimentConfig) -> ExperimentConfig:
    return changed(tiny, loss__kind="proxy_anchor", training__precision="float64")


def batch_of(count: int, device: torch.device, *, step: int = 0, image_size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (count, 1, image_size, image_size), generator=generator).byte()
    return images.to(device), (torch.arange(count) // 4 % SHAPE.num_classes).to(device)


def gradients(
    objective: Objective, device: torch.device, *, context: StepContext = LATE, count: int = 16, image_size: int = 16
) -> dict[str, Tensor]:
    """Value and all gradients of one step, by name."""
    objective = objective.to(device).train()
    images, labels = batch_of(count, device, image_size=image_size)
    output = objective(images, labels, context=context)
    output.value.backward()
    learned = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    return {"value": output.value.detach(), **learned}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, prefix: str = "") -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith(prefix))


@pytest.mark.parametrize("kind", ["proxy_anchor", "discriminate", "margin"])
@pytest.mark.parametrize(
    ("see", "context"),
    [
        ({**SEE, "num_expansions": 0}, LATE),
        ({**SEE, "weight": 0.0}, LATE),
        ({**SEE, "final_fraction": 0.0}, LATE),
        (SEE, replace(LATE, epoch=0)),
    ],
    ids=["no expansions", "no weight", "of nobody", "first epoch"],
)
def test_what_does_nothing_changes_nothing(
    see: dict[str, object], context: StepContext, kind: str, config: ExperimentConfig, device: torch.device
) -> None:
    """I12: value, gradients and torch's own generator, to the bit."""
    config = changed(config, loss__kind=kind)
    plain = gradients(build_objective(config, SHAPE), device, context=context)
    before = torch.get_rng_state()
    objective = build_objective(changed(config, see=see), SHAPE)
    assert same(gradients(objective, device, context=context), plain)
    assert torch.equal(torch.get_rng_state(), before)
    if see["num_expansions"] == 0 or see["weight"] == 0.0:
        assert objective.see is None
        assert objective.state_dict().keys() == build_objective(config, SHAPE).state_dict().keys()


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["proxy_anchor", "soft_triple", "curricularface"])
def test_with_proxies_the_network_learns_from_real_images_alone(
    kind: str, precision: str, config: ExperimentConfig, device: torch.device
) -> None:
    """I13, through all layers; and the global generator is left alone where something is expanded too."""
    config = changed(config, loss__kind=kind, training__precision=precision)
    plain = gradients(build_objective(config, SHAPE), device)
    before = torch.get_rng_state()
    found = gradients(build_objective(changed(config, see=SEE), SHAPE), device)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(found, plain, prefix="model")
    assert not torch.equal(found["loss.proxies"], plain["loss.proxies"])


def test_weights_and_embeddings_are_those_without(config: ExperimentConfig, device: torch.device) -> None:
    """I21: the same initial weights, no parameter more with proxies, and nothing in the model."""
    images, _ = batch_of(8, device)
    for kind, more in (("proxy_anchor", set()), ("discriminate", {"see.prototypes.means"})):
        configs = (changed(config, loss__kind=kind), changed(config, loss__kind=kind, see=SEE))
        without, expanding = (build_objective(each, SHAPE).to(device).eval() for each in configs)
        ours, theirs = expanding.state_dict(), without.state_dict()
        assert ours.keys() - theirs.keys() == more
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert len([*expanding.parameters()]) == len([*without.parameters()])
        assert torch.equal(expanding.model(images), without.model(images))
    auxiliary = changed(config, loss__kind="discriminate", see={**SEE, "prototypes": "auxiliary"})
    assert [p.shape for p in build_objective(auxiliary, SHAPE).loss_parameters()] == [(6, 16)]


def test_the_same_seed_and_step_give_the_same_points(config: ExperimentConfig, device: torch.device) -> None:
    """I19: and another step or seed others. Frames have a stream of their own, so that no loss's draws move with it."""
    objective = build_objective(changed(config, see=SEE), SHAPE).to(device)
    images, labels = batch_of(16, device)
    contexts = (LATE, LATE, replace(LATE, step=8), replace(LATE, seed=1))
    found = [float(objective(images, labels, context=c).stats["see/loss"]) for c in contexts]
    assert found[0] == found[1]
    assert len({*found}) == 3
    assert objective.see is not None
    rows, frames = objective.model(images), torch.Generator(device)
    frames.manual_seed(derive(Purpose.FRAMES, 0, 7))
    output = objective.see(objective.loss, rows, labels, epoch=2, generator=frames, frames=lambda: frames)
    assert float(output.stats["see/loss"]) == found[0]


def epochs(state: TrainingState, device: torch.device, *, until: int) -> list[dict[str, float]]:
    """Trains with three batches in each epoch."""
    metrics = []
    while state.epoch < until:
        steps = range(state.step, state.step + 3)
        batches = [Batch(*batch_of(16, device, step=step), torch.arange(16), num_global=16) for step in steps]
        metrics.append(train_epoch(state, batches, device=device))
    return metrics


@pytest.mark.parametrize("prototypes", ["moving_average", "auxiliary"])
@pytest.mark.parametrize("kind", ["proxy_anchor", "margin"])
def test_a_resumed_training_is_the_uninterrupted_one(
    kind: str, prototypes: str, config: ExperimentConfig, device: torch.device
) -> None:
    """I19: interrupted after the first epoch that expands; prototypes included."""
    see = {**SEE, "schedule": "linear", "prototypes": prototypes}
    config = changed(config, loss__kind=kind, see=see, training__num_epochs=4)
    straight, first, second = (new_state(config, SHAPE, steps_per_epoch=3, device=device) for _ in range(3))
    expected = epochs(straight, device, until=4)
    epochs(first, device, until=2)
    saved = io.BytesIO()
    torch.save([first.objective.state_dict(), first.optimizer.state_dict()], saved)
    saved.seek(0)
    with torch.no_grad():
        for tensor in second.objective.state_dict().values():
            tensor.fill_(1)
    weights, moments = torch.load(saved, weights_only=True)
    second.objective.load_state_dict(weights)
    second.optimizer.load_state_dict(moments)
    second.epoch, second.step = first.epoch, first.step
    assert epochs(second, device, until=4) == expected[2:]
    ours, theirs = second.objective.state_dict(), straight.objective.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any("see" in name for name in theirs) == (kind == "margin")


def test_statistics_reach_the_metrics_of_an_epoch(config: ExperimentConfig, device: torch.device) -> None:
    """Gradient norms too, which are known after the backward pass only."""
    for kind in ("proxy_anchor", "contrastive"):
        state = new_state(changed(config, loss__kind=kind, see=SEE), SHAPE, steps_per_epoch=3, device=device)
        first, second, _ = epochs(state, device, until=3)
        names = ("loss", "fraction", "selected", "selected_cosine", "collisions", "base_gradient", "gradient")
        assert not [name for name in first if name.startswith("see/")]
        assert {name for name in second if name.startswith("see/")} == {f"see/{name}" for name in names}
        # Epoch 1 of 3: 0.8 (1 - cos(pi / 3)) / 2 of 16 images.
        assert (second["see/selected"], second["see/fraction"]) == (3.0, 3 / 16)
        assert second["see/base_gradient"] > 0.0
        assert second["see/gradient"] > 0.0


@pytest.mark.parametrize("gradient", ["none", "reflect"])
@pytest.mark.parametrize("kind", ["proxy_anchor", "discriminate"])
def test_chunks_have_the_gradient_of_the_whole(
    kind: str, gradient: str, config: ExperimentConfig, device: torch.device
) -> None:
    config = changed(config, loss__kind=kind, see={**SEE, "gradient": gradient}, model__batch_norm="frozen")
    whole = gradients(build_objective(config, SHAPE), device)
    in_chunks = gradients(build_objective(changed(config, training__chunk_size=5), SHAPE), device)
    for name, expected in whole.items():
        assert float((in_chunks[name] - expected).norm()) <= 1e-11 * max(1.0, float(expected.norm())), name


@pytest.mark.parametrize("kind", ["proxy_anchor", "discriminate"])
def test_in_bfloat16_the_network_is_narrow_and_the_expansion_is_not(
    kind: str, tiny: ExperimentConfig, device: torch.device
) -> None:
    config, shape = changed(tiny, loss__kind=kind, see=SEE, model__batch_norm="frozen"), replace(SHAPE, image_size=32)
    wide = gradients(build_objective(config, shape), device, count=24, image_size=32)
    narrow = gradients(
        build_objective(changed(config, training__precision="bfloat16"), shape), device, count=24, image_size=32
    )
    assert {gradient.dtype for gradient in narrow.values()} == {torch.float32}
    assert all(bool(gradient.isfinite().all()) for gradient in narrow.values())
    # Not the gradients of a loss on pairs: those of rounded embeddings select others.
    for name in ("value", *(["loss.proxies"] if kind == "proxy_anchor" else [])):
        assert 0.0 < float((narrow[name] - wide[name]).norm()) < 0.2 * float(wide[name].norm()), name


INVALID: list[tuple[dict[str, object], str]] = [
    ({"num_expansions": 64}, r"^see\.num_expansions must not exceed .*see\.num_expansions=64, model\.embedding_dim=64"),
    ({"num_expansions": -1}, r"^see\.num_expansions: .*at least 0.*-1"),
    ({"num_expansions": 2.0}, r"^see\.num_expansions: .*integer.*2\.0"),
    ({"initial_fraction": -0.1}, r"^see\.initial_fraction: .*at least 0.*-0\.1"),
    ({"final_fraction": 1.1}, r"^see\.final_fraction: .*at most 1.*1\.1"),
    ({"initial_fraction": 0.5}, r"^see: initial_fraction must not exceed .*initial_fraction=0\.5, final_fraction=0\.4"),
    ({"weight": -0.5}, r"^see\.weight: .*at least 0.*-0\.5"),
    ({"prototype_momentum": 1.0}, r"^see\.prototype_momentum: .*less than 1|^see\.prototype_momentum: .*below 1"),
    ({"schedule": "cosin"}, r"^see\.schedule: .*'cosine', 'linear', 'constant' or 'threshold'.*cosin"),
    ({"expansions": 2}, r"^see\.expansions: unknown key 'expansions'.*did you mean 'num_expansions'"),
]


@pytest.mark.parametrize(("see", "message"), INVALID, ids=[str(fields) for fields, _ in INVALID])
def test_bad_input_names_the_path_the_law_and_the_value(see: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse({"model": {"embedding_dim": 64}, "see": see})
    assert "\n" not in str(caught.value)
    parse({"model": {"embedding_dim": 64}, "see": {"num_expansions": 63}})


@pytest.mark.parametrize("kind", [*sorted(STAND_ALONE), "library"])
def test_losses_without_class_directions_are_refused(kind: str) -> None:
    fields = {"kind": kind, **({"name": "ContrastiveLoss"} if kind == "library" else {})}
    with pytest.raises(ConfigError, match=rf"needs a loss with proxies or on pairs.*=2, loss\.kind={kind}$") as caught:
        parse({"loss": fields, "see": {"num_expansions": 2}})
    assert "\n" not in str(caught.value)
    parse({"loss": fields, "see": {"num_expansions": 0}})


@pytest.mark.parametrize("kind", ["proxy_anchor", "margin", "curricularface"])
def test_the_largest_expansion_is_rehearsed_before_the_first_step(
    kind: str, config: ExperimentConfig, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no trace: neither in weights and prototypes nor in the global generator."""
    seen: list[int] = []
    expand = SphericalExpansion._expanded

    def watched(self: SphericalExpansion, *args: Any) -> Any:  # noqa: ANN401
        found = expand(self, *args)
        seen.append(len(found.rows))
        return found

    monkeypatch.setattr(SphericalExpansion, "_expanded", watched)
    config, random_state = changed(config, loss__kind=kind, see=SEE), torch.get_rng_state()
    state = new_state(config, SHAPE, steps_per_epoch=1, device=device)
    assert seen == [round(0.8 * config.data.batch_size)]
    assert torch.equal(torch.get_rng_state(), random_state)
    untouched = build_objective(config, SHAPE).to(device).state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in state.objective.state_dict().items())


def test_what_does_not_fit_is_told_before_the_first_step(
    config: ExperimentConfig, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(SphericalExpansion, "forward", full)
    with pytest.raises(ConfigError, match=r"^see.num_expansions: 4 expansions of 13 of 16 embeddings do not fit into"):
        new_state(changed(config, see=SEE), SHAPE, steps_per_epoch=1, device=device)

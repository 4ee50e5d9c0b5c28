"""One pass over batches: what a bad loss leaves behind, what the means mean, and embedding in order."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydml.config import AugmentConfig, ExperimentConfig, replace_at
from raydml.data.batches import Batch, class_balanced_batches, sequential_batches, training_batches
from raydml.data.pixels import PixelSource
from raydml.epoch import Embedded, NonFiniteLossError, TrainingState, embed, new_state, train_epoch
from raydml.losses import LossOutput
from raydml.objective import DataShape, StepContext, network_input

SHAPE = DataShape(num_classes=6, in_channels=1, image_size=16, mean=(0.5,), std=(0.3,))
STEPS = 8
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 1), dtype=np.uint8)
LABELS = np.repeat(np.arange(6, dtype=np.int64), 8)
EVERYTHING = np.arange(48, dtype=np.int64)
OPTIMIZERS = ["adamw", "sgd"]


class Watched(nn.Module):
    """A loss that records its values, is bad at one call and the next but one, and remembers what was before."""

    def __init__(self, loss: nn.Module, *, bad_call: int, bad_value: float) -> None:
        super().__init__()
        self.loss, self.bad_call, self.bad_value = loss, bad_call, bad_value
        self.values: list[float] = []
        self.look: Callable[[], list[Tensor]] = list
        self.seen_before: list[Tensor] = []

    def forward(self, embeddings: Tensor, labels: Tensor, *, generator: torch.Generator) -> LossOutput:
        output: LossOutput = self.loss(embeddings, labels, generator=generator)
        since_bad = len(self.values) - self.bad_call
        if since_bad == 0:
            self.seen_before = self.look()
        value = output.value * (self.bad_value if since_bad in (0, 2) else 1.0)
        self.values.append(float(value.detach()))
        return LossOutput(value, output.stats)


def watched_state(
    config: ExperimentConfig, device: torch.device, *, bad_call: int = -9, bad_value: float = float("nan")
) -> tuple[TrainingState, Watched]:
    state = new_state(config, SHAPE, steps_per_epoch=STEPS, device=device)
    watched = Watched(state.objective.loss, bad_call=bad_call, bad_value=bad_value)
    watched.look = lambda: [*parameters_of(state).values(), *optimizer_tensors(state)]
    state.objective.loss = watched
    return state, watched


def batches(device: torch.device, *, num_steps: int = STEPS, epoch: int = 0) -> list[Batch]:
    rows = class_balanced_batches(LABELS, batch_size=12, samples_per_class=4, num_steps=STEPS, seed=0, epoch=epoch)
    source = PixelSource(PIXELS, EVERYTHING, device=device)
    parts = training_batches(source, LABELS, rows, augment=AugmentConfig(), seed=0, epoch=epoch, rank=0, world_size=1)
    return list(parts)[:num_steps]


def parameters_of(state: TrainingState) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.objective.named_parameters()}


def optimizer_tensors(state: TrainingState) -> list[Tensor]:
    """Copies of momenta and counts of steps, in a fixed order."""
    held = state.optimizer.state_dict()["state"]
    return [value.clone() for number in sorted(held) for _, value in sorted(held[number].items()) if value is not None]


@pytest.fixture
def config(tiny: ExperimentConfig) -> ExperimentConfig:
    return replace_at(tiny, "loss.kind", "proxy_anchor")


@pytest.mark.parametrize("log_steps", [1, 3, 1000])
@pytest.mark.parametrize("bad_value", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bad_loss_stops_with_parameters_and_optimizer_as_they_were(
    optimizer: str, bad_value: float, log_steps: int, config: ExperimentConfig, device: torch.device
) -> None:
    config = replace_at(replace_at(config, "optimizer.kind", optimizer), "training.log_steps", log_steps)
    state, watched = watched_state(config, device, bad_call=STEPS + 4, bad_value=bad_value)
    first = parameters_of(state)["model.head.weight"]
    train_epoch(state, batches(device), device=device)
    with pytest.raises(NonFiniteLossError, match=f"epoch 2, step {STEPS + 4}") as error:
        train_epoch(state, batches(device, epoch=1), device=device)
    assert (error.value.epoch, error.value.step) == (2, STEPS + 4)
    assert all(torch.equal(*pair) for pair in zip(watched.look(), watched.seen_before, strict=True))
    assert not torch.equal(parameters_of(state)["model.head.weight"], first)
    looked_after = {1: STEPS + 5, 3: STEPS + 7, 1000: 2 * STEPS}
    assert len(watched.values) == looked_after[log_steps]


def test_a_loss_that_is_bad_at_once_leaves_the_first_weights(config: ExperimentConfig, device: torch.device) -> None:
    state, _ = watched_state(config, device, bad_call=0)
    before = parameters_of(state)
    with pytest.raises(NonFiniteLossError, match="epoch 1, step 0"):
        train_epoch(state, batches(device), device=device)
    assert all(torch.equal(value, before[name]) for name, value in parameters_of(state).items())
    assert state.epoch == 0


class _FiniteWithoutGradient(nn.Module):
    """Adds a zero whose derivative is not a number."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor, *, generator: torch.Generator) -> LossOutput:
        output: LossOutput = self.loss(embeddings, labels, generator=generator)
        return LossOutput(output.value + (0.0 * embeddings.sum()).sqrt(), output.stats)


def test_a_finite_loss_with_a_bad_gradient_stops_before_it_does_harm(
    config: ExperimentConfig, device: torch.device
) -> None:
    state = new_state(config, SHAPE, steps_per_epoch=STEPS, device=device)
    state.objective.loss = _FiniteWithoutGradient(state.objective.loss)
    before = parameters_of(state)
    with pytest.raises(NonFiniteLossError, match="epoch 1, step 0"):
        train_epoch(state, batches(device), device=device)
    assert all(torch.equal(value, before[name]) for name, value in parameters_of(state).items())


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(NonFiniteLossError(3, 17)))
    assert (error.epoch, error.step, str(error)) == (
        3,
        17,
        "the loss or its gradient is not finite at epoch 3, step 17",
    )


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps(config: ExperimentConfig, device: torch.device) -> None:
    state, watched = watched_state(config, device)
    first = train_epoch(state, batches(device), device=device)
    second = train_epoch(state, batches(device, epoch=1), device=device)
    assert first["loss"] == pytest.approx(np.mean(watched.values[:STEPS]), rel=1e-6)
    assert second["loss"] == pytest.approx(np.mean(watched.values[STEPS:]), rel=1e-6)
    assert first.keys() == {"loss", "gradient_norm", "proxy_similarity"}
    assert second["loss"] < first["loss"]
    assert (state.epoch, state.step) == (2, 2 * STEPS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_how_often_the_host_looks_changes_nothing(optimizer: str, config: ExperimentConfig) -> None:
    host = torch.device("cpu")  # a GPU need not be deterministic
    results: list[tuple[dict[str, float], dict[str, Tensor]]] = []
    for log_steps in (1, 1000):
        changed = replace_at(replace_at(config, "optimizer.kind", optimizer), "training.log_steps", log_steps)
        state, _ = watched_state(changed, host)
        results.append((train_epoch(state, batches(host), device=host), parameters_of(state)))
    (means, weights), (other_means, other_weights) = results
    assert means == other_means
    assert all(torch.equal(value, other_weights[name]) for name, value in weights.items())


@pytest.mark.parametrize("clip_norm", [1e-3, 1e6])
def test_the_gradient_of_model_and_loss_together_is_clipped(
    clip_norm: float, config: ExperimentConfig, device: torch.device
) -> None:
    rates = {"kind": "sgd", "lr": 0.5, "loss_lr": 0.5, "momentum": 0.0, "weight_decay": 0.0}
    norms = []
    for clip in (None, clip_norm):
        changed = replace_at(config, "optimizer", {**rates, "clip_norm": clip})
        state, _ = watched_state(replace_at(changed, "schedule.kind", "constant"), device)
        before = parameters_of(state)
        train_epoch(state, batches(device, num_steps=1), device=device)
        moved = [(value - before[name]).flatten() for name, value in parameters_of(state).items()]
        norms.append(float(torch.cat(moved).norm()) / 0.5)
    assert norms[1] == pytest.approx(min(norms[0], clip_norm), rel=1e-3)


def test_float64_trains_in_float64(config: ExperimentConfig, device: torch.device) -> None:
    state, watched = watched_state(replace_at(config, "training.precision", "float64"), device)
    train_epoch(state, batches(device, num_steps=1), device=device)
    assert all(value.dtype == torch.float64 for value in parameters_of(state).values())
    assert all(value.dtype == torch.float64 for value in optimizer_tensors(state) if value.ndim)
    assert watched.values[0] != float(np.float32(watched.values[0]))


def test_random_losses_draw_the_same_at_the_same_step(device: torch.device) -> None:
    def draw(seed: int, step: int, epoch: int = 0) -> list[float]:
        numbers = torch.rand(3, generator=StepContext(seed, epoch, step).generator(device), device=device)
        return [float(number) for number in numbers]

    assert draw(1, 5) == draw(1, 5)
    assert draw(1, 5) != draw(1, 6)
    assert draw(1, 5) != draw(2, 5)


def embedded(state: TrainingState, positions: list[int], batch_size: int, device: torch.device) -> Embedded:
    source = PixelSource(PIXELS, EVERYTHING, device=device)
    parts = sequential_batches(source, LABELS, positions, batch_size=batch_size)
    return embed(state.objective.model, parts, image_size=SHAPE.image_size)


def test_embedding_keeps_the_order_and_does_not_depend_on_the_batches(
    config: ExperimentConfig, device: torch.device
) -> None:
    state, _ = watched_state(replace_at(config, "training.precision", "float64"), device)
    positions = [5, 40, 3, 17, 22, 31, 2]
    whole, cut = embedded(state, positions, 100, device), embedded(state, positions, 3, device)
    assert whole.index.tolist() == cut.index.tolist() == positions
    assert whole.labels.tolist() == LABELS[positions].tolist()
    torch.testing.assert_close(cut.embeddings, whole.embeddings)
    torch.testing.assert_close(whole.embeddings.norm(dim=1), torch.ones(7, dtype=torch.float64, device=device))


@pytest.mark.parametrize("training", [True, False])
def test_embedding_changes_nothing(training: bool, config: ExperimentConfig, device: torch.device) -> None:
    state, _ = watched_state(config, device)
    model = state.objective.model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not embedded(state, list(range(20)), 8, device).embeddings.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training is training


def test_the_network_sees_a_crop_the_centre_or_all(device: torch.device) -> None:
    images = torch.randint(0, 256, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0)).byte().to(device)
    assert network_input(images, None, 16) is images
    assert torch.equal(network_input(images, None, 10), images[:, :, 3:13, 3:13] / 255)
    crops = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]] * 2, device=device)
    torch.testing.assert_close(network_input(images, crops, 16), images.flip(3) / 255, rtol=0, atol=1e-4)
    colours = torch.tensor([[0.5, 1.0, 1.0, 0.0]] * 2, device=device)
    for boxes in (None, crops):
        plain = network_input(images, boxes, 16)
        plain = plain if plain.is_floating_point() else plain / 255
        torch.testing.assert_close(network_input(images, boxes, 16, colours=colours), plain / 2, rtol=0, atol=1e-6)

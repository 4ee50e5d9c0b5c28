"""Batches in chunks and in half precision: the same gradient, less memory, and parameters that stay as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raydml.config import ConfigError, ExperimentConfig
from raydml.data.batches import max_positives
from raydml.epoch import new_state
from raydml.objective import DataShape, Objective, StepContext, build_objective
from tests.benchmarks.measuring import peak_bytes
from tests.conftest import changed
from tests.loss_cases import CASES

SHAPE = DataShape(num_classes=40, in_channels=1, image_size=16, mean=(0.5,), std=(0.25,))
CONTEXT = StepContext(seed=0, epoch=0, step=0)


@pytest.fixture
def frozen(tiny: ExperimentConfig) -> ExperimentConfig:
    """A batch of 128 through a network whose embeddings do not depend on each other."""
    return changed(tiny, model__batch_norm="frozen", data__batch_size=128)


def batch_of(count: int, device: torch.device, *, image_size: int = 16) -> tuple[Tensor, Tensor]:
    shape = (count, 1, image_size, image_size)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()
    return images.to(device), (torch.arange(count) // 4 % SHAPE.num_classes).to(device)


def gradients(
    objective: Objective,
    count: int,
    device: torch.device,
    *,
    crops: Tensor | None = None,
    colours: Tensor | None = None,
    image_size: int = 16,
) -> list[Tensor]:
    """Loss, then the gradient of every parameter."""
    objective = objective.to(device).train()
    images, labels = batch_of(count, device, image_size=image_size)
    output = objective(images, labels, context=CONTEXT, crops=crops, colours=colours)
    learned = [p for p in objective.parameters() if p.requires_grad]
    return [output.value.detach(), *torch.autograd.grad(output.value, learned)]


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    ours, theirs = (torch.cat([t.flatten().double() for t in side]) for side in (found, expected))
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("loss", CASES, ids=lambda case: " ".join(map(str, case.values())))
def test_chunks_have_the_gradient_of_the_whole(
    loss: dict[str, object], frozen: ExperimentConfig, device: torch.device
) -> None:
    config = changed(frozen, loss=loss, training__precision="float64")
    whole = gradients(build_objective(config, SHAPE), 128, device)
    for chunk_size in (50, 1000):
        in_chunks = build_objective(changed(config, training__chunk_size=chunk_size), SHAPE)
        assert error(gradients(in_chunks, 128, device), whole) < 1e-12


def test_chunks_of_a_large_batch_in_float32(frozen: ExperimentConfig, device: torch.device) -> None:
    config = changed(frozen, data__batch_size=512, loss__kind="multi_similarity")
    whole = gradients(build_objective(config, SHAPE), 512, device)
    in_chunks = gradients(build_objective(changed(config, training__chunk_size=100), SHAPE), 512, device)
    assert error(in_chunks, whole) < 1e-6


def test_crops_are_cut_into_chunks_too(frozen: ExperimentConfig, device: torch.device) -> None:
    config = changed(frozen, training__precision="float64")
    generator = torch.Generator().manual_seed(1)
    crops = torch.cat([torch.rand(128, 2, generator=generator) * 0.4, torch.full((128, 2), 0.6), torch.ones(128, 1)], 1)
    whole = gradients(build_objective(config, SHAPE), 128, device, crops=crops.to(device))
    in_chunks = build_objective(changed(config, training__chunk_size=48), SHAPE)
    assert error(gradients(in_chunks, 128, device, crops=crops.to(device)), whole) < 1e-12
    assert error(gradients(in_chunks, 128, device), whole) > 1e-3, "the crops made no difference"


def test_colours_are_cut_into_chunks_too(frozen: ExperimentConfig, device: torch.device) -> None:
    config = changed(frozen, training__precision="float64")
    colours = 0.5 + torch.rand(128, 4, generator=torch.Generator().manual_seed(2)).to(device)
    whole = gradients(build_objective(config, SHAPE), 128, device, colours=colours)
    in_chunks = build_objective(changed(config, training__chunk_size=48), SHAPE)
    assert error(gradients(in_chunks, 128, device, colours=colours), whole) < 1e-12
    assert error(gradients(in_chunks, 128, device), whole) > 1e-3, "the colours made no difference"


def test_dropout_is_the_same_in_both_passes_of_a_chunk(
    frozen: ExperimentConfig, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second pass must repeat the first one's draws, or the gradient is another network's."""

    def found() -> list[Tensor]:
        objective = build_objective(changed(frozen, training__precision="float64", training__chunk_size=64), SHAPE)
        objective.model.backbone = torch.nn.Sequential(objective.model.backbone, torch.nn.Dropout(0.5))
        torch.manual_seed(7)
        return gradients(objective, 128, device)

    twice = found()
    monkeypatch.setattr("raydml.objective.checkpoint", lambda function, *args, **_: function(*args))
    assert error(twice, found()) < 1e-12


def held(objective: Objective, count: int) -> int:
    """Most memory that tensors hold at a time during one step."""
    return peak_bytes(lambda: gradients(objective, count, torch.device("cpu")))


def test_memory_is_that_of_a_chunk(frozen: ExperimentConfig) -> None:
    """1,000 images in chunks of 52: the network of 52 images, and what the loss of 1,000 embeddings takes."""
    config = changed(frozen, data__batch_size=1000, loss__kind="nt_xent")
    in_chunks = held(build_objective(changed(config, training__chunk_size=52), SHAPE), 1000)
    network = held(build_objective(config, SHAPE), 52)
    loss = held(_LossOnly(build_objective(config, SHAPE)), 1000)
    assert in_chunks < 1.1 * (network + loss)
    assert held(build_objective(config, SHAPE), 1000) > 2 * in_chunks


class _LossOnly(Objective):
    """An objective whose network costs nothing."""

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective.model, objective.loss, image_size=objective.image_size)
        self.rows = torch.nn.Parameter(torch.nn.functional.normalize(torch.randn(1000, 16), dim=1))
        self.model.requires_grad_(False)

    def _embed_chunk(self, images: Tensor, crops: Tensor | None, colours: Tensor | None) -> Tensor:
        del images, crops, colours
        return self.rows * 1.0


@pytest.mark.parametrize("chunk_size", [127, 1])
def test_chunks_are_refused_where_statistics_are_of_the_whole_batch(chunk_size: int, tiny: ExperimentConfig) -> None:
    config = changed(tiny, data__batch_size=128, training__chunk_size=chunk_size)
    with pytest.raises(
        ConfigError, match=rf"^training.chunk_size: test_resnet .* chunk of {chunk_size} of data.batch_size=128 has, "
    ):
        build_objective(config, SHAPE)
    build_objective(changed(config, training__chunk_size=128), SHAPE)
    build_objective(changed(config, model__backbone="test_vit"), SHAPE)


@pytest.mark.parametrize("batch_norm", ["frozen", "synchronised"])
def test_bfloat16_changes_neither_parameters_nor_the_type_of_embeddings(
    batch_norm: str, tiny: ExperimentConfig, device: torch.device
) -> None:
    shape = replace(SHAPE, image_size=32)
    config = changed(tiny, model__batch_norm=batch_norm, loss__kind="proxy_anchor")
    wide = gradients(build_objective(config, shape), 64, device, image_size=32)
    objective = build_objective(changed(config, training__precision="bfloat16"), shape)
    narrow = gradients(objective, 64, device, image_size=32)
    assert {p.dtype for p in objective.parameters()} == {torch.float32}
    assert {gradient.dtype for gradient in narrow} == {torch.float32}
    embeddings = objective.model(batch_of(64, device, image_size=32)[0])
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(64, device=device))
    assert 1e-4 < error(narrow, wide) < 0.3, "another precision, but the same function"


def test_the_network_runs_in_bfloat16_and_the_loss_does_not(tiny: ExperimentConfig, device: torch.device) -> None:
    seen: list[torch.dtype] = []
    for precision in ("float32", "bfloat16"):
        objective = build_objective(changed(tiny, training__precision=precision), SHAPE).to(device)
        objective.model.head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
        objective.loss.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].dtype))
        objective(*batch_of(16, device), context=CONTEXT)
    assert seen == [torch.float32, torch.float32, torch.bfloat16, torch.float32]


def test_bfloat16_on_the_cpu_is_refused_where_torch_is_wrong(tiny: ExperimentConfig) -> None:
    config, cpu = changed(tiny, training__precision="bfloat16"), torch.device("cpu")
    with pytest.raises(ConfigError, match=r"^training.precision: bfloat16 on the CPU has wrong .*layer4.0.conv1"):
        new_state(config, SHAPE, steps_per_epoch=1, device=cpu)
    new_state(config, replace(SHAPE, image_size=32), steps_per_epoch=1, device=cpu)


def test_torch_still_leaves_that_gradient_uninitialised() -> None:
    """When this fails, torch is right again and raydml/torch_defects.py can go."""

    def outer_gradient() -> Tensor:
        """Of the kernel's outer elements, which never meet the only pixel: zero. Freed memory is full of NaN."""
        convolution = torch.nn.Conv2d(48, 64, 3, stride=2, padding=1, bias=False)
        with torch.autocast("cpu", torch.bfloat16):
            output = convolution(torch.ones(64, 48, 1, 1))
        for _ in range(2):
            torch.full((convolution.weight.numel() * 4,), torch.nan)
        output.float().square().mean().backward()
        assert convolution.weight.grad is not None
        middle = torch.zeros(3, 3, dtype=torch.bool).index_fill(0, torch.tensor([1]), True) & (torch.arange(3) == 1)
        return convolution.weight.grad[:, :, ~middle]

    assert any(not torch.equal(found, torch.zeros_like(found)) for found in (outer_gradient() for _ in range(30)))


@pytest.mark.parametrize(
    ("batch_size", "samples_per_class", "num_classes", "most"),
    [(128, 4, 375, 3), (128, 4, 32, 3), (40, 8, 5, 7), (32, 4, 4, 11), (32, 4, 3, 15), (8, 4, 1, 7), (12, 4, 2, 7)],
)
def test_most_positives_of_an_image(batch_size: int, samples_per_class: int, num_classes: int, most: int) -> None:
    """Where classes are too few for the slots of a batch they repeat: one window on rounds through the classes."""
    assert max_positives(batch_size, samples_per_class, num_classes) == most

"""The embedding model: unit rows from any backbone, weights from where they are asked for, errors a person can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from torch import Tensor

from raydml import checkpoint
from raydml.config import ConfigError, ExperimentConfig, ModelConfig, backbone_names, replace_at
from raydml.epoch import new_state
from raydml.models import EmbeddingModel, build_model
from raydml.objective import DataShape, build_objective

TEST_BACKBONES = [name for name in backbone_names() if name.startswith("test_")]
SHAPE = DataShape(num_classes=5, in_channels=1, image_size=32, mean=(0.4,), std=(0.3,))


def build(backbone: str = "test_resnet", *, channels: int = 1, size: int = 32, **fields: object) -> EmbeddingModel:
    config = ModelConfig.model_validate({"backbone": backbone, "embedding_dim": 8, **fields})
    return build_model(config, in_channels=channels, image_size=size, mean=(0.4,) * channels, std=(0.3,) * channels)


def images(count: int, *, channels: int = 1, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("backbone", TEST_BACKBONES)
def test_every_kind_of_backbone_gives_unit_rows_and_gradients(
    backbone: str, channels: int, device: torch.device
) -> None:
    # Among them: vision transformers of a fixed input size, heads that timm's own count of features leaves out.
    model = build(backbone, channels=channels).to(device)
    embeddings = model(images(3, channels=channels).to(device))
    assert embeddings.shape == (3, 8)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3, device=device))
    assert model.features(images(2, channels=channels).to(device)).shape == (2, model.head.in_features)
    embeddings[:, 0].sum().backward()
    assert model.head.weight.grad is not None
    assert bool(model.head.weight.grad.any())


def test_pixels_are_scaled_and_normalised_before_the_backbone(device: torch.device) -> None:
    model = build().to(device).eval()
    pixels = images(4).to(device)
    assert torch.equal(model(pixels), model(pixels / 255.0))
    torch.testing.assert_close(model.features(pixels), model.backbone((pixels / 255.0 - 0.4) / 0.3))


def test_a_model_in_float64_computes_in_float64(device: torch.device) -> None:
    model = build().double().to(device)
    assert model(images(2).to(device)).dtype == torch.float64


def batch_norms(model: EmbeddingModel) -> list[torch.nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


@torch.no_grad()
def test_a_model_computes_in_another_precision_than_it_was_trained_in(device: torch.device) -> None:
    x = images(4).to(device)
    model = build().to(device).eval()
    expected = model(x)
    assert torch.equal(model.compute_in("trained")(x), expected)
    half = model.compute_in("bfloat16")(x)
    assert half.dtype == torch.float32
    assert 0 < float((half - expected).abs().max()) < 0.05
    assert torch.equal(model.compute_in("float32")(x), expected)
    double = build().double().to(device).eval()
    assert double.compute_in("trained")(x).dtype == torch.float64
    assert double.compute_in("float32")(x).dtype == torch.float32


def test_frozen_batch_norm_stays_frozen_in_training(device: torch.device) -> None:
    model = build(batch_norm="frozen").to(device)
    parent = torch.nn.Sequential(model).eval().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    parent(images(4).to(device)).sum().backward()
    assert len(batch_norms(model)) > 3
    assert not any(layer.training for layer in batch_norms(model))
    assert not any(p.requires_grad or p.grad is not None for layer in batch_norms(model) for p in layer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert model.training
    assert model.head.training


def test_batch_norm_of_the_batch_learns_in_training(device: torch.device) -> None:
    model = build().to(device).train()
    before = model(images(4).to(device))
    assert all(layer.training and layer.weight.requires_grad for layer in batch_norms(model))
    assert not torch.equal(model.eval()(images(4).to(device)), before)


def test_the_shipped_names_are_those_of_timm() -> None:
    assert list(backbone_names()) == timm.list_models()


def test_a_tag_of_pretrained_weights_is_a_backbone() -> None:
    assert build("test_resnet.r160_in1k").head.in_features == build("test_resnet").head.in_features


@pytest.mark.parametrize("backbone", ["test_vit", "test_vit_relpos", "test_convnext", "test_coatnet", "test_maxvit"])
def test_an_image_that_is_too_small_is_named(backbone: str) -> None:
    size = 16 if backbone in ("test_convnext", "test_coatnet", "test_maxvit") else 8
    with pytest.raises(ConfigError, match=f"^model.backbone: .*{backbone}") as error:
        build(backbone, size=size)
    assert "\n" not in str(error.value)


def test_pretrained_weights_without_a_network_are_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # HF_HUB_OFFLINE=1, which the hub's client reads once, when it is imported; and an empty folder of downloads.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="pretrained weights of test_resnet cannot be had") as error:
        build("test_resnet", channels=3, weights="pretrained")
    assert "\n" not in str(error.value)


@pytest.fixture
def experiment(tiny: ExperimentConfig) -> ExperimentConfig:
    """With a loss that has parameters of its own."""
    return replace_at(tiny, "loss.kind", "proxy_anchor")


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone(experiment: ExperimentConfig) -> None:
    state = torch.get_rng_state()
    first, second = build_objective(experiment, SHAPE), build_objective(experiment, SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    other = build_objective(replace_at(experiment, "seed", 1), SHAPE).state_dict()
    assert not torch.equal(first.state_dict()["model.head.weight"], other["model.head.weight"])
    assert not torch.equal(first.state_dict()["loss.proxies"], other["loss.proxies"])


def test_double_precision_starts_from_the_same_weights(experiment: ExperimentConfig) -> None:
    single = build_objective(experiment, SHAPE)
    double = build_objective(replace_at(experiment, "training.precision", "float64"), SHAPE)
    for name, value in double.state_dict().items():
        assert value.dtype in (torch.float64, torch.int64)
        assert torch.equal(value, single.state_dict()[name].to(value.dtype))


@pytest.fixture
def trained(experiment: ExperimentConfig, tmp_path: Path) -> Path:
    """A checkpoint with other classes and another seed than those of the model that will take its weights."""
    config = replace_at(experiment, "seed", 99)
    state = new_state(config, replace(SHAPE, num_classes=3), steps_per_epoch=1, device=torch.device("cpu"))
    checkpoint.save(state, tmp_path / "checkpoint", fingerprint="f", fold=None)
    return tmp_path / "checkpoint"


def test_weights_of_a_checkpoint_are_the_models_and_not_the_losss(experiment: ExperimentConfig, trained: Path) -> None:
    theirs = checkpoint.load_objective(trained)[0]
    ours = build_objective(replace_at(experiment, "model.weights", str(trained)), SHAPE)
    assert all(torch.equal(v, theirs.model.state_dict()[name]) for name, v in ours.model.state_dict().items())
    assert torch.equal(
        ours.loss.state_dict()["proxies"], build_objective(experiment, SHAPE).loss.state_dict()["proxies"]
    )


def test_weights_that_do_not_fit_are_named(experiment: ExperimentConfig, trained: Path) -> None:
    other = replace_at(replace_at(experiment, "model.weights", str(trained)), "model.embedding_dim", 7)
    with pytest.raises(ConfigError, match=r"model\.weights: .* does not fit the model: .*head"):
        build_objective(other, SHAPE)


def test_weights_that_are_not_there_are_named(experiment: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"model.weights: no checkpoint folder .*{tmp_path.name}"):
        build_objective(replace_at(experiment, "model.weights", str(tmp_path)), SHAPE)


def test_layers_that_draw_are_switched_off(experiment: ExperimentConfig, device: torch.device) -> None:
    """swin_tiny has stochastic depth by default: every worker and every chunk would draw another network."""
    shape = replace(SHAPE, in_channels=3, image_size=64, mean=(0.5,) * 3, std=(0.25,) * 3)
    model = build_objective(replace_at(experiment, "model.backbone", "swin_tiny_patch4_window7_224"), shape).model
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte().to(device)
    model = model.to(device).train()
    assert torch.equal(model(images), model(images))

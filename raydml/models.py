"""The embedding model: a timm backbone, a linear head, rows of unit length; and BatchNorm that any workers share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Self

import timm
import torch
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from timm.layers.drop import DropBlock2d, DropPath
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from raydml.config import ConfigError, ModelConfig
from raydml.distances import full_precision, outside_autocast, unit_slices
from raydml.distributed import gather, world_size

# Longest run of images through a backbone when its number of features is found out.
_PROBE_IMAGES = 2


class EmbeddingModel(nn.Module):
    """Images (B, C_in, H, W), uint8 or float in [0, 1], to unit embeddings (B, D)."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_features: int,
        embedding_dim: int,
        mean: Sequence[float],
        std: Sequence[float],
        freeze_batch_norm: bool,
        autocast: bool = False,
        slices: Sequence[int] | None = None,
    ) -> None:
        """`autocast` computes backbone and head in bfloat16; parameters stay as they are.

        `slices` are sizes of consecutive parts of the embedding that have one length; None where there are no parts.
        """
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(num_features, embedding_dim)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self._freeze_batch_norm = freeze_batch_norm
        self._autocast = autocast
        self._slices = None if slices is None else tuple(slices)
        if freeze_batch_norm:
            for layer in self._batch_norms():
                layer.requires_grad_(False)

    def forward(self, images: Tensor, *, rescaled: bool = False) -> Tensor:
        """(B, C_in, H, W) -> (B, D) unit rows, never in half precision.

        `rescaled` says that what follows scales parts of the rows to unit length again. Then the length of the whole
        counts as constant: its gradient is zero in theory, and in practice rounding, which Adam makes steps of.
        """
        with self._arithmetic(images.device):
            projections = full_precision(self.head(self.features(images)))
        if self._slices is not None:
            return unit_slices(projections, self._slices)
        return nn.functional.normalize(projections, dim=1) if not rescaled else _over_constant_length(projections)

    def unit_features(self, images: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, F) unit rows of the backbone's features, never in half precision."""
        with self._arithmetic(images.device):
            features = full_precision(self.features(images))
        return nn.functional.normalize(features, dim=1)

    def _arithmetic(self, device: torch.device) -> AbstractContextManager[object]:
        # Nothing at all where there is nothing to switch: an exported model has no trace of autocast then.
        return torch.autocast(device.type, torch.bfloat16) if self._autocast else outside_autocast(device)

    def features(self, images: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, F), what the backbone puts out."""
        dtype = self.head.weight.dtype
        pixels = images.to(dtype) / 255.0 if images.dtype == torch.uint8 else images.to(dtype)
        features: Tensor = self.backbone((pixels - self.mean) / self.std)
        return features

    def train(self, mode: bool = True) -> Self:
        """Training mode; frozen BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self._freeze_batch_norm:
            for layer in self._batch_norms():
                layer.eval()
        return self

    def compute_in(self, precision: Literal["trained", "float32", "bfloat16"]) -> Self:
        """This model, with backbone and head in another precision than it was trained in; parameters are float32."""
        if precision == "trained":
            return self
        self._autocast = precision == "bfloat16"
        return self.to(torch.float32)

    @property
    def normalises_batches(self) -> bool:
        """Whether an embedding depends on the other images of its training batch."""
        kinds = (_BatchNorm, SynchronisedBatchNorm)
        return not self._freeze_batch_norm and any(isinstance(layer, kinds) for layer in self.backbone.modules())

    def _batch_norms(self) -> list[nn.Module]:
        return [layer for layer in self.backbone.modules() if isinstance(layer, _BatchNorm)]


def _over_constant_length(rows: Tensor) -> Tensor:
    """(B, D) -> (B, D): as torch's normalize, with no gradient of the lengths."""
    lengths: Tensor = torch.linalg.vector_norm(rows.detach(), dim=1, keepdim=True)
    return rows / lengths.clamp(min=1e-12)


class SynchronisedBatchNorm(nn.Module):
    """BatchNorm over the global batch on any device, from the means and variances of the workers' shares.

    torch's SyncBatchNorm refuses CPU tensors. Parameters, buffers and their names are those of the layer it stands
    for, with the activation that timm fuses into it.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))
        self.eps = layer.eps
        self.momentum = layer.momentum
        # timm fuses dropout and activation into its BatchNorm; both are without parameters.
        fused = (layer.drop, layer.act) if isinstance(layer, BatchNormAct2d) else ()
        self.activation = nn.Sequential(*(module for module in fused if isinstance(module, nn.Module)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        normalised = self._by_batch(x) if self.training else self._by_running(x)
        result: Tensor = self.activation(normalised)
        return result

    def _by_running(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def _by_batch(self, x: Tensor) -> Tensor:
        reduced = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = full_precision(x)
        num_pixels = x.numel() // x.shape[1]
        # A small batch may leave this worker without an image: sums of nothing are zero, and means are NaN.
        divisor = max(1, num_pixels)
        local_mean = wide.sum(reduced) / divisor
        local_variance = (wide - local_mean.view(shape)).square().sum(reduced) / divisor
        local_count = torch.full_like(local_mean, num_pixels)
        # Variances of shares combine without the cancellation of E[x^2] - E[x]^2.
        means, variances, counts = gather(torch.stack([local_mean, local_variance, local_count])[None]).unbind(1)
        count = counts.detach().sum(0)
        weight = counts.detach() / count
        mean = (weight * means).sum(0)
        variance = (weight * (variances + (means - mean).square())).sum(0)
        self._track(mean.detach(), (variance * (count / (count - 1.0))).detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        normalised: Tensor = (wide - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        self.num_batches_tracked += 1
        weight = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(unbiased_variance, weight)


def build_model(
    config: ModelConfig,
    *,
    in_channels: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    autocast: bool = False,
    slices: Sequence[int] | None = None,
) -> EmbeddingModel:
    """The model of a configuration, on the CPU; weights come from torch's global generator unless pretrained.

    `mean` and `std` (C_in,) normalise images in [0, 1]; pretrained backbones bring their own. Raises ConfigError where
    weights cannot be had or the backbone cannot take images of this size.
    """
    backbone = _create_backbone(config, in_channels, image_size)
    if config.weights == "pretrained":
        mean, std = _pretrained_statistics(backbone, in_channels)
    model = EmbeddingModel(
        backbone,
        num_features=_num_features(backbone, config, in_channels, image_size),
        embedding_dim=config.embedding_dim,
        mean=mean,
        std=std,
        freeze_batch_norm=config.batch_norm == "frozen",
        autocast=autocast,
        slices=slices,
    )
    if config.weights not in ("none", "pretrained"):
        _load_weights(model, Path(config.weights))
    if world_size() > 1 and config.batch_norm == "synchronised":
        _synchronise(model.backbone)
    return model


def _create_backbone(config: ModelConfig, in_channels: int, image_size: int) -> nn.Module:
    pretrained = config.weights == "pretrained"
    options: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0, "pretrained": pretrained}
    default = timm.get_pretrained_cfg(config.backbone)
    if default is not None and default.fixed_input_size:
        options["img_size"] = image_size
    try:
        backbone: nn.Module = timm.create_model(config.backbone, **options)
    except Exception as error:  # timm, the hub client and the network raise whatever they like
        name = config.backbone
        what = f"pretrained weights of {name} cannot be had" if pretrained else f"timm refuses {name} at {image_size}"
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"model.backbone: {what}: {type(error).__name__}: {reason}") from error
    _switch_off_randomness(backbone)
    return backbone


def _switch_off_randomness(backbone: nn.Module) -> None:
    """No dropout, no stochastic depth: their draws would make another model of every number of workers and chunks."""
    for layer in backbone.modules():
        if isinstance(layer, _DropoutNd):
            layer.p = 0.0
        if isinstance(layer, DropPath | DropBlock2d):
            layer.drop_prob = 0.0


def has_batch_norm(backbone: str) -> bool:
    """Whether an architecture has a BatchNorm."""
    module: nn.Module = timm.create_model(backbone, pretrained=False, num_classes=0)
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def _pretrained_statistics(backbone: nn.Module, in_channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation the weights were trained with; grey images take the average of the colours."""
    settings = resolve_model_data_config(backbone)
    mean, std = list(settings["mean"]), list(settings["std"])
    if in_channels == len(mean):
        return mean, std
    return [sum(mean) / len(mean)] * in_channels, [sum(std) / len(std)] * in_channels


@torch.no_grad()
def _num_features(backbone: nn.Module, config: ModelConfig, in_channels: int, image_size: int) -> int:
    """F, from one pass of zeros: timm's own attribute does not count every kind of head."""
    backbone.eval()
    try:
        features = backbone(torch.zeros(_PROBE_IMAGES, in_channels, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model.backbone: {config.backbone} cannot take images of {image_size} x {image_size}: {reason}"
        ) from error
    finally:
        backbone.train()
    if features.ndim != 2:
        raise ConfigError(f"model.backbone: {config.backbone} gives features of shape {tuple(features.shape[1:])}")
    return int(features.shape[1])


def _load_weights(model: EmbeddingModel, folder: Path) -> None:
    """Weights of the model, not of the loss, out of a raydml checkpoint folder."""
    path = folder / "model.safetensors"
    if not path.exists():
        raise ConfigError(f"model.weights: no checkpoint folder with model.safetensors at {folder}")
    tensors = {key.removeprefix("model."): value for key, value in load_file(path).items() if key.startswith("model.")}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"model.weights: {path} does not fit the model: {reason}") from None


def _synchronise(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, SynchronisedBatchNorm(child))
        else:
            _synchronise(child)

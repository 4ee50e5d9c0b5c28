"""Defects of torch that would make a training silently wrong: each is met here; a test says when it is gone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydml.config import ConfigError
from raydml.models import EmbeddingModel


def require_right_bfloat16(model: EmbeddingModel, *, in_channels: int, image_size: int, device: torch.device) -> None:
    """Raises ConfigError where torch 2.15 leaves parts of a bfloat16 gradient uninitialised.

    On the CPU it does so for the weights of a convolution with stride whose input is a single pixel.
    """
    if device.type != "cpu":
        return
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        if max(module.stride) > 1 and inputs[0].shape[2:] == (1, 1):
            found.append(names[module])

    hooks = [module.register_forward_hook(note) for module in names if isinstance(module, nn.Conv2d)]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, in_channels, image_size, image_size, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if found:
        raise ConfigError(
            f"training.precision: bfloat16 on the CPU has wrong gradients in {', '.join(found)}, a convolution with "
            f"stride over a single pixel (a defect of torch); take images larger than {image_size}, float32 or a GPU"
        )

"""BatchNorm over the global batch: on one worker it is torch's own. Several workers: the tests of distributed runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from raydml.models import SynchronisedBatchNorm, _synchronise

LAYERS: dict[str, Callable[[], nn.BatchNorm2d]] = {
    "plain": partial(nn.BatchNorm2d, 6),
    "with an activation fused": partial(BatchNormAct2d, 6),
    "another momentum": partial(nn.BatchNorm2d, 6, momentum=0.3, eps=1e-3),
    "averaging all batches": partial(nn.BatchNorm2d, 6, momentum=None),
}


def pair(kind: str, device: torch.device) -> tuple[nn.BatchNorm2d, SynchronisedBatchNorm]:
    """torch's layer with random parameters, and ours in the place of its twin."""
    torch.manual_seed(0)
    theirs, twin = (LAYERS[kind]().double().to(device) for _ in range(2))
    nn.init.uniform_(theirs.weight)
    nn.init.uniform_(theirs.bias)
    twin.load_state_dict(theirs.state_dict())
    return theirs, SynchronisedBatchNorm(twin)


def batches(device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    # A mean far from zero shows a variance computed by cancellation.
    return [
        (100 + torch.randn(4, 6, 3, 5, generator=generator, dtype=torch.float64)).to(device).requires_grad_()
        for _ in range(3)
    ]


@pytest.mark.parametrize("kind", LAYERS)
def test_training_and_evaluation_equal_torch(kind: str, device: torch.device) -> None:
    theirs, ours = pair(kind, device)
    for x in batches(device):
        results = []
        for layer in (theirs, ours):
            layer.zero_grad()
            output = layer(x)
            (gradient,) = torch.autograd.grad(output.square().sum() + output[0].sum(), x, retain_graph=True)
            output.pow(3).sum().backward()
            results.append((output, gradient, *(p.grad for p in layer.parameters())))
        torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)
    x = batches(device)[0]
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_byobnet", "test_efficientnet"])
def test_a_backbone_computes_the_same_with_every_layer_replaced(backbone: str, device: torch.device) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(backbone, in_chans=1, num_classes=0).double().to(device)
    ours = timm.create_model(backbone, in_chans=1, num_classes=0).double().to(device)
    ours.load_state_dict(theirs.state_dict())
    _synchronise(ours)
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in ours.modules())
    x = torch.rand(4, 1, 32, 32, dtype=torch.float64, device=device)
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))

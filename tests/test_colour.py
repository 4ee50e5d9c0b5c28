"""Colours of a batch: operation by operation what torchvision makes of each image, and no word with the host."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from raydml.data.colour import jitter
from tests.operations import Operations

F = v2.functional
NOTHING = (1.0, 1.0, 1.0, 0.0)
# Which of the four, what torchvision calls it, and amounts from none to the largest, beyond what a draw has.
OPERATIONS = (
    (0, F.adjust_brightness, (0.0, 0.3, 0.999, 1.0, 1.7, 2.0)),
    (1, F.adjust_contrast, (0.0, 0.3, 0.999, 1.0, 1.7, 2.0)),
    (2, F.adjust_saturation, (0.0, 0.3, 0.999, 1.0, 1.7, 2.0)),
    (3, F.adjust_hue, (-0.5, -0.31, -0.01, 0.0, 0.2, 0.5)),
)


def images(count: int, channels: int = 3) -> Tensor:
    """Noise, with the corners of the colour cube, greys and ties of channels among it; float32 in [0, 1]."""
    noise = torch.randint(0, 256, (count, channels, 12, 10), generator=torch.Generator().manual_seed(0)) / 255
    if channels == 3:
        corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3).T
        noise[:, :, 0, :] = corners[:, :10]
        noise[:, :, 1, :] = corners[:, 10:20]
        noise[:, :, 2, :7] = corners[:, 20:]
    return noise


def each(count: int, place: int, amounts: tuple[float, ...]) -> Tensor:
    """Row by row another amount of one operation, and none of the others."""
    colours = torch.tensor([NOTHING]).repeat(count, 1)
    colours[:, place] = torch.tensor(amounts)
    return colours


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("place", range(4))
def test_each_operation_is_that_of_torchvision(place: int, channels: int, device: torch.device) -> None:
    _, reference, amounts = OPERATIONS[place]
    before = images(len(amounts), channels)
    found = jitter(before.to(device), each(len(amounts), place, amounts).to(device)).cpu()
    expected = torch.stack([reference(image, amount) for image, amount in zip(before, amounts, strict=True)])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_the_order_is_brightness_contrast_saturation_hue(device: torch.device) -> None:
    before = images(6)
    colours = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([2.0, 2.0, 2.0, 0.9])
    colours[:, 3] -= 0.45
    expected = []
    for image, amounts in zip(before, colours.tolist(), strict=True):
        for (_, reference, _), amount in zip(OPERATIONS, amounts, strict=True):
            image = reference(image, amount)
        expected.append(image)
    found = jitter(before.to(device), colours.to(device)).cpu()
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)


def test_grey_images_have_neither_saturation_nor_hue(device: torch.device) -> None:
    grey = images(2, channels=1).to(device)
    coloured = torch.tensor([[0.8, 1.3, 0.2, 0.4], [0.8, 1.3, 1.9, -0.4]], device=device)
    plain = torch.tensor([[0.8, 1.3, 1.0, 0.0]] * 2, device=device)
    assert torch.equal(jitter(grey, coloured), jitter(grey, plain))
    assert not torch.equal(jitter(grey, plain), grey)
    assert jitter(grey, plain).shape == grey.shape


def test_an_image_that_stays_is_the_image(device: torch.device) -> None:
    before = images(3).to(device)
    after = jitter(before, torch.tensor([NOTHING] * 3, device=device))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_values_stay_in_range(device: torch.device) -> None:
    extreme = torch.tensor([[2.0, 2.0, 2.0, 0.5], [0.0, 0.0, 0.0, -0.5], [2.0, 0.0, 2.0, 0.3]], device=device)
    after = jitter(images(3).to(device), extreme)
    assert torch.isfinite(after).all()
    assert after.min() >= 0.0
    assert after.max() <= 1.0


def test_the_whole_batch_is_done_at_once(device: torch.device) -> None:
    """As many operations for 2 images as for 40, and none that brings a number to the host or from it."""
    counts = []
    for count in (2, 40):
        before, colours = images(count).to(device), torch.tensor([NOTHING] * count, device=device)
        with Operations() as recorded:
            jitter(before, colours)
        counts.append(len(recorded.names))
        assert not {"_local_scalar_dense", "_to_copy", "copy_", "nonzero", "lift_fresh"} & set(recorded.names)
    assert counts[0] == counts[1]

"""What Spherical Embedding Expansion costs: goals S1 and below of specs/performance.md.

    python -m tests.benchmarks.see

One thread, process CPU time, both sides in turns, medians. 72 of 180 embeddings are expanded, as at the end of the
authors' schedule. Three questions: the construction beside a loop over samples as the release is described (one random
vector after the other, orthogonalised by hand); the whole loss beside Proxy-Anchor alone; and all that is added to a
step beside a ResNet-50 step of 180 images at 224 pixels, extrapolated from 8 images. Asserts nothing about time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from raydml.config import ProxyAnchorConfig, SeeConfig
from raydml.expansion import SphericalExpansion
from raydml.losses import LossOutput, build_loss
from raydml.see import expand, simplex
from tests.benchmarks.measuring import cpu_seconds, in_turns

_BATCH, _SELECTED, _ROUNDS = 180, 72, 7
_STEP_IMAGES = 8


def unit_rows(*shape: int) -> Tensor:
    """Random unit rows."""
    return nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def expand_by_loop(embeddings: Tensor, proxies: Tensor, num_expansions: int) -> Tensor:
    """Sample by sample, one random direction after the other made orthogonal to all before it."""
    centres = simplex(num_expansions, dtype=torch.float32)
    found = []
    for z, p in zip(embeddings, proxies, strict=True):
        cosine = z @ p
        radial = z - cosine * p
        basis = [p, radial / radial.norm()]
        for _ in range(num_expansions - 1):
            drawn = torch.randn(len(z))
            for axis in basis:
                drawn = drawn - (drawn @ axis) * axis
            basis.append(drawn / drawn.norm())
        frame = torch.stack(basis[1:], dim=1)
        found.append(torch.stack([cosine * p + radial.norm() * (frame @ centre) for centre in centres[1:]]))
    return torch.stack(found)


def construction(dim: int, num_expansions: int) -> tuple[float, float, float]:
    """Milliseconds of the loop, of a frame for each embedding, and of one shared frame."""
    z, p = unit_rows(_SELECTED, dim), nn.functional.normalize(unit_rows(_SELECTED, dim) + unit_rows(1, dim), dim=1)
    generator = torch.Generator().manual_seed(0)
    at_once = partial(expand, z, p, num_expansions, generator=generator)
    ways = [
        partial(expand_by_loop, z, p, num_expansions),
        partial(at_once, frames="independent"),
        partial(at_once, frames="shared"),
    ]
    loop, independent, shared = (1e3 * seconds for seconds in in_turns(ways, _ROUNDS))
    return loop, independent, shared


def whole_loss(dim: int, num_classes: int, num_expansions: int) -> tuple[float, float]:
    """Milliseconds of Proxy-Anchor alone, and with its expansions, forward and backward."""
    config = ProxyAnchorConfig(kind="proxy_anchor")
    loss = build_loss(config, num_classes=num_classes, embedding_dim=dim)
    settings = SeeConfig(num_expansions=num_expansions, schedule="constant", final_fraction=_SELECTED / _BATCH)
    see = SphericalExpansion(settings, config, num_epochs=1, num_classes=num_classes, embedding_dim=dim)
    embeddings, labels = unit_rows(_BATCH, dim), torch.arange(_BATCH) // 2 % num_classes

    def step(run: Callable[[Tensor], Tensor]) -> None:
        leaf = embeddings.clone().requires_grad_()
        torch.autograd.grad(run(leaf), [leaf, *loss.parameters()])

    def expanded(leaf: Tensor) -> Tensor:
        generator, frames = torch.Generator(), partial(torch.Generator().manual_seed, 0)
        output: LossOutput = see(loss, leaf, labels, epoch=0, generator=generator, frames=frames)
        return output.value

    alone, together = in_turns([partial(step, lambda leaf: loss(leaf, labels).value), partial(step, expanded)], _ROUNDS)
    return 1e3 * alone, 1e3 * together


def network_step_ms() -> float:
    """CPU milliseconds of a ResNet-50 step of the whole batch, from that of a few images."""
    network = timm.create_model("resnet50", num_classes=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images = torch.randn(_STEP_IMAGES, 3, 224, 224)

    def step() -> None:
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()

    step()
    return 1e3 * cpu_seconds(step, 2) * _BATCH / _STEP_IMAGES


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(width=140)
    table = Table(
        title=f"Expansion of {_SELECTED} of {_BATCH} embeddings, CPU ms, one thread (goal: loop / shared >= 10)"
    )
    for heading in ("D", "E", "loop", "independent frames", "shared frame", "loop / shared"):
        table.add_column(heading, justify="right")
    for dim in (128, 512):
        for num_expansions in (8, 16):
            loop, independent, shared = construction(dim, num_expansions)
            times = (f"{loop:.1f}", f"{independent:.2f}", f"{shared:.2f}", f"{loop / shared:.0f}")
            table.add_row(str(dim), str(num_expansions), *times)
    console.print(table)
    network = network_step_ms()
    table = Table(title=f"Proxy-Anchor with expansions, forward + backward; a ResNet-50 step takes {network:.0f} ms")
    for heading in ("D", "classes", "E", "alone", "with SEE", "ratio", "goal", "added / network"):
        table.add_column(heading, justify="right")
    for dim in (128, 512):
        for num_classes, num_expansions in ((100, 8), (100, 16), (11_318, 8)):
            alone, together = whole_loss(dim, num_classes, num_expansions)
            goal = "" if num_expansions == 16 else "<= 4" if num_classes == 100 else "<= 3.2"
            added = f"{100 * (together - alone) / network:.2f} %"
            numbers = (f"{alone:.2f}", f"{together:.2f}", f"{together / alone:.2f}", goal, added)
            table.add_row(str(dim), str(num_classes), str(num_expansions), *numbers)
    console.print(table)


if __name__ == "__main__":
    main()

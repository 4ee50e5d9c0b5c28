"""Cost of the losses against pytorch-metric-learning: goal L2 of specs/performance.md, by the rules of its 1.1.

    python -m tests.benchmarks.losses

One thread; process CPU time, not wall time; both sides in one process and in turns, after a warm-up; medians. Before a
time counts, both sides must agree: value and gradient to 1e-5, where the loss is deterministic. Asserts nothing about
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from pytorch_metric_learning.losses import ContrastiveLoss, MarginLoss, ProxyAnchorLoss, TripletMarginLoss
from pytorch_metric_learning.miners import DistanceWeightedMiner
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from raydml.config import ContrastiveConfig, LossConfig, MarginConfig, ProxyAnchorConfig, TripletConfig
from raydml.losses import build_loss

_DIM = 128
_SAMPLES_PER_CLASS = 4
_ROUNDS = 7
_TOLERANCE = 1e-5
_SHORTEST_S = 0.05
"""CPU time that a round takes at least: shorter ones measure the clock."""


class Contender(NamedTuple):
    """One side."""

    module: nn.Module
    """Holds the learned parameters."""

    call: Callable[[Tensor, Tensor], Tensor]
    """Embeddings and labels to the value."""


@dataclass(frozen=True)
class Case:
    """One loss on both sides."""

    name: str
    config: LossConfig
    batch_size: int
    goal: float | None = None
    """Their time over ours; None where the specification names no goal."""
    num_classes: int = 1000
    random: bool = False
    """Whether the two sides draw different pairs, so that their values cannot agree."""


@dataclass(frozen=True)
class Row:
    """A line of the table: medians of CPU time in milliseconds."""

    case: Case
    theirs_ms: float
    ours_ms: float

    @property
    def ratio(self) -> float:
        return self.theirs_ms / self.ours_ms


_MARGIN = MarginConfig(kind="margin")
_TRIPLET = TripletConfig(kind="triplet")
CASES = (
    Case("margin, distance-weighted", _MARGIN, 128, goal=5.0, random=True),
    Case("margin, distance-weighted", _MARGIN, 512, goal=15.0, random=True),
    Case("triplet, all", _TRIPLET, 128),
    Case("triplet, all", _TRIPLET, 512, goal=10.0),
    Case("contrastive", ContrastiveConfig(kind="contrastive"), 512),
    Case("proxy-anchor, 11,318 classes", ProxyAnchorConfig(kind="proxy_anchor"), 128, goal=1.5, num_classes=11_318),
)


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Class centres N(0, 1), within-class deviation 1.3: (size, D) unit rows and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(size) // _SAMPLES_PER_CLASS
    centres = torch.randn(int(labels.max()) + 1, _DIM, generator=generator)
    rows = centres[labels] + 1.3 * torch.randn(size, _DIM, generator=generator)
    return nn.functional.normalize(rows, dim=1), labels


def ours(case: Case) -> Contender:
    """This package's side."""
    loss = build_loss(case.config, num_classes=case.num_classes, embedding_dim=_DIM)
    generator = torch.Generator().manual_seed(0)
    return Contender(loss, lambda embeddings, labels: loss(embeddings, labels, generator=generator).value)


def theirs(case: Case) -> Contender:
    """The side of pytorch-metric-learning."""
    match case.config:
        case ContrastiveConfig(positive_margin=positive, negative_margin=negative):
            loss = ContrastiveLoss(pos_margin=positive, neg_margin=negative)
        case TripletConfig(margin=margin):
            loss = TripletMarginLoss(margin=margin)
        case ProxyAnchorConfig(margin=margin, scale=scale):
            loss = ProxyAnchorLoss(case.num_classes, _DIM, margin=margin, alpha=scale)
        case MarginConfig(margin=margin, beta=beta, cutoff=cutoff, nonzero_cutoff=nonzero_cutoff):
            loss = MarginLoss(margin=margin, beta=beta)
            miner = DistanceWeightedMiner(cutoff=cutoff, nonzero_loss_cutoff=nonzero_cutoff)
            return Contender(loss, lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels)))
        case _:
            raise ValueError(f"no counterpart of {case.config.kind}")
    return Contender(loss, loss)


def step(contender: Contender, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward: the value, and the gradients by embeddings and learned parameters."""
    leaves = [embeddings.detach().requires_grad_(), *(p for p in contender.module.parameters() if p.requires_grad)]
    value = contender.call(leaves[0], labels)
    return value.detach(), *torch.autograd.grad(value, leaves)


def require_agreement(case: Case, a: Contender, b: Contender) -> None:
    """Raises ValueError where two deterministic losses differ."""
    embeddings, labels = batch(case.batch_size)
    found, expected = step(a, embeddings, labels), step(b, embeddings, labels)
    for ours, theirs in zip(_tangential(found, embeddings), _tangential(expected, embeddings), strict=True):
        error = float((ours - theirs).norm() / theirs.norm())
        if not error <= _TOLERANCE:
            raise ValueError(f"{case.name}, B = {case.batch_size}: the two sides differ by {error:.1e}")


def _tangential(result: tuple[Tensor, ...], embeddings: Tensor) -> tuple[Tensor, ...]:
    """Their losses normalise once more, ours leave that to the model: radial parts of gradients have no meaning."""
    value, gradient, *others = result
    return value, gradient - (gradient * embeddings).sum(1, keepdim=True) * embeddings, *others


def cpu_seconds(action: Callable[[], object], repeats: int) -> float:
    """CPU time of one action of several."""
    start = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - start) / repeats


def in_turns(actions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median CPU time of each action; A B A B, so that a change of the machine's speed meets both."""
    repeats = [max(1, round(_SHORTEST_S / max(1e-6, cpu_seconds(action, 3)))) for action in actions]
    times = [[cpu_seconds(a, n) for a, n in zip(actions, repeats, strict=True)] for _ in range(rounds)]
    return [median(column) for column in zip(*times, strict=True)]


def measure(case: Case, *, rounds: int = _ROUNDS) -> Row:
    """One line of the table."""
    a, b = theirs(case), ours(case)
    if isinstance(case.config, ProxyAnchorConfig):
        a.module.load_state_dict(b.module.state_dict())
    if not case.random:
        require_agreement(case, b, a)
    embeddings, labels = batch(case.batch_size)
    their_s, our_s = in_turns([partial(step, contender, embeddings, labels) for contender in (a, b)], rounds)
    return Row(case, 1e3 * their_s, 1e3 * our_s)


def table(rows: Sequence[Row]) -> Table:
    """Rows as text."""
    shown = Table(title=f"Forward + backward, CPU ms, one thread, d = {_DIM}, {_SAMPLES_PER_CLASS} per class")
    for heading in ("loss", "B", "PML", "raydml", "PML / raydml", "goal"):
        shown.add_column(heading, justify="left" if heading == "loss" else "right")
    for row in rows:
        goal = "" if row.case.goal is None else f">= {row.case.goal:g}"
        times = f"{row.theirs_ms:.2f}", f"{row.ours_ms:.2f}", f"{row.ratio:.1f}"
        shown.add_row(row.case.name, str(row.case.batch_size), *times, goal)
    return shown


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    Console().print(table([measure(case) for case in CASES]))


if __name__ == "__main__":
    main()

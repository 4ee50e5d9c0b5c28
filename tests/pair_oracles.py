"""Slow and obvious losses over all pairs: loops in float64, written from the formulas of the papers.

An anchor is compared with the batch itself or with a memory, and both are the same loop: `Compared` says what the rows
are compared with. float64 holds exp(700), so nothing is rearranged against overflow: exponents stay below 300 here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from raydml.config import (
    AngularConfig,
    CircleConfig,
    ContrastiveConfig,
    DiscriminateConfig,
    HistogramConfig,
    LiftedStructureConfig,
    MultiSimilarityConfig,
    NPairConfig,
    NTXentConfig,
    PairLoss,
    PairLossConfig,
    SupConConfig,
    TripletConfig,
)
from tests.loss_oracles import Judged, discriminate_term, mean, mean_of_nonzero

Pair = tuple[int, int]
BATCHES = {
    "balanced": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "unsorted, with singletons": [3, 0, 1, 0, 2, 0, 1, 4],
    "one pair": [0, 0, 1],
    "no positives": [0, 1, 2],
    "one class": [0, 0, 0, 0],
    "one row": [0],
}
_ADAPTER: TypeAdapter[PairLossConfig] = TypeAdapter(Annotated[PairLossConfig, Field(discriminator="kind")])


class Compared(NamedTuple):
    """Anchors and what they are compared with; an anchor's own copy among it is no pair, nor is a negative label."""

    rows: Tensor
    labels: Sequence[int]
    others: Tensor
    other_labels: Sequence[int]
    own: Sequence[int] | Sequence[Sequence[int]]
    """Where each anchor's own copy lies, or its copies."""

    def positives(self, i: int) -> list[int]:
        own = self.own[i]
        copies = [own] if isinstance(own, int) else own
        return [j for j, y in enumerate(self.other_labels) if j not in copies and y == self.labels[i]]

    def negatives(self, i: int) -> list[int]:
        return [j for j, y in enumerate(self.other_labels) if y >= 0 and y != self.labels[i]]

    def s(self, i: int, j: int) -> Tensor:
        """Cosine of anchor i and reference j."""
        return (self.rows[i] * self.others[j]).sum()

    def d(self, i: int, j: int) -> Tensor:
        """Their distance; constant zero where they coincide."""
        difference = self.rows[i] - self.others[j]
        return difference.square().sum().sqrt() if bool(difference.detach().any()) else difference.detach().sum()

    def pairs(self) -> list[Pair]:
        return [(i, p) for i in range(len(self.labels)) for p in self.positives(i)]

    def anchors(self) -> list[int]:
        """Those with a positive and a negative."""
        return [i for i in range(len(self.labels)) if self.positives(i) and self.negatives(i)]


def within(rows: Tensor, labels: Sequence[int]) -> Compared:
    """A batch compared with itself."""
    return Compared(rows, labels, rows, labels, range(len(labels)))


def configured(fields: Mapping[str, object]) -> PairLossConfig:
    """A loss on pairs from plain data."""
    return _ADAPTER.validate_python(fields)


def plane(degrees: Sequence[float], device: torch.device) -> Tensor:
    """Unit rows in the plane: their cosines are known by heart."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).to(device)


def total(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum() if terms else torch.zeros((), dtype=torch.float64)


def n_pair(c: Compared, config: NPairConfig) -> Tensor:
    """Sohn 2016: log(1 + sum over the other classes of exp(f n - f f+)); a class of several images is their mean."""
    terms = []
    for i, p in c.pairs():
        classes = sorted({c.other_labels[n] for n in c.negatives(i)})
        images = [[n for n in c.negatives(i) if c.other_labels[n] == y] for y in classes]
        each = [total([(config.scale * (c.s(i, n) - c.s(i, p))).exp() for n in k]) / len(k) for k in images]
        if each:
            terms.append(total(each).log1p())
    return mean(terms, c.rows)


def nt_xent(c: Compared, config: NTXentConfig) -> Tensor:
    """Chen et al. 2020: softmax cross-entropy of a positive among itself and the negatives."""
    t, terms = config.temperature, []
    for i, p in c.pairs():
        if c.negatives(i):
            own = (c.s(i, p) / t).exp()
            terms.append(-(own / (own + total([(c.s(i, n) / t).exp() for n in c.negatives(i)]))).log())
    return mean(terms, c.rows)


def supcon(c: Compared, config: SupConConfig) -> Tensor:
    """Khosla et al. 2020, L_out: the logarithm outside of the mean over the positives is the other form, L_in."""
    t, terms = config.temperature, []
    for i in range(len(c.labels)):
        positives = c.positives(i)
        everything = total([(c.s(i, a) / t).exp() for a in positives + c.negatives(i)])
        if positives:
            terms.append(-total([((c.s(i, p) / t).exp() / everything).log() for p in positives]) / len(positives))
    return mean(terms, c.rows)


def multi_similarity(c: Compared, config: MultiSimilarityConfig) -> Tensor:
    """Wang et al. 2019, divided by all images of the batch; an anchor without pairs of a kind has nothing mined."""
    terms = []
    for i in range(len(c.labels)):
        positives, negatives = c.positives(i), c.negatives(i)
        if config.epsilon is not None:
            easiest_positive = min([float(c.s(i, p).detach()) for p in positives], default=math.inf)
            hardest_negative = max([float(c.s(i, n).detach()) for n in negatives], default=-math.inf)
            positives = [p for p in positives if float(c.s(i, p).detach()) < hardest_negative + config.epsilon]
            negatives = [n for n in negatives if float(c.s(i, n).detach()) > easiest_positive - config.epsilon]
        pull = total([(-config.alpha * (c.s(i, p) - config.base)).exp() for p in positives])
        push = total([(config.beta * (c.s(i, n) - config.base)).exp() for n in negatives])
        terms.append(pull.log1p() / config.alpha + push.log1p() / config.beta)
    return mean(terms, c.rows) + 0.0 * c.rows.sum()


def circle(c: Compared, config: CircleConfig) -> Tensor:
    """Sun et al. 2020 with O_p = 1 + m, O_n = -m, Delta_p = 1 - m, Delta_n = m; every pair of pairs is a term."""
    m, g, terms = config.margin, config.scale, []
    for i in c.anchors():
        each = []
        for p in c.positives(i):
            for n in c.negatives(i):
                weight_p = max(1.0 + m - float(c.s(i, p).detach()), 0.0)
                weight_n = max(float(c.s(i, n).detach()) + m, 0.0)
                each.append((g * (weight_n * (c.s(i, n) - m) - weight_p * (c.s(i, p) - (1.0 - m)))).exp())
        terms.append(total(each).log1p())
    return mean(terms, c.rows)


def lifted_structure(c: Compared, config: LiftedStructureConfig) -> Tensor:
    """Hermans et al. 2017, or Song et al. 2016, where a reference's negatives are the anchors of other classes."""
    m, terms = config.margin, []
    if config.form == "generalised":
        for i in c.anchors():
            far = total([c.d(i, p).exp() for p in c.positives(i)]).log()
            terms.append((far + total([(m - c.d(i, n)).exp() for n in c.negatives(i)]).log()).relu())
        return mean(terms, c.rows)
    for i, p in c.pairs():
        near = [(m - c.d(i, k)).exp() for k in c.negatives(i)]
        near += [(m - c.d(k, p)).exp() for k, y in enumerate(c.labels) if y != c.other_labels[p]]
        if c.negatives(i):
            terms.append((total(near).log() + c.d(i, p)).relu() ** 2 / 2.0)
    return mean(terms, c.rows)


def angular(c: Compared, config: AngularConfig) -> Tensor:
    """Wang et al. 2017; pairs within the batch, negatives from what it is compared with."""
    t, terms = math.tan(math.radians(config.angle_deg)) ** 2, []
    for a, p in within(c.rows, c.labels).pairs():
        own = 2.0 * (1.0 + t) * (c.rows[a] * c.rows[p]).sum()
        each = [(4.0 * t * ((c.rows[a] + c.rows[p]) * c.others[n]).sum() - own).exp() for n in c.negatives(a)]
        if each:
            terms.append(total(each).log1p())
    return mean(terms, c.rows)


def histogram(c: Compared, config: HistogramConfig) -> Tensor:
    """Ustinova & Lempitsky 2016: every pair weighs on every node by a triangle as wide as two bins."""
    width, size = 2.0 / config.num_bins, config.num_bins + 1
    kinds = [c.pairs(), [(i, n) for i in range(len(c.labels)) for n in c.negatives(i)]]
    if not all(kinds):
        return 0.0 * c.rows.sum()
    positive, negative = (
        [total([(1.0 - (c.s(i, j) - (-1.0 + r * width)).abs() / width).relu() for i, j in kind]) for r in range(size)]
        for kind in kinds
    )
    reverse = total([negative[r] * total(positive[: r + 1]) for r in range(size)])
    return reverse / (len(kinds[0]) * len(kinds[1]))


def contrastive(c: Compared, config: ContrastiveConfig) -> Tensor:
    pull = [(c.d(i, p) - config.positive_margin).relu() for i, p in c.pairs()]
    push = [(config.negative_margin - c.d(i, n)).relu() for i in range(len(c.labels)) for n in c.negatives(i)]
    return mean_of_nonzero(pull, c.rows) + mean_of_nonzero(push, c.rows)


def triplet(c: Compared, config: TripletConfig) -> Tensor:
    """All triplets."""
    terms = [(c.d(i, p) - c.d(i, n) + config.margin).relu() for i, p in c.pairs() for n in c.negatives(i)]
    return mean_of_nonzero(terms, c.rows)


def discriminate(c: Compared, config: DiscriminateConfig) -> Tensor:
    """On cosines, for each anchor."""
    groups = [([c.s(i, p) for p in c.positives(i)], [c.s(i, n) for n in c.negatives(i)]) for i in c.anchors()]
    return mean([discriminate_term(p, n, config) for p, n in groups], c.rows)


_LOOPS: dict[type[PairLoss], Callable[..., Tensor]] = {
    AngularConfig: angular,
    CircleConfig: circle,
    ContrastiveConfig: contrastive,
    DiscriminateConfig: discriminate,
    HistogramConfig: histogram,
    LiftedStructureConfig: lifted_structure,
    MultiSimilarityConfig: multi_similarity,
    NPairConfig: n_pair,
    NTXentConfig: nt_xent,
    SupConConfig: supcon,
    TripletConfig: triplet,
}


def loop(c: Compared, config: PairLoss) -> Tensor:
    """The loss of a configuration, one term at a time."""
    return _LOOPS[type(config)](c, config)


def tangential(judged: Judged, rows: Tensor) -> Judged:
    """Without the part of the gradient along the rows, which a library that normalises once more does not have."""
    rows = rows.detach().cpu().double()
    gradient = judged.gradient - (judged.gradient * rows).sum(1, keepdim=True) * rows
    return judged._replace(gradient=gradient)


def second_opinion(loss: Callable[[Tensor], Tensor], rows: Tensor) -> Judged:
    """What another library says of these rows; the tangential part of its gradient."""
    leaf = rows.detach().clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return tangential(Judged(value.detach().cpu().double(), gradient.cpu().double()), rows)

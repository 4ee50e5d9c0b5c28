"""Slow and obvious losses for the tests: loops over pairs and triplets in float64, on the CPU, one term at a time.

Nothing is shared with the package but the notation, so a mistake would have to be made twice. Autograd goes through
the loops: they are oracles of the gradient too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from raydml.config import DiscriminateConfig

Rows = list[list[Tensor]]
"""A matrix as rows of scalars."""


class Judged(NamedTuple):
    """A loss, and its gradient by the embeddings and by the parameters of the loss; float64, on the CPU."""

    value: Tensor
    gradient: Tensor
    parameter_gradients: tuple[Tensor, ...] = ()


def unit_rows(num: int, dim: int, *, seed: int = 0, noise: float = 1.0, classes: Sequence[int] | None = None) -> Tensor:
    """(num, dim) float64 unit rows; around a centre for each class where `classes` are given."""
    generator = torch.Generator().manual_seed(seed)
    rows = noise * torch.randn(num, dim, generator=generator, dtype=torch.float64)
    if classes is not None:
        centres = torch.randn(max(classes) + 1, dim, generator=generator, dtype=torch.float64)
        rows = rows + centres[list(classes)]
    return nn.functional.normalize(rows, dim=1)


def judge(loop: Callable[..., Tensor], embeddings: Tensor, *parameters: Tensor) -> Judged:
    """What a loop says of the embeddings, and of the parameters that it takes after them."""
    leaves = [x.detach().cpu().double().requires_grad_() for x in (embeddings, *parameters)]
    value = loop(*leaves)
    gradient, *others = torch.autograd.grad(value, leaves)
    return Judged(value.detach(), gradient, tuple(others))


def run_loss(
    loss: nn.Module, embeddings: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
) -> Judged:
    """What a loss of the package says of them; parameters that are not learned have no gradient and are left out."""
    leaf = embeddings.detach().clone().requires_grad_()
    loss.zero_grad()
    value = loss(leaf, labels, generator=generator).value
    value.backward()
    assert leaf.grad is not None
    parameters = tuple(p.grad.cpu().double() for p in loss.parameters() if p.grad is not None)
    return Judged(value.detach().cpu().double(), leaf.grad.cpu().double(), parameters)


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected; where that is zero, the norm itself."""
    norm = float(expected.norm())
    return float((found - expected).norm()) / (norm or 1.0)


def assert_agree(found: Judged, expected: Judged, tolerance: float) -> None:
    """Value and all gradients agree to a relative tolerance."""
    assert relative(found.value, expected.value) <= tolerance, (found.value, expected.value)
    assert relative(found.gradient, expected.gradient) <= tolerance
    for ours, theirs in zip(found.parameter_gradients, expected.parameter_gradients, strict=True):
        assert relative(ours, theirs) <= tolerance


def distances(embeddings: Tensor) -> Rows:
    """Euclidean distances from differences of rows; constant zero where rows coincide."""
    zero = torch.zeros((), dtype=torch.float64)
    return [[zero if torch.equal(a, b) else (a - b).square().sum().sqrt() for b in embeddings] for a in embeddings]


def positives(labels: Sequence[int], i: int) -> list[int]:
    return [j for j in range(len(labels)) if j != i and labels[j] == labels[i]]


def negatives(labels: Sequence[int], i: int) -> list[int]:
    return [j for j in range(len(labels)) if labels[j] != labels[i]]


def mean(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    """Mean; zero with a graph where there is nothing to average."""
    return torch.stack(list(terms)).mean() if terms else like.sum() * 0.0


def mean_of_nonzero(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    return mean([t for t in terms if float(t.detach()) > 0], like)


def contrastive(embeddings: Tensor, labels: Sequence[int], *, positive_margin: float, negative_margin: float) -> Tensor:
    d, anchors = distances(embeddings), range(len(labels))
    pull = [(d[i][p] - positive_margin).relu() for i in anchors for p in positives(labels, i)]
    push = [(negative_margin - d[i][n]).relu() for i in anchors for n in negatives(labels, i)]
    return mean_of_nonzero(pull, embeddings) + mean_of_nonzero(push, embeddings)


def triplet(embeddings: Tensor, labels: Sequence[int], *, margin: float, mining: str) -> Tensor:
    d = distances(embeddings)
    known = [[float(v.detach()) for v in row] for row in d]
    terms = []
    for a in range(len(labels)):
        candidates = list(product(positives(labels, a), negatives(labels, a)))
        if mining == "hardest" and candidates:
            candidates = [max(candidates, key=lambda pair: known[a][pair[0]] - known[a][pair[1]])]
        if mining == "semi_hard":
            candidates = [(p, n) for p, n in candidates if known[a][p] < known[a][n]]
        terms += [(d[a][p] - d[a][n] + margin).relu() for p, n in candidates]
    return mean_of_nonzero(terms, embeddings)


def margin(
    embeddings: Tensor,
    triplets: Sequence[tuple[int, int, int]],
    *,
    alpha: float,
    beta: Callable[[int], Tensor],
) -> Tensor:
    """`beta` gives the boundary of an anchor."""
    d = distances(embeddings)
    terms = [(d[a][p] - beta(a) + alpha).relu() for a, p, _ in triplets]
    terms += [(beta(a) - d[a][n] + alpha).relu() for a, _, n in triplets]
    return mean_of_nonzero(terms, embeddings)


def proxy_anchor(embeddings: Tensor, labels: Sequence[int], proxies: Tensor, *, margin: float, scale: float) -> Tensor:
    """float64 holds exp(700), so nothing is rearranged against overflow: scale * (1 + margin) is below 200 here."""
    pull, push = [], []
    for c, proxy in enumerate(proxies):
        s = [(x * proxy).sum() / proxy.norm() for x in embeddings]
        own = [(-scale * (v - margin)).exp() for v, y in zip(s, labels, strict=True) if y == c]
        others = [(scale * (v + margin)).exp() for v, y in zip(s, labels, strict=True) if y != c]
        if own:
            pull.append((1.0 + torch.stack(own).sum()).log())
        push.append((1.0 + torch.stack(others).sum()).log() if others else embeddings.sum() * 0.0)
    return mean(pull, embeddings) + mean(push, embeddings)


def similarities(embeddings: Tensor, kind: str) -> Rows:
    if kind == "cosine":
        return [[(a * b).sum() for b in embeddings] for a in embeddings]
    d = distances(embeddings)
    return [[-v if kind == "euclidean" else -(v * v) for v in row] for row in d]


def discriminate(embeddings: Tensor, labels: Sequence[int], config: DiscriminateConfig) -> Tensor:
    """Every (positive, negative) of an anchor is one term of the sum; see `discriminate_term` for the two scales."""
    s = similarities(embeddings, config.similarity)
    anchors = range(len(labels))
    groups = [([s[i][p] for p in positives(labels, i)], [s[i][n] for n in negatives(labels, i)]) for i in anchors]
    if config.scope == "batch":
        groups = [([v for group in groups for v in group[0]], [v for group in groups for v in group[1]])]
    return mean([discriminate_term(p, n, config) for p, n in groups if p and n], embeddings)


def discriminate_term(pulled: Sequence[Tensor], pushed: Sequence[Tensor], config: DiscriminateConfig) -> Tensor:
    """One anchor. With scales of their own, g log-sum-exp / g_n and g log-sum-exp / g_p take the place of the sums."""
    g, m = config.scale, config.margin
    if config.positive_scale is None and config.negative_scale is None:
        total = torch.stack([(g * (n - p + m)).exp() for p, n in product(pulled, pushed)]).sum()
    else:
        gp, gn = config.positive_scale or g, config.negative_scale or g
        far = torch.stack([(-gp * p).exp() for p in pulled]).sum() ** (g / gp)
        near = torch.stack([(gn * n).exp() for n in pushed]).sum() ** (g / gn)
        total = far * near * math.exp(g * m)
    return ((1.0 + total).log() if config.surrogate == "softplus" else total.log().relu()) / g

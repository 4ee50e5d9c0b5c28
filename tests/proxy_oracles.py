"""Slow and obvious losses on class proxies: loops in float64, one term at a time, from the papers' formulas.

As in `tests.loss_oracles`: nothing is shared with the package, and autograd goes through the loops. Angles are angles
here (acos and cos), squared distances are sums of squares, and a softmax is a quotient of exponentials, which float64
holds up to exp(700).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.loss_oracles import mean

LAYOUTS: dict[str, list[int]] = {
    "balanced": [0, 0, 1, 1, 2, 2],
    "unequal, unsorted": [4, 0, 0, 0, 4, 2],
    "singletons": [5, 4, 3, 2, 1, 0],
    "one class": [3, 3, 3, 3],
    "one row": [1],
}
"""Labels of classes 0 ... 5."""


def cosines(x: Tensor, proxies: Tensor) -> list[Tensor]:
    """Of a unit row with every proxy, whatever the proxies' lengths."""
    return [(x * proxy).sum() / proxy.square().sum().sqrt() for proxy in proxies]


def proxy_nca(embeddings: Tensor, labels: Sequence[int], proxies: Tensor, *, scale: float, form: str) -> Tensor:
    """-log of exp(-g d(x, p_y)) over the sum of exp(-g d(x, p_z)): over z other than y, or over all z."""
    terms = []
    for x, y in zip(embeddings, labels, strict=True):
        d = [(x - proxy / proxy.norm()).square().sum() for proxy in proxies]
        below = [(-scale * v).exp() for z, v in enumerate(d) if z != y or form == "plus_plus"]
        terms.append(-((-scale * d[y]).exp() / torch.stack(below).sum()).log())
    return mean(terms, embeddings)


def soft_triple(
    embeddings: Tensor,
    labels: Sequence[int],
    centres: Tensor,
    *,
    scale: float,
    assignment_scale: float,
    margin: float,
    weight: float,
) -> Tensor:
    """The paper's eq. 7 to 9; the regulariser of the release sums over s < t and divides by C K (K - 1)."""
    terms = []
    for x, y in zip(embeddings, labels, strict=True):
        relaxed = [relaxed_similarity(x, own, assignment_scale) for own in centres]
        own = (scale * (relaxed[y] - margin)).exp()
        others = [(scale * v).exp() for c, v in enumerate(relaxed) if c != y]
        terms.append(-(own / torch.stack([own, *others]).sum()).log())
    num_classes, num_centres, _ = centres.shape
    spread = [
        ((a / a.norm()) - (b / b.norm())).square().sum().sqrt()
        for own in centres
        for s, a in enumerate(own)
        for b in own[s + 1 :]
    ]
    if not spread:
        return mean(terms, embeddings)
    per_centre = torch.stack(spread).sum() / (num_classes * num_centres * (num_centres - 1))
    return mean(terms, embeddings) + weight * per_centre


def relaxed_similarity(x: Tensor, centres: Tensor, assignment_scale: float) -> Tensor:
    """Sum over k of q_k cos_k, with q_k = exp(cos_k / gamma) over their sum."""
    s = cosines(x, centres)
    total = torch.stack([(assignment_scale * v).exp() for v in s]).sum()
    return torch.stack([(assignment_scale * v).exp() / total * v for v in s]).sum()


def margin_softmax(
    embeddings: Tensor, labels: Sequence[int], proxies: Tensor, *, scale: float, target: Callable[[Tensor], Tensor]
) -> Tensor:
    """-log of exp(s t(cos_y)) over itself and the exp(s cos_j) of the others."""
    terms = []
    for x, y in zip(embeddings, labels, strict=True):
        c = cosines(x, proxies)
        own = (scale * target(c[y])).exp()
        others = [(scale * v).exp() for j, v in enumerate(c) if j != y]
        terms.append(-(own / torch.stack([own, *others]).sum()).log())
    return mean(terms, embeddings)


def arcface_target(cosine: Tensor, margin_deg: float) -> Tensor:
    """Through the angle; beyond 180 degrees - m as the authors' release goes on: cos(theta) - m sin(pi - m)."""
    theta, m = cosine.acos(), math.radians(margin_deg)
    if float(theta.detach()) <= math.pi - m:
        return (theta + m).cos()
    return theta.cos() - m * math.sin(math.pi - m)


def curriculum_after(earlier: float, own_cosines: Sequence[float], momentum: float) -> float:
    """t of the step: it moves before it is used."""
    return momentum * earlier + (1.0 - momentum) * sum(own_cosines) / len(own_cosines)


def curricularface(
    embeddings: Tensor, labels: Sequence[int], proxies: Tensor, *, scale: float, margin_deg: float, curriculum: float
) -> Tensor:
    """A negative nearer in angle than theta_y + m has cos_j (t + cos_j); `curriculum` is the t of this step."""
    terms, m = [], math.radians(margin_deg)
    for x, y in zip(embeddings, labels, strict=True):
        c = cosines(x, proxies)
        limit = math.cos(math.acos(float(c[y].detach())) + m)
        changed = [v * (curriculum + v) if float(v.detach()) > limit else v for v in c]
        own = (scale * arcface_target(c[y], margin_deg)).exp()
        others = [(scale * v).exp() for j, v in enumerate(changed) if j != y]
        terms.append(-(own / torch.stack([own, *others]).sum()).log())
    return mean(terms, embeddings)


def tangential(gradient: Tensor, rows: Tensor) -> Tensor:
    """Without its part along the rows, which a library that normalises once more projects out."""
    unit = rows.detach().cpu().double()
    unit = unit / unit.norm(dim=1, keepdim=True)
    projected: Tensor = gradient - (gradient * unit).sum(1, keepdim=True) * unit
    return projected

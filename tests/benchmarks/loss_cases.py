"""The losses that pytorch-metric-learning has too, both sides of each with equal parameters, and their batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from pytorch_metric_learning import losses as peer
from pytorch_metric_learning.miners import DistanceWeightedMiner, MultiSimilarityMiner
from torch import Tensor, nn

from raydml import config as own
from raydml.losses import build_loss

SAMPLES_PER_CLASS = 4
_MANY = 11_318
_NO_GOALS: Mapping[int, float] = MappingProxyType({})
# Theirs keeps these as (D, C), ours keep proxies as (C, D) or (C, K, D).
_TRANSPOSED = ("W", "fc")


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
    config: own.LossConfig
    num_classes: int = 1000
    goals: Mapping[int, float] = field(default_factory=lambda: _NO_GOALS)
    """Batch size -> least CPU time of theirs over ours at D = 128; 1 where there is none."""
    differs: str = ""
    """Why the values of the two sides cannot agree."""
    wide: bool = False
    """Whether they are compared in float64: where a gradient jumps, float32 puts some terms on the other side."""
    largest_profile: int = 2**20
    """Largest batch at which the memory of theirs is recorded."""


CASES = (
    Case("contrastive", own.ContrastiveConfig(kind="contrastive")),
    # In float32 ours is within 2e-7 of float64 at D = 512, theirs within 7e-5.
    Case("triplet, all", own.TripletConfig(kind="triplet"), goals={512: 10.0}, wide=True),
    Case(
        "margin, distance-weighted",
        own.MarginConfig(kind="margin"),
        goals={128: 5.0, 512: 15.0},
        differs="the two sides draw different negatives",
    ),
    Case(
        "lifted, original",
        own.LiftedStructureConfig(kind="lifted_structure", form="original"),
        goals={128: 25.0},
    ),
    Case("lifted, generalised", own.LiftedStructureConfig(kind="lifted_structure", form="generalised")),
    Case("nt_xent", own.NTXentConfig(kind="nt_xent")),
    Case("supcon", own.SupConConfig(kind="supcon")),
    Case("multi_similarity", own.MultiSimilarityConfig(kind="multi_similarity", epsilon=None)),
    Case("multi_similarity + miner", own.MultiSimilarityConfig(kind="multi_similarity"), goals={128: 2.0}),
    Case("circle", own.CircleConfig(kind="circle")),
    Case("angular", own.AngularConfig(kind="angular")),
    # Theirs turns B^2 indices into Python lists and back, and the profiler notes every one: 4 GB of notes at B = 256.
    Case("histogram", own.HistogramConfig(kind="histogram"), wide=True, largest_profile=128),
    Case("proxy_nca, 100 classes", own.ProxyNCAConfig(kind="proxy_nca"), 100),
    Case("proxy_anchor, 100 classes", own.ProxyAnchorConfig(kind="proxy_anchor"), 100),
    Case("proxy_anchor, 11,318 classes", own.ProxyAnchorConfig(kind="proxy_anchor"), _MANY, goals={128: 1.5}),
    Case("soft_triple, 100 classes", own.SoftTripleConfig(kind="soft_triple", regularizer_weight=0.0), 100),
    Case("normalised_softmax, 100 classes", own.NormalisedSoftmaxConfig(kind="normalised_softmax"), 100),
    Case("cosface, 100 classes", own.CosFaceConfig(kind="cosface"), 100),
    Case("arcface, 100 classes", own.ArcFaceConfig(kind="arcface"), 100),
    Case("arcface, 11,318 classes", own.ArcFaceConfig(kind="arcface"), _MANY),
    Case(
        "smooth_ap",
        own.SmoothAPConfig(kind="smooth_ap"),
        differs="theirs counts the query, and mixes up classes and images of a class (specs/losses.md, 2.3)",
    ),
    Case(
        "n_pair",
        own.NPairConfig(kind="n_pair"),
        differs="theirs takes one pair of each class, ours all: a G/4 x G/4 matrix against G x G",
    ),
)


def batch(size: int, dim: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Class centres N(0, 1), within-class deviation 1.3 at D = 128: (size, D) unit rows and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(size) // SAMPLES_PER_CLASS % num_classes
    centres = torch.randn(int(labels.max()) + 1, dim, generator=generator)
    deviation = 1.3 * (dim / 128) ** 0.5
    rows = centres[labels] + deviation * torch.randn(size, dim, generator=generator)
    return nn.functional.normalize(rows, dim=1), labels


def ours(case: Case, dim: int) -> Contender:
    """This package's side."""
    loss = build_loss(case.config, num_classes=case.num_classes, embedding_dim=dim, max_positives=SAMPLES_PER_CLASS - 1)
    generator = torch.Generator().manual_seed(0)
    return Contender(loss, lambda embeddings, labels: loss(embeddings, labels, generator=generator).value)


def theirs(case: Case, dim: int, like: Contender) -> Contender:
    """The side of pytorch-metric-learning, with the learned parameters of ours."""
    loss = _peer_loss(case.config, {"num_classes": case.num_classes, "embedding_size": dim})
    for (name, copy), original in zip(_learned(loss), dict(_learned(like.module)).values(), strict=True):
        rows = original.detach().reshape(-1, dim)
        copy.data.copy_(rows.T if name in _TRANSPOSED else rows)
    match case.config:
        case own.MarginConfig(cutoff=cutoff, nonzero_cutoff=nonzero_cutoff):
            miner: nn.Module = DistanceWeightedMiner(cutoff=cutoff, nonzero_loss_cutoff=nonzero_cutoff)
        case own.MultiSimilarityConfig(epsilon=float(epsilon)):
            miner = MultiSimilarityMiner(epsilon=epsilon)
        case _:
            return Contender(loss, loss)
    return Contender(loss, lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels)))


def _peer_loss(config: own.LossConfig, sizes: dict[str, int]) -> nn.Module:
    match config:
        case own.ContrastiveConfig(positive_margin=positive, negative_margin=negative):
            loss = peer.ContrastiveLoss(pos_margin=positive, neg_margin=negative)
        case own.TripletConfig(margin=margin):
            loss = peer.TripletMarginLoss(margin=margin)
        case own.MarginConfig(margin=margin, beta=beta):
            loss = peer.MarginLoss(margin=margin, beta=beta)
        case own.LiftedStructureConfig(margin=margin, form="original"):
            loss = peer.LiftedStructureLoss(neg_margin=margin)
        case own.LiftedStructureConfig(margin=margin):
            loss = peer.GeneralizedLiftedStructureLoss(neg_margin=margin)
        case own.NPairConfig():
            loss = peer.NPairsLoss()
        case own.NTXentConfig(temperature=temperature):
            loss = peer.NTXentLoss(temperature=temperature)
        case own.SupConConfig(temperature=temperature):
            loss = peer.SupConLoss(temperature=temperature)
        case own.MultiSimilarityConfig(alpha=alpha, beta=beta, base=base):
            loss = peer.MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
        case own.CircleConfig(margin=margin, scale=scale):
            loss = peer.CircleLoss(m=margin, gamma=scale)
        case own.AngularConfig(angle_deg=angle_deg):
            loss = peer.AngularLoss(alpha=angle_deg)
        case own.HistogramConfig(num_bins=num_bins):
            loss = peer.HistogramLoss(n_bins=num_bins)
        case own.SmoothAPConfig(temperature=temperature):
            loss = peer.SmoothAPLoss(temperature=temperature)
        case own.ProxyNCAConfig(scale=scale):
            loss = peer.ProxyNCALoss(softmax_scale=scale, **sizes)
        case own.ProxyAnchorConfig(margin=margin, scale=scale):
            loss = peer.ProxyAnchorLoss(margin=margin, alpha=scale, **sizes)
        case own.SoftTripleConfig(centers_per_class=k, scale=scale, assignment_scale=sharpness, margin=margin):
            loss = peer.SoftTripleLoss(centers_per_class=k, la=scale, gamma=1.0 / sharpness, margin=margin, **sizes)
        case own.NormalisedSoftmaxConfig(temperature=temperature):
            loss = peer.NormalizedSoftmaxLoss(temperature=temperature, **sizes)
        case own.CosFaceConfig(margin=margin, scale=scale):
            loss = peer.CosFaceLoss(margin=margin, scale=scale, **sizes)
        case own.ArcFaceConfig(margin_deg=margin_deg, scale=scale):
            loss = peer.ArcFaceLoss(margin=margin_deg, scale=scale, **sizes)
        case _:
            raise ValueError(f"no counterpart of {config.kind}")
    module: nn.Module = loss
    return module


def _learned(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def step(contender: Contender, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward: the value, and the gradients by embeddings and learned parameters."""
    learned = _learned(contender.module)
    leaves = [embeddings.detach().requires_grad_(), *(p for _, p in learned)]
    value = contender.call(leaves[0], labels)
    return value.detach(), *torch.autograd.grad(value, leaves)


def disagreement(a: Contender, b: Contender, embeddings: Tensor, labels: Tensor) -> float:
    """Largest relative difference of value, tangential gradient and gradients by learned parameters."""
    sides = []
    for side in (a, b):
        value, gradient, *others = step(side, embeddings, labels)
        # Their losses normalise once more, ours leave that to the model: radial parts of gradients have no meaning.
        tangential = gradient - (gradient * embeddings).sum(1, keepdim=True) * embeddings
        names = [name for name, _ in _learned(side.module)]
        rows = [g.T if n in _TRANSPOSED else g for n, g in zip(names, others, strict=True)]
        sides.append([value, tangential, *(g.reshape(-1, embeddings.shape[1]) for g in rows)])
    return max(float((x - y).norm() / y.norm()) for x, y in zip(*sides, strict=True))

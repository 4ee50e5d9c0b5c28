"""Contrastive, triplet and margin loss against loops over pairs and triplets, and against another library.

pytorch-metric-learning is a second opinion, not the law: the loops are. No test here runs into what
specs/losses.md, 2.3 finds wrong in it.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from torch import Tensor, nn

from raydml.config import ContrastiveConfig, LossConfig, MarginConfig, TripletConfig
from raydml.distances import euclidean
from raydml.losses import build_loss
from raydml.losses.masking import pairs_of
from raydml.losses.mining import sample_negatives
from tests import loss_oracles as oracle

_BATCHES = {
    "balanced": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "unsorted, with singletons": [3, 0, 1, 0, 2, 0, 1, 4],
    "one pair": [0, 0, 1],
    "two classes of one": [0, 1],
    "one class": [0, 0, 0, 0],
}
_MININGS = ("all", "semi_hard", "hardest")
Triplets = list[tuple[int, int, int]]


@pytest.fixture(params=_BATCHES)
def names(request: pytest.FixtureRequest) -> list[int]:
    """Labels of a batch."""
    return _BATCHES[request.param]


def _rows(names: list[int], device: torch.device, *, dim: int = 6, seed: int = 0) -> Tensor:
    return oracle.unit_rows(len(names), dim, seed=seed, noise=1.5, classes=names).to(device)


def _build(config: LossConfig, *, dim: int = 6) -> nn.Module:
    return build_loss(config, num_classes=5, embedding_dim=dim)


def _contrastive(positive_margin: float = 0.0, negative_margin: float = 0.5) -> ContrastiveConfig:
    return ContrastiveConfig(kind="contrastive", positive_margin=positive_margin, negative_margin=negative_margin)


def _triplet(mining: str, margin: float = 0.1) -> TripletConfig:
    return TripletConfig.model_validate({"kind": "triplet", "mining": mining, "margin": margin})


def _drawn(config: MarginConfig, embeddings: Tensor, labels: Tensor, *, seed: int) -> Triplets:
    """The triplets that a margin loss draws from a generator of this seed."""
    pairs = pairs_of(labels)
    index, has_negative = sample_negatives(
        euclidean(embeddings, embeddings),
        pairs.negative,
        num_draws=min(64, len(labels)),
        embedding_dim=embeddings.shape[1],
        cutoff=config.cutoff,
        nonzero_cutoff=config.nonzero_cutoff,
        generator=torch.Generator(embeddings.device).manual_seed(seed),
    )
    triplets: Triplets = []
    for anchor, mask in enumerate(pairs.positive & has_negative[:, None]):
        # An anchor's positives take its draws in their order.
        positives = mask.nonzero().flatten().tolist()
        triplets += [(anchor, p, int(index[anchor, place])) for place, p in enumerate(positives)]
    return triplets


@pytest.mark.parametrize("margins", [(0.0, 0.5), (0.3, 1.2), (0.0, 2.0)])
def test_contrastive_is_the_mean_over_nonzero_pairs(
    names: list[int], margins: tuple[float, float], device: torch.device
) -> None:
    config, embeddings = _contrastive(*margins), _rows(names, device)
    low, high = margins
    expected = oracle.judge(
        lambda x: oracle.contrastive(x, names, positive_margin=low, negative_margin=high), embeddings
    )
    found = oracle.run_loss(_build(config), embeddings, torch.tensor(names, device=device))
    oracle.assert_agree(found, expected, 1e-12)


@pytest.mark.parametrize("mining", _MININGS)
@pytest.mark.parametrize("margin", [0.0, 0.1, 1.5])
def test_triplet_is_the_mean_over_nonzero_triplets(
    names: list[int], margin: float, mining: str, device: torch.device
) -> None:
    """No margin means no semi-hard negative; 1.5 makes nearly every triplet cost."""
    embeddings = _rows(names, device)
    expected = oracle.judge(lambda x: oracle.triplet(x, names, margin=margin, mining=mining), embeddings)
    found = oracle.run_loss(_build(_triplet(mining, margin)), embeddings, torch.tensor(names, device=device))
    oracle.assert_agree(found, expected, 1e-12)


@pytest.mark.parametrize("learn_beta", ["fixed", "shared", "per_class"])
def test_margin_is_the_mean_over_nonzero_terms_of_its_triplets(
    names: list[int], learn_beta: str, device: torch.device
) -> None:
    fields = {"kind": "margin", "learn_beta": learn_beta, "beta": 1.0, "margin": 0.3, "cutoff": 0.4}
    config, embeddings = MarginConfig.model_validate(fields), _rows(names, device)
    labels, loss = torch.tensor(names, device=device), _build(config).to(device).double()
    with torch.no_grad():
        for beta in loss.parameters():  # boundaries that differ, so that a wrong class is seen
            beta.add_(0.05 * torch.arange(beta.shape[1], device=device))
    triplets = _drawn(config, embeddings, labels, seed=7)
    learned = [beta for beta in loss.parameters() if beta.requires_grad]

    def loop(x: Tensor, beta: Tensor | None = None) -> Tensor:
        values = torch.full((1,), 1.0, dtype=torch.float64) if beta is None else beta[0]
        of_anchor = names if learn_beta == "per_class" else [0] * len(names)
        terms = oracle.margin(x, triplets, alpha=0.3, beta=lambda a: values[of_anchor[a]])
        return terms + 0.0 * values.sum()  # a graph to beta where nothing was drawn

    found = oracle.run_loss(loss, embeddings, labels, generator=torch.Generator(device).manual_seed(7))
    oracle.assert_agree(found, oracle.judge(loop, embeddings, *learned), 1e-12)


def test_margin_beta_starts_where_the_configuration_says() -> None:
    shapes = {"fixed": 1, "shared": 1, "per_class": 5}
    for learn_beta, size in shapes.items():
        (beta,) = _build(
            MarginConfig.model_validate({"kind": "margin", "learn_beta": learn_beta, "beta": 0.7})
        ).parameters()
        assert torch.equal(beta.detach(), torch.full((1, size), 0.7))
        assert beta.requires_grad == (learn_beta != "fixed")


def _second_opinion(embeddings: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """The same loss by pytorch-metric-learning, with our triplets where triplets are drawn."""
    chosen = None
    if isinstance(config, ContrastiveConfig):
        loss = pml.ContrastiveLoss(config.positive_margin, config.negative_margin)
    elif isinstance(config, MarginConfig):
        loss = pml.MarginLoss(margin=config.margin, beta=config.beta)
        chosen = tuple(torch.tensor(_drawn(config, embeddings.detach(), labels, seed=3), device=labels.device).T)
    else:
        assert isinstance(config, TripletConfig)
        loss = pml.TripletMarginLoss(config.margin)
        miners = {"semi_hard": TripletMarginMiner(config.margin, "semihard"), "hardest": BatchHardMiner()}
        chosen = miners[config.mining](embeddings, labels) if config.mining in miners else None
    value: Tensor = loss(embeddings, labels, chosen)
    return value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("config", "size"),
    [
        *product((_contrastive(), _contrastive(0.2, 1.3)), (64, 256)),
        *product((_triplet(mining) for mining in _MININGS), (64, 256)),
        *product((MarginConfig(kind="margin"), MarginConfig(kind="margin", margin=0.5, beta=0.9)), (64, 256)),
    ],
)
def test_agrees_with_the_library(config: LossConfig, size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Goal L4 of specs/performance.md: 1e-5 in float32."""
    names = [i // 4 for i in range(size)]
    embeddings, labels = _rows(names, device, dim=32, seed=1).to(dtype), torch.tensor(names, device=device)
    found = oracle.run_loss(
        _build(config, dim=32).to(device), embeddings, labels, generator=torch.Generator(device).manual_seed(3)
    )
    leaf = embeddings.clone().requires_grad_()
    value = _second_opinion(leaf, labels, config)
    (gradient,) = torch.autograd.grad(value, leaf)
    # The library normalises once more, which projects its gradient; ours leaves that to the model.
    rows, ours = embeddings.cpu().double(), found.gradient
    projected = ours - (ours * rows).sum(1, keepdim=True) * rows
    assert float(found.value) > 0
    assert oracle.relative(found.value, value.detach().cpu().double()) <= 1e-5
    assert oracle.relative(projected, gradient.cpu().double()) <= 1e-5


@pytest.mark.parametrize("config", [_contrastive(), *map(_triplet, _MININGS), MarginConfig(kind="margin")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_repeated_rows_have_finite_gradients(config: LossConfig, dtype: torch.dtype, device: torch.device) -> None:
    """An image that a small class repeats, and two classes collapsed into one point."""
    rows = _rows([0, 0, 1, 2], device).to(dtype)
    embeddings = rows[[0, 0, 0, 1, 2, 2, 3, 3]]
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3], device=device)
    found = oracle.run_loss(_build(config), embeddings, labels, generator=torch.Generator(device).manual_seed(0))
    assert bool(torch.isfinite(found.value))
    assert bool(torch.isfinite(found.gradient).all())


@pytest.mark.parametrize("config", [_contrastive(), *map(_triplet, _MININGS), MarginConfig(kind="margin")])
@pytest.mark.parametrize("names", [[0, 1, 2, 3], [4]], ids=["no positives", "one row"])
def test_nothing_to_pull_and_nothing_near_is_zero_with_zero_gradient(
    config: LossConfig, names: list[int], device: torch.device
) -> None:
    """Orthogonal rows are 1.41 apart: beyond the negative margin, and beyond what is sampled."""
    found = oracle.run_loss(
        _build(config, dim=4), torch.eye(4, device=device)[: len(names)], torch.tensor(names, device=device)
    )
    assert float(found.value) == 0.0
    assert bool((found.gradient == 0).all())


def test_statistics_are_shares_of_what_still_costs(device: torch.device) -> None:
    """Points on a line of angles: class 0 at 0, 10 and 60 degrees, class 1 at 70."""
    angles = torch.tensor([0.0, 10.0, 60.0, 70.0], dtype=torch.float64).deg2rad()
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1).to(device)
    labels = torch.tensor([0, 0, 0, 1], device=device)

    def stats(config: LossConfig) -> dict[str, float]:
        return {k: float(v) for k, v in _build(config, dim=2)(embeddings, labels).stats.items()}

    # Chords: 0.17 between 0 and 10 and between 60 and 70, 0.85 and 1.0 between 0, 10 and 60, 1.15 between 0 and 70.
    assert stats(_contrastive(0.5, 0.6)) == pytest.approx({"active_positives": 4 / 6, "active_negatives": 2 / 6})
    # (60: both positives beyond the negative) of six triplets; its hardest of three anchors with positives.
    assert stats(_triplet("all", 0.0)) == pytest.approx({"active_triplets": 2 / 6})
    assert stats(_triplet("hardest", 0.0)) == pytest.approx({"active_triplets": 1 / 3})
    # beta - alpha = 0.4: four of six positives cost; the negatives, 0.17, 1.0 and 1.15 away, all lie within 1.2.
    margin = stats(MarginConfig(kind="margin", beta=0.8, margin=0.4))
    assert margin == pytest.approx({"beta": 0.8, "active_terms": 10 / 12})

"""Distance-weighted sampling: the distribution, what is never drawn, and where the randomness comes from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raydml.distances import euclidean
from raydml.losses.masking import pairs_of
from raydml.losses.mining import sample_negatives
from tests.loss_oracles import unit_rows

_NAMES = [i // 4 for i in range(32)]
_CUTOFF, _NONZERO_CUTOFF, _DIM = 0.8, 1.3, 6


def _geometry(device: torch.device) -> tuple[Tensor, Tensor]:
    """Distances below, between and beyond the two cutoffs, and the masks of negatives."""
    rows = unit_rows(32, _DIM, seed=2, noise=1.5, classes=_NAMES).to(device)
    return euclidean(rows, rows), pairs_of(torch.tensor(_NAMES, device=device)).negative


def _sample(
    distance: Tensor,
    negative: Tensor,
    *,
    seed: int = 0,
    dim: int = _DIM,
    cutoff: float = _CUTOFF,
    nonzero_cutoff: float = _NONZERO_CUTOFF,
) -> tuple[Tensor, Tensor]:
    return sample_negatives(
        distance,
        negative,
        num_draws=len(distance),
        embedding_dim=dim,
        cutoff=cutoff,
        nonzero_cutoff=nonzero_cutoff,
        generator=torch.Generator(distance.device).manual_seed(seed),
    )


def _exact(distance: Tensor, negative: Tensor) -> Tensor:
    """(G, G) probabilities, one pair at a time: 1 / q(d) with q(d) = d^(D-2) (1 - d^2/4)^((D-3)/2)."""
    weights = torch.zeros(distance.shape, dtype=torch.float64)
    for i, row in enumerate(distance.tolist()):
        for j, found in enumerate(row):
            if bool(negative[i, j]) and found < _NONZERO_CUTOFF:
                d = max(found, _CUTOFF)
                weights[i, j] = 1.0 / (d ** (_DIM - 2) * (1.0 - d * d / 4.0) ** ((_DIM - 3) / 2.0))
    return weights / weights.sum(1, keepdim=True)


def test_draws_follow_the_inverse_density_of_distances(device: torch.device) -> None:
    """Total variation from the exact weights is what that many draws leave: half the sum of mean absolute errors.

    Averaged over 32 anchors it varies by about 3 percent; a wrong exponent or cutoff at least doubles it.
    """
    distance, negative = _geometry(device)
    between = negative & (distance > _CUTOFF) & (distance < _NONZERO_CUTOFF)
    assert all(bool((negative & kind).any()) for kind in (between, distance < _CUTOFF, distance > _NONZERO_CUTOFF))
    rounds = 400
    counts = torch.zeros(32, 32, dtype=torch.float64)
    for seed in range(rounds):
        index, _ = _sample(distance, negative, seed=seed)
        counts += torch.nn.functional.one_hot(index.cpu(), 32).sum(1)
    num = rounds * 32
    p = _exact(distance.cpu(), negative.cpu())
    found = 0.5 * (counts / num - p).abs().sum(1).mean()
    noise = 0.5 * (2.0 * p * (1.0 - p) / (math.pi * num)).sqrt().sum(1).mean()
    assert 0.85 * noise < found < 1.15 * noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_eligible_negatives_are_drawn(dtype: torch.dtype, device: torch.device) -> None:
    """Neither the own class, the anchor included, nor a negative at or beyond the far cutoff."""
    distance, negative = _geometry(device)
    distance = distance.to(dtype)
    eligible = negative & (distance < _NONZERO_CUTOFF)
    for seed in range(200):
        index, has_eligible = _sample(distance, negative, seed=seed)
        assert bool(has_eligible.all())
        assert bool(eligible.gather(1, index).all())


def test_an_eligible_negative_alone_is_drawn_wherever_it_stands(device: torch.device) -> None:
    """First and last column included: an inversion that is off by one fails at the ends."""
    for column in range(8):
        negative = torch.zeros(8, 8, dtype=torch.bool, device=device)
        negative[:, column] = True
        index, has_eligible = _sample(torch.full((8, 8), 0.9, device=device), negative, seed=column)
        assert bool(has_eligible.all())
        assert bool((index == column).all())


def test_anchors_without_an_eligible_negative_say_so(device: torch.device) -> None:
    distance, negative = _geometry(device)
    negative[3] = False
    distance[5] = _NONZERO_CUTOFF  # at the cutoff, so none of them counts
    index, has_eligible = _sample(distance, negative)
    assert has_eligible.logical_not().nonzero().flatten().tolist() == [3, 5]
    assert bool(((index >= 0) & (index < 32)).all())


@pytest.mark.parametrize("dim", [2, 3, 512, 65536])
def test_extreme_dimensions_and_distances_still_give_eligible_draws(dim: int, device: torch.device) -> None:
    """In many dimensions weights span more than any float; opposite rows make the second factor zero."""
    distance, negative = _geometry(device)
    distance, negative = distance.float(), negative.clone()
    distance[0, -1], distance[1, -1] = 2.0, 0.0
    index, _ = _sample(distance, negative, dim=dim, cutoff=0.01, nonzero_cutoff=2.0)
    eligible = negative & (distance < 2.0)
    assert bool(eligible.gather(1, index).all())


def test_draws_come_from_the_generator_alone(device: torch.device) -> None:
    distance, negative = _geometry(device)
    before = torch.get_rng_state()
    first, again, other = (_sample(distance, negative, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_pair_has_a_draw_of_its_own(device: torch.device) -> None:
    """64 free draws out of 64 give about 40 different ones; draws shared along a row or a column give one."""
    index, _ = _sample(torch.full((64, 64), 0.9, device=device), torch.ones(64, 64, dtype=torch.bool, device=device))
    assert all(len(line.unique()) > 25 for line in (*index, *index.T))

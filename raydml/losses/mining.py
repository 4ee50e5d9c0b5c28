"""Choice of pairs by distance: distance-weighted sampling (Wu et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from raydml.losses.masking import some


def sample_negatives(
    distance: Tensor,
    negative: Tensor,
    *,
    num_draws: int,
    embedding_dim: int,
    cutoff: float,
    nonzero_cutoff: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Negatives of every anchor: index (G, num_draws), and the anchors that have an eligible negative (G,).

    A negative at distance d is drawn with weight 1 / q(d), q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2) being the density of
    distances on the unit sphere (Wu et al. 2017, eq. 3), d clipped below at `cutoff`; those at or beyond
    `nonzero_cutoff` are never drawn. Drawing is with replacement, by inversion of each anchor's distribution, so that
    no shape depends on the labels.
    """
    d = distance.detach().clamp(min=cutoff)
    dim = float(embedding_dim)
    log_weight = (2.0 - dim) * d.log() - 0.5 * (dim - 3.0) * (1.0 - 0.25 * d.square()).clamp(min=1e-8).log()
    eligible = negative & (distance < nonzero_cutoff)
    # Not -inf: where nothing is eligible all columns are equal then, and not NaN.
    log_weight = torch.where(eligible, log_weight, torch.finfo(d.dtype).min)
    # In float64 the running sum is monotone and a draw the same for embeddings of either type.
    cumulative = log_weight.softmax(1, dtype=torch.float64).cumsum_(1)
    shape = (len(distance), num_draws)
    draw = torch.rand(shape, generator=generator, dtype=torch.float64, device=d.device)
    # Rounding may leave the last cumulative value below 1: scaled draws never fall behind the last eligible column.
    index = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True)
    return index.clamp(max=distance.shape[1] - 1), some(eligible, 1)

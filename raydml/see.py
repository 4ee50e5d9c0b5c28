"""Geometry and schedule of Spherical Embedding Expansion (Le & Woo, PAKDD 2024): pure functions.

An embedding z at cosine c to its class direction p lies on the rim of a cap around p: z = c p + s u with u orthogonal
to p and s = sqrt(1 - c^2). Its expansions are c p + s u_k, k = 1 ... E, where u, u_1 ... u_E are the vertices of a
regular simplex in the null space of p: the Max-Mahalanobis centres. They keep the cosine to p, and are as far from z
and from each other as E + 1 points of the rim can be: <z_i, z_j> = c^2 - s^2 / E.

Written from the construction that specs/see.md describes (sections 3 and 4); D >= E + 1.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from raydml.config import SeeConfig
from raydml.distances import full_precision, inner_products, outside_autocast

# Of an embedding this near to its class direction, rounding alone says where it lies on the rim.
_NO_DIRECTION = 1e-6
# The release stops raising the fraction at this epoch.
_LAST_SCHEDULED_EPOCH = 200


def simplex(num_expansions: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    """Max-Mahalanobis centres: (E + 1, E) unit rows with pairwise cosine -1/E, the first being e_1.

    In closed form: a_jj = sqrt((E + 1)(E - j) / (E (E - j + 1))), a_ij = -a_jj / (E - j) below the diagonal. Raises
    ValueError where E < 1.
    """
    if num_expansions < 1:
        raise ValueError(f"num_expansions must be at least 1, but got {num_expansions}")
    # On the device from the start: a copy from the host would wait for it, in every step.
    rest = num_expansions - torch.arange(num_expansions, dtype=torch.float64, device=device)
    diagonal = ((num_expansions + 1) * rest / (num_expansions * (rest + 1))).sqrt()
    below = (-diagonal / rest).expand(num_expansions + 1, num_expansions).tril(-1)
    return (below + torch.nn.functional.pad(diagonal.diag(), (0, 0, 0, 1))).to(dtype)


class Rim(NamedTuple):
    """Embeddings on the caps of their class directions, without gradient."""

    directions: Tensor
    """p, (n, D) unit rows."""
    cosine: Tensor
    """c, (n, 1)."""
    sine: Tensor
    """s, (n, 1)."""
    outward: Tensor
    """u, (n, D) unit rows orthogonal to p; zero where s is."""


def rim_of(embeddings: Tensor, directions: Tensor) -> Rim:
    """(n, D), (n, D) unit rows -> where the embeddings lie around their class directions."""
    z, p = full_precision(embeddings.detach()), full_precision(directions.detach())
    cosine = (z * p).sum(1, keepdim=True)
    radial = z - cosine * p
    # Once more: near p the first projection leaves an error as large as what it should leave.
    radial = radial - (radial * p).sum(1, keepdim=True) * p
    sine = radial.norm(dim=1, keepdim=True)
    return Rim(p, cosine, sine, radial / sine.clamp(min=1e-12))


def expand(
    embeddings: Tensor,
    proxies: Tensor,
    num_expansions: int,
    *,
    generator: torch.Generator,
    frames: Literal["shared", "independent"] = "shared",
    directions: Literal["mahalanobis", "random"] = "mahalanobis",
) -> Tensor:
    """Synthetic embeddings (n, E, D) of (n, D) unit rows around (n, D) unit class directions; constants.

    Raises ValueError where E is larger than D - 1.
    """
    rim = rim_of(embeddings, proxies)
    return expand_rim(rim, num_expansions, generator=generator, frames=frames, directions=directions)


@torch.no_grad()
def expand_rim(
    rim: Rim,
    num_expansions: int,
    *,
    generator: torch.Generator,
    frames: Literal["shared", "independent"] = "shared",
    directions: Literal["mahalanobis", "random"] = "mahalanobis",
) -> Tensor:
    """As `expand`, of embeddings whose place around their class directions is known."""
    dim = rim.directions.shape[1]
    if num_expansions > dim - 1:
        raise ValueError(f"num_expansions must not exceed D - 1, but got num_expansions={num_expansions}, D={dim}")
    with outside_autocast(rim.directions.device):
        if directions == "random":
            spread = _random_directions(rim, num_expansions, generator)
        elif num_expansions == 1:
            spread = -rim.outward[:, None, :]
        elif frames == "shared":
            spread = _turned_frame(rim, num_expansions, generator)
        else:
            spread = _own_frames(rim, num_expansions, generator)
    return torch.addcmul((rim.cosine * rim.directions)[:, None, :], rim.sine[:, None, :], spread)


def _random_directions(rim: Rim, num_expansions: int, generator: torch.Generator) -> Tensor:
    """(n, E, D): independent, uniform on the unit sphere orthogonal to p."""
    p = rim.directions
    drawn = torch.randn(len(p), num_expansions, p.shape[1], generator=generator, dtype=p.dtype, device=p.device)
    for _ in range(2):
        drawn = drawn - (drawn @ p[:, :, None]) * p[:, None, :]
    directions: Tensor = torch.nn.functional.normalize(drawn, dim=2)
    return directions


def _own_frames(rim: Rim, num_expansions: int, generator: torch.Generator) -> Tensor:
    """(n, E, D): centres in a random frame of its own for each embedding, by batched QR."""
    p, u = rim.directions, rim.outward
    shape = (len(p), p.shape[1], num_expansions - 1)
    drawn = torch.randn(shape, generator=generator, dtype=p.dtype, device=p.device)
    basis = torch.stack([p, u], dim=2)
    for _ in range(2):
        drawn = drawn - basis @ (basis.mT @ drawn)
    frame = torch.cat([u[:, :, None], _orthonormal(drawn)], dim=2)
    centres = simplex(num_expansions, dtype=p.dtype, device=p.device)[1:]
    spread: Tensor = (frame @ centres.T).mT
    return spread


def _orthonormal(drawn: Tensor) -> Tensor:
    """(..., D, k) -> the same shape: orthonormal columns, uniform over all of them where the entries are Gaussian.

    The signs that an implementation of QR chooses are taken out.
    """
    basis, triangle = torch.linalg.qr(drawn)
    orthonormal: Tensor = basis * _sign(triangle.diagonal(dim1=-2, dim2=-1))[..., None, :]
    return orthonormal


def _turned_frame(rim: Rim, num_expansions: int, generator: torch.Generator) -> Tensor:
    """(n, E, D): centres in one random frame, carried to each (p, u) by two reflections.

    The frame is q_0, q_1 ... q_E, its centres m_k. The first mirror, with normal h = q_0 + r p, takes q_0 to p and any
    y orthogonal to q_0 to r (a(y) h - y), a(y) = 2 r <y, p> / |h|^2. The second, h' = y_1 + r' u with y_1 the image of
    q_1, takes y_1 to u and leaves p alone. The signs r, r' keep the normals longer than sqrt(2). Both in one:
    u_k = r' b_k h' - r r' a(m_k) h + r r' m_k, b_k = 2 r (a(m_k) <h, h'> - <m_k, h'>) / |h'|^2.
    """
    p, u = rim.directions, rim.outward
    shape = (p.shape[1], num_expansions + 1)
    frame = _orthonormal(torch.randn(shape, generator=generator, dtype=p.dtype, device=p.device)).T
    centres = simplex(num_expansions, dtype=p.dtype, device=p.device)[1:] @ frame[1:]
    sign = _sign((p @ frame[0])[:, None])
    mirror = frame[0] + sign * p
    along = 2.0 * sign / mirror.square().sum(1, keepdim=True) * inner_products(p, torch.cat([frame[1:2], centres]))
    image = sign * (along[:, :1] * mirror - frame[1])
    along = along[:, 1:]
    second_sign = _sign((image * u).sum(1, keepdim=True))
    second = image + second_sign * u
    between = (mirror * second).sum(1, keepdim=True)
    second_along = 2.0 * sign * (along * between - inner_products(second, centres))
    second_along = second_along / second.square().sum(1, keepdim=True)
    both = sign * second_sign
    weights = torch.stack([second_sign * second_along, -both * along], dim=2)
    turned: Tensor = torch.baddbmm(both[:, :, None] * centres, weights, torch.stack([second, mirror], dim=1))
    return turned


def _sign(x: Tensor) -> Tensor:
    """1 or -1; 1 for zero."""
    return 1.0 - 2.0 * (x < 0).to(x.dtype)


def has_direction(rim: Rim) -> Tensor:
    """(n,) bool: embeddings far enough from +-p to lie somewhere on the rim."""
    return rim.sine[:, 0] >= _NO_DIRECTION


def reflected(embeddings: Tensor, synthetic: Tensor) -> Tensor:
    """(n, D), (n, E, D) -> (n, E, D): the same points, as reflections of the embeddings that pass gradients on.

    The mirror, orthogonal to z - z_k, is a constant: the Jacobian is orthogonal and keeps the norm of a gradient.
    """
    z = full_precision(embeddings)[:, None, :]
    normal = z.detach() - synthetic
    length = normal.square().sum(2, keepdim=True)
    along = (normal * z).sum(2, keepdim=True) / torch.where(length > 0, length, 1.0)
    return z - 2.0 * along * normal


def expanded_fraction(epoch: int, num_epochs: int, config: SeeConfig) -> float:
    """The share of a batch that is expanded in an epoch, counted from 0; the threshold of the cosine for `threshold`.

    cosine: initial + (final - initial) (1 - cos(pi min(e, 200) / min(E, 200))) / 2. threshold falls instead, from
    final to initial, over all epochs.
    """
    low, high = config.initial_fraction, config.final_fraction
    capped = min(epoch, _LAST_SCHEDULED_EPOCH) / min(num_epochs, _LAST_SCHEDULED_EPOCH)
    match config.schedule:
        case "cosine":
            return low + (high - low) * 0.5 * (1.0 - math.cos(math.pi * capped))
        case "linear":
            return low + (high - low) * capped
        case "constant":
            return high
        case "threshold":
            return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * epoch / num_epochs))


def num_expanded(num_images: int, fraction: float) -> int:
    """Images of a batch to expand: rounded half to even, as the release does."""
    return round(num_images * fraction)

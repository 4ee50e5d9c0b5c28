"""Rows for indexes: many enough that each kind is built, and lists by sorting everything."""

from __future__ import annotations

import torch
from torch import Tensor

from raydml.neighbors import Kind

KINDS: tuple[Kind, ...] = ("flat", "ivf", "ivf_pq", "hnsw")
# The fewest that codes are trained on.
MANY = 9_984


def clustered(count: int, dim: int = 16, *, seed: int = 0) -> Tensor:
    """Unit rows around 40 centres, float32."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(40, dim, generator=generator)
    noise = torch.randn(count, dim, generator=generator)
    return torch.nn.functional.normalize(centres[torch.arange(count) % 40] + 0.5 * noise, dim=1)


def codes(count: int, *, seed: int = 0) -> Tensor:
    """Rows of four dimensions with few different products, which are exact: hence many ties, and equal rows."""
    return torch.randint(-1, 2, (count, 4), generator=torch.Generator().manual_seed(seed)).float()


def by_sorting(query: Tensor, gallery: Tensor, k: int, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Similarities by falling value, then rising index, in float64: (Q, k) each."""
    similarity = query.double().cpu() @ gallery.double().cpu().T
    if exclude is not None:
        rows = (exclude >= 0).nonzero()[:, 0].cpu()
        similarity[rows, exclude.cpu()[rows]] = -torch.inf
    values, index = similarity.sort(dim=1, descending=True, stable=True)
    return values[:, :k], index[:, :k]

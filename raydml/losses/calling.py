"""How a loss is called: one signature and one check for each family, so that a loss is its formula and nothing else.

Every loss takes (G, D) unit embeddings and (G,) int64 labels, `generator` for what it draws, and `check`, which looks
at the device and raises ValueError for a bad batch. Losses on pairs also take `references`; losses with proxies take
`proxies`, their own scaled to unit length where they are known already, and `counted` (G,) bool, the rows that count:
then the rows are no images, and nothing that remembers images moves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from raydml.losses.classes import unit_proxies
from raydml.losses.masking import References
from raydml.losses.output import LossOutput, check_batch

Forward = Callable[..., LossOutput]


def on_batch(formula: Callable[[Any, Tensor, Tensor], LossOutput]) -> Forward:
    """The forward of a deterministic loss of (embeddings, labels)."""

    @wraps(formula)
    def forward(
        self: Any,  # noqa: ANN401
        embeddings: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        check: bool = False,
    ) -> LossOutput:
        del generator
        if check:
            check_batch(embeddings, labels)
        return formula(self, embeddings, labels)

    return forward


def on_pairs(formula: Callable[[Any, Tensor, Tensor, References | None], LossOutput]) -> Forward:
    """The forward of a deterministic loss of (embeddings, labels, references or None for the batch itself)."""

    @wraps(formula)
    def forward(
        self: Any,  # noqa: ANN401
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: References | None = None,
        generator: torch.Generator | None = None,
        check: bool = False,
    ) -> LossOutput:
        del generator
        if check:
            check_batch(embeddings, labels)
        return formula(self, embeddings, labels, references)

    return forward


def on_proxies(formula: Callable[[Any, Tensor, Tensor, Tensor, Tensor | None], LossOutput]) -> Forward:
    """The forward of a deterministic loss of (embeddings, labels, unit proxies, rows that count or None for all)."""

    @wraps(formula)
    def forward(
        self: Any,  # noqa: ANN401
        embeddings: Tensor,
        labels: Tensor,
        *,
        proxies: Tensor | None = None,
        counted: Tensor | None = None,
        generator: torch.Generator | None = None,
        check: bool = False,
    ) -> LossOutput:
        del generator
        if check:
            check_batch(embeddings, labels, num_classes=len(self.proxies), embedding_dim=self.proxies.shape[-1])
        unit = unit_proxies(self.proxies) if proxies is None else proxies
        return formula(self, embeddings, labels, unit, counted)

    return forward

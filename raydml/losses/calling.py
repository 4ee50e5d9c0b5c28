"""How a loss is called: one signature and one check for each family, so that a loss is its formula and nothing else.

Every loss takes (G, D) unit embeddings and (G,) int64 labels, `generator` for what it draws, `check`, which looks at
the device and raises ValueError for a bad batch, and `view`, what of all this a learner works with. Losses on pairs
also take `references`; losses with proxies take `proxies`, their own scaled to unit length where they are known
already, and `counted` (G,) bool, the rows that count: then the rows are no images, and nothing that remembers images
moves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor

from raydml.distances import full_precision
from raydml.losses.classes import unit_proxies
from raydml.losses.masking import References
from raydml.losses.output import LossOutput, check_batch
from raydml.losses.view import View, rows_of

Forward = Callable[..., LossOutput]


def _named(forward: Forward, formula: Forward) -> Forward:
    """The name and the words of a formula for what is called; not its signature, which is another one."""
    update_wrapper(forward, formula, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    del forward.__wrapped__  # type: ignore[attr-defined]
    return forward


def on_batch(formula: Callable[[Any, Tensor, Tensor], LossOutput]) -> Forward:
    """The forward of a deterministic loss of (embeddings, labels)."""

    def forward(
        self: Any,  # noqa: ANN401
        embeddings: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        check: bool = False,
        view: View | None = None,
    ) -> LossOutput:
        del generator
        if check:
            check_batch(embeddings, labels)
        return formula(self, rows_of(view, embeddings), labels)

    return _named(forward, formula)


def on_pairs(formula: Callable[[Any, Tensor, Tensor, References | None], LossOutput]) -> Forward:
    """The forward of a deterministic loss of (embeddings, labels, references or None for the batch itself)."""

    def forward(
        self: Any,  # noqa: ANN401
        embeddings: Tensor,
        labels: Tensor,
        *,
        references: References | None = None,
        generator: torch.Generator | None = None,
        check: bool = False,
        view: View | None = None,
    ) -> LossOutput:
        del generator
        if check:
            check_batch(embeddings, labels)
        return formula(
            self, rows_of(view, embeddings), labels, references if view is None else view.references(references)
        )

    return _named(forward, formula)


def proxy_inputs(
    own: Tensor, embeddings: Tensor, labels: Tensor, proxies: Tensor | None, view: View | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, labels and unit proxies of a view; given proxies are unit, and the view's, already."""
    if view is None:
        return embeddings, labels, unit_proxies(own) if proxies is None else proxies
    unit = view.proxies(full_precision(own)) if proxies is None else proxies
    return view.project(embeddings), view.labels(labels), unit


def on_proxies(formula: Callable[[Any, Tensor, Tensor, Tensor, Tensor | None], LossOutput]) -> Forward:
    """The forward of a deterministic loss of (embeddings, labels, unit proxies, rows that count or None for all)."""

    def without_state(
        self: Any,  # noqa: ANN401
        embeddings: Tensor,
        labels: Tensor,
        proxies: Tensor,
        counted: Tensor | None,
        view: View | None,
    ) -> LossOutput:
        del view
        return formula(self, embeddings, labels, proxies, counted)

    return on_proxies_of_learners(_named(without_state, formula))


def on_proxies_of_learners(
    formula: Callable[[Any, Tensor, Tensor, Tensor, Tensor | None, View | None], LossOutput],
) -> Forward:
    """As `on_proxies`, for a loss with further state, of which it takes the view's."""

    def forward(
        self: Any,  # noqa: ANN401
        embeddings: Tensor,
        labels: Tensor,
        *,
        proxies: Tensor | None = None,
        counted: Tensor | None = None,
        generator: torch.Generator | None = None,
        check: bool = False,
        view: View | None = None,
    ) -> LossOutput:
        del generator
        if check:
            check_batch(embeddings, labels, num_classes=len(self.proxies), embedding_dim=self.proxies.shape[-1])
        return formula(self, *proxy_inputs(self.proxies, embeddings, labels, proxies, view), counted, view)

    return _named(forward, formula)

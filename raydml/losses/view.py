"""What of an embedding, of the classes and of its own state a loss works with, where learners share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from raydml.losses.masking import References


class ClassSubset(NamedTuple):
    """The classes of which a learner has images."""

    classes: Tensor
    """(c,) int64, in rising order."""
    place: Tensor
    """(C,) int64: where each class is among them; -1 where it is not."""


@dataclass(frozen=True)
class View:
    """One learner's part of everything, or the parts of several learners that work together.

    Losses with a view get whole embeddings, and keep parameters for all learners: proxies have all dimensions, of which
    every learner owns some; everything else has a first dimension with one row for each learner.
    """

    project: Callable[[Tensor], Tensor]
    """(..., D) -> (..., d) unit rows: the dimensions of the view."""
    learners: slice
    """Rows of state that belong to the view."""
    columns: slice
    """Dimensions that belong to the view."""
    num_learners: int
    """All there are."""
    subset: ClassSubset | None = None
    """The classes of the view; all where None."""

    @property
    def is_whole(self) -> bool:
        """Whether all learners work together."""
        return self.learners == slice(0, self.num_learners)

    def labels(self, labels: Tensor) -> Tensor:
        """(G,) classes -> their places among the view's."""
        return labels if self.subset is None else self.subset.place.index_select(0, labels)

    def proxies(self, proxies: Tensor) -> Tensor:
        """(C, ..., D) -> (c, ..., d) unit rows of the view's classes."""
        return self.project(proxies if self.subset is None else proxies.index_select(0, self.subset.classes))

    def references(self, references: References | None) -> References | None:
        """References in the dimensions of the view."""
        if references is None:
            return None
        return references._replace(embeddings=self.project(references.embeddings))

    def inside(self) -> View:
        """The same for rows, proxies and labels that are the view's already."""
        return replace(self, project=_as_is, subset=None)


def _as_is(rows: Tensor) -> Tensor:
    return rows


def rows_of(view: View | None, embeddings: Tensor) -> Tensor:
    """(G, D) -> (G, d): what a loss with this view compares."""
    return embeddings if view is None else view.project(embeddings)


def root_mean_square(state: Tensor, view: View | None) -> Tensor:
    """(L, n) -> (n, 1): distances that learners have; together they have the root of their mean square.

    As the squared distance of embeddings is the mean of those of their unit slices.
    """
    mine = state if view is None else state[view.learners]
    return mine.T if len(mine) == 1 else mine.square().mean(0).sqrt()[:, None]


def mean(state: Tensor, view: View | None) -> Tensor:
    """(L, ...) -> (...)."""
    mine = state if view is None else state[view.learners]
    return mine[0] if len(mine) == 1 else mine.mean(0)


def with_state(state: Tensor, view: View | None, value: Tensor) -> Tensor:
    """(L, ...), (...) -> (L, ...): the same state with one value for all learners of the view."""
    if view is None:
        return value.expand_as(state)
    rows = value.expand_as(state[view.learners])
    return torch.slice_scatter(state, rows, 0, view.learners.start, view.learners.stop)

"""Embeddings against one row for each class, (G, D) against (C, D), in chunks of classes where C is large."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from raydml.distances import cosine, full_precision, outside_autocast
from raydml.losses.masking import masked_mean

# Entries of one matrix of embeddings x rows of classes; 256 MiB in float32. Beyond it classes come in chunks,
# recomputed in the backward pass, so that memory does not grow with them.
_LARGEST = 2**26
# The exponent of a row that does not count: its exponential is zero beside any other.
_ABSENT = -1e9


class SomeClasses(NamedTuple):
    """Consecutive classes."""

    proxies: Tensor
    """(c, D), or (c, K, D) with several rows for each class."""
    labels: Tensor
    """(G,) int64, counted from the first of them."""
    everything: bool
    """Whether these are all classes, so that every label is among them."""

    def own(self) -> tuple[Tensor, Tensor | None]:
        """(G, 1) column of the own class, or some column where it is not among them, and (G, 1) whether it is.

        None instead of the latter where all are.
        """
        if self.everything:
            return self.labels[:, None], None
        inside = (self.labels >= 0) & (self.labels < len(self.proxies))
        return self.labels.clamp(0, len(self.proxies) - 1)[:, None], inside[:, None]

    def logsumexp_of_others(self, logits: Tensor) -> Tensor:
        """(G, c) -> (G,), -inf never: at least two classes come in. Overwrites the logits."""
        column, inside = self.own()
        if inside is None:
            return logits.scatter_(1, column, -torch.inf).logsumexp(1)
        return logits.scatter_(1, column, torch.where(inside, -torch.inf, logits.gather(1, column))).logsumexp(1)

    def logsumexp_of_other_rows(self, logits: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        """(G, c), (G,) bool -> (c,) over counted rows of other classes, and where there is one. Overwrites the logits.

        Rows that do not count must be far below the others (`counted_products`). A class without others has an
        arbitrary finite number with zero gradient.
        """
        column, inside = self.own()
        weight = torch.ones_like(self.labels) if counted is None else counted.long()
        own = weight if inside is None else weight * inside[:, 0]
        num_own = weight.new_zeros(len(self.proxies)).index_add(0, column[:, 0], own)
        has_others = num_own < weight.sum()
        filler = torch.where(has_others.index_select(0, column[:, 0])[:, None], -torch.inf, 0.0).to(logits.dtype)
        if inside is not None:
            filler = torch.where(inside, filler, logits.gather(1, column))
        return logits.scatter_(1, column, filler).logsumexp(0), has_others


def unit_proxies(proxies: Tensor) -> Tensor:
    """Rows scaled to unit length: only the directions of proxies count."""
    return torch.nn.functional.normalize(full_precision(proxies), dim=-1)


def class_directions(embeddings: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
    """(G, D), (G,), unit (C, D) or (C, K, D) -> (G, D): the proxy of each class, of several the nearest."""
    own = proxies.index_select(0, labels)
    if proxies.ndim == 2:
        return own
    nearest = (own * full_precision(embeddings)[:, None, :]).sum(2).argmax(1)
    return own.gather(1, nearest[:, None, None].expand(-1, 1, own.shape[2])).squeeze(1)


def parts_over_classes(
    function: Callable[[Tensor, SomeClasses], Tensor], embeddings: Tensor, labels: Tensor, proxies: Tensor
) -> list[Tensor]:
    """The function of consecutive classes: all at once where they fit, else in even chunks of at least two."""
    num_rows = proxies.shape[:-1].numel()
    num_chunks = -(-len(embeddings) * num_rows // _LARGEST)
    num_chunks = max(1, min(num_chunks, len(proxies) // 2))
    if num_chunks == 1:
        return [function(embeddings, SomeClasses(proxies, labels, everything=True))]
    parts, first = [], 0
    for chunk in proxies.tensor_split(num_chunks):
        classes = SomeClasses(chunk, labels - first, everything=False)
        part: Tensor = checkpoint(function, embeddings, classes, use_reentrant=False)
        parts.append(part)
        first += len(chunk)
    return parts


def counted_products(rows: Tensor, proxies: Tensor, counted: Tensor | None) -> Tensor:
    """(G, D), (c, D), (G,) bool -> (G, c) inner products; those of rows that do not count are beyond any exponent.

    The product itself adds the offset: masks would be two more passes over (G, c).
    """
    if counted is None:
        return cosine(rows, proxies)
    offset = torch.where(counted, 0.0, _ABSENT).to(rows.dtype)[:, None]
    with outside_autocast(rows.device):
        return torch.addmm(offset, rows, proxies.T)


def mean_of_counted(terms: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of the terms of (G,) rows that count; of all where None, of nothing zero."""
    return terms.mean() if counted is None else masked_mean(terms, counted)


def own_class(embeddings: Tensor, labels: Tensor, proxies: Tensor) -> Tensor:
    """(G,) inner products of embeddings with the rows of their own classes."""
    return (full_precision(embeddings) * proxies.index_select(0, labels)).sum(1)


def logsumexp_of_others(
    embeddings: Tensor,
    labels: Tensor,
    proxies: Tensor,
    *,
    scale: float,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(G,) log-sum-exp over the other classes of scale * cosine, `change` applied to the cosines.

    Needs two classes at least: with one there are no others.
    """

    def part(embeddings: Tensor, classes: SomeClasses) -> Tensor:
        # Scaled before the product where it can be, and the smaller factor: that is one pass over (G, C) less.
        rows = full_precision(embeddings)
        if change is not None:
            return classes.logsumexp_of_others(scale * change(cosine(rows, classes.proxies)))
        few = len(rows) < len(classes.proxies)
        scaled = (scale * rows, classes.proxies) if few else (rows, scale * classes.proxies)
        return classes.logsumexp_of_others(cosine(*scaled))

    parts = parts_over_classes(part, embeddings, labels, proxies)
    return parts[0] if len(parts) == 1 else torch.stack(parts).logsumexp(0)

"""The queries of an evaluation that are shown, with what is nearest to them in their gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from raydml.embedding_files import Rows
from raydml.neighbors import blocks, nearest_in_blocks
from raydml.per_query import QueryMetrics
from raydml.pictures.choice import Kind, choose
from raydml.retrieval import RetrievalProtocol, first_sides
from raydml.splits import Indices


class Hit(NamedTuple):
    """An image that was found."""

    position: int
    """Among the images of the split."""
    similarity: float
    """Cosine."""
    right: bool
    """Whether it is of the class of the query."""


class Query(NamedTuple):
    """A query and what is nearest to it, the nearest first."""

    position: int
    average_precision: float
    """map@r of this query alone; where galleries are drawn, its mean over the draws."""
    hits: tuple[Hit, ...]


Shown = Mapping[Kind, tuple[Query, ...]]


def shown_queries(
    protocol: RetrievalProtocol, rows: Rows, labels: Indices, queries: QueryMetrics, *, count: int, k: int
) -> Shown:
    """At most `count` queries of each kind with their k nearest, exact, fewer where the gallery is smaller.

    `rows` (N, D) are unit embeddings, `queries` their metrics by the protocol. Of a gallery that is drawn, the first
    draw is shown. An image does not find itself.
    """
    assert queries.place is not None
    position: Indices = queries.place.cpu().numpy()
    values = queries.values["map@r"].cpu().numpy()
    query, gallery, own = first_sides(protocol, labels)
    drawn = np.isin(position, query.numpy())
    position, values = position[drawn], values[drawn]
    chosen = choose(values, labels[position], count)
    every = np.concatenate(list(chosen.values()))
    row_of = torch.full((len(labels),), -1)
    row_of[query] = own
    hits = iter(_hits(rows, labels, position[every], gallery, row_of[position[every]], k))
    return {
        kind: tuple(Query(int(position[i]), float(values[i]), next(hits)) for i in places)
        for kind, places in chosen.items()
    }


def _hits(
    rows: Rows, labels: Indices, positions: Indices, gallery: Tensor, own: Tensor, k: int
) -> Iterator[tuple[Hit, ...]]:
    x = torch.from_numpy(rows)
    parts = (x[gallery[part]] for part in blocks(len(gallery), x.shape[1]))
    k = min(k, len(gallery) - int(bool((own >= 0).any())))
    similarity, found = nearest_in_blocks(x[torch.from_numpy(positions)], parts, k, exclude=own)
    for position, places, values in zip(positions, gallery[found].numpy(), similarity.tolist(), strict=True):
        right = labels[places] == labels[position]
        yield tuple(map(Hit, places.tolist(), values, right.tolist()))

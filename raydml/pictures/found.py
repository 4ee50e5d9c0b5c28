"""The queries of an evaluation that are shown, with what is nearest to them in their gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from raydml.embedding_files import Rows
from raydml.neighbors import blocks, nearest_in_blocks
from raydml.per_query import QueryMetrics
from raydml.pictures.choice import Kind, choose
from raydml.retrieval import RandomGallery, RetrievalProtocol, first_sides
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
    draw is shown. As in the metrics, an image finds neither itself nor those of its class and group.
    """
    assert queries.place is not None
    position: Indices = queries.place.cpu().numpy()
    values = queries.values["map@r"].cpu().numpy()
    query, gallery, _ = first_sides(protocol, labels)
    drawn = np.isin(position, query.numpy())
    position, values = position[drawn], values[drawn]
    chosen = choose(values, labels[position], count)
    every = np.concatenate(list(chosen.values()))
    groups = None if isinstance(protocol, RandomGallery) else protocol.groups
    hits = iter(_hits(rows, labels, groups, position[every], gallery.numpy(), k))
    return {
        kind: tuple(Query(int(position[i]), float(values[i]), next(hits)) for i in places)
        for kind, places in chosen.items()
    }


def _hits(
    rows: Rows, labels: Indices, groups: Indices | None, positions: Indices, gallery: Indices, k: int
) -> Iterator[tuple[Hit, ...]]:
    x = torch.from_numpy(rows)
    unwanted = [_unwanted(position, labels, groups, gallery) for position in positions.tolist()]
    # So many more that k are left of any list.
    depth = min(k + max(map(len, unwanted)), len(gallery))
    parts = (x[torch.from_numpy(gallery[part])] for part in blocks(len(gallery), x.shape[1]))
    similarity, found = nearest_in_blocks(x[torch.from_numpy(positions)], parts, depth)
    for position, places, values, out in zip(positions, found.numpy(), similarity.numpy(), unwanted, strict=True):
        kept = ~np.isin(places, out)
        hits = gallery[places[kept][:k]]
        right = labels[hits] == labels[position]
        yield tuple(map(Hit, hits.tolist(), values[kept][:k].tolist(), right.tolist()))


def _unwanted(position: int, labels: Indices, groups: Indices | None, gallery: Indices) -> Indices:
    """Places in the gallery of what a query does not find: itself, and those of its class and group."""
    out = gallery == position
    if groups is not None:
        out |= (labels[gallery] == labels[position]) & (groups[gallery] == groups[position])
    return np.flatnonzero(out)

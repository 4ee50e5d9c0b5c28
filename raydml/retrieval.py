"""Which images are the queries of a split and which its gallery: the protocol that a data set is evaluated by.

Numbers of one protocol are not those of another. Validation and training images have one protocol, every image
against all others; test images have that of their data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from raydml import seeds
from raydml.config import ConfigError, DataConfig, VehicleIdConfig, Wanted
from raydml.data.cache import ImageSet
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY, Roles, may_be
from raydml.data.subsets import Split, Subset
from raydml.metrics import Engine, Labels, Rows, query_metrics
from raydml.neighbors import Index
from raydml.per_query import QueryMetrics
from raydml.splits import Indices

_DEFAULT = Wanted()


@dataclass(frozen=True)
class EveryOther:
    """Every image is a query, and all others are its gallery."""

    groups: Indices | None = field(default=None, compare=False)
    """(N,) such as cameras, of the images of the split: images of one class and group do not find each other."""


@dataclass(frozen=True, eq=False)
class QueryGallery:
    """Queries are found in a gallery. An image that is either is not found by itself."""

    roles: Roles
    """(N,) `raydml.data.listing`, of the images of the split."""

    groups: Indices | None = None
    """As those of `EveryOther`."""


@dataclass(frozen=True)
class RandomGallery:
    """One image of each class, drawn, is the gallery and all others are queries; metrics are means over the draws.

    Every query has one positive: recall@k is the cumulative match characteristic, map@r is recall@1, and mrr is what
    papers on vehicles call mAP.
    """

    num_draws: int


RetrievalProtocol = EveryOther | QueryGallery | RandomGallery


def protocol_of(data: DataConfig, images: ImageSet, subset: Subset, split: Split) -> RetrievalProtocol:
    """The protocol of a split. Raises ConfigError where the roles of test images leave no query or no gallery."""
    groups = every_other(images, subset).groups
    if split == "test" and images.roles is not None:
        return protocol_of_roles(images.roles[subset.index], f"data: the test images of {images.name}", groups)
    if split == "test" and isinstance(data, VehicleIdConfig) and data.gallery == "random":
        return RandomGallery(data.gallery_draws)
    return EveryOther(groups)


def every_other(images: ImageSet, subset: Subset) -> EveryOther:
    """Every image of a subset against all others, as validation has it."""
    return EveryOther(None if images.groups is None else images.groups[subset.index])


def protocol_of_roles(roles: Roles | None, name: str, groups: Indices | None = None) -> RetrievalProtocol:
    """As (N,) roles have it. Raises ConfigError naming the images where none is a query, or none of the gallery."""
    if roles is None or not (roles != ANY_ROLE).any():
        return EveryOther(groups)
    for role, missing in ((QUERY, "query"), (GALLERY, "gallery")):
        if not may_be(roles, role).any():
            raise ConfigError(f"{name}: some have a role, but none is a {missing} image")
    return QueryGallery(roles, groups)


def protocol_metrics(
    protocol: RetrievalProtocol,
    embeddings: Rows,
    labels: Labels,
    *,
    wanted: Wanted = _DEFAULT,
    engine: Engine | Index = "rank",
) -> QueryMetrics:
    """Metrics of unit embeddings (N, D) with labels (N,) by a protocol, query by query.

    `engine` may be an index of the gallery, but not where galleries are drawn. Raises ValueError as `query_metrics`
    does.
    """
    x = torch.as_tensor(embeddings)
    y = torch.as_tensor(labels).to(x.device)
    match protocol:
        case EveryOther(groups):
            return query_metrics(x, y, groups=groups, wanted=wanted, engine=engine)
        case QueryGallery():
            query, gallery, own = sides_of(protocol)
            sides = (x[query], y[query], x[gallery], y[gallery])
            places = query.numpy(), gallery.numpy()  # NumPy takes a tensor of one number for that number
            groups, gallery_groups = (None if protocol.groups is None else protocol.groups[i] for i in places)
            found = query_metrics(
                *sides, own=own, groups=groups, gallery_groups=gallery_groups, wanted=wanted, engine=engine
            )
            assert found.place is not None
            return found._replace(place=query[found.place.cpu()])
        case RandomGallery(num_draws):
            wanted = replace(wanted, mrr=True)
            draws = (
                (query, query_metrics(x[query], y[query], x[drawn], y[drawn], wanted=wanted, engine=engine))
                for query, drawn in _draws(y.cpu().numpy(), num_draws)
            )
            return _averaged(draws, y, num_draws)
        case _:
            assert_never(protocol)


def sides_of(protocol: QueryGallery) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the queries (Q,) and of the gallery (M,), and the row of the gallery that each query is, else -1."""
    query, gallery = (torch.from_numpy(np.flatnonzero(may_be(protocol.roles, role))) for role in (QUERY, GALLERY))
    row = torch.full((len(protocol.roles),), -1)
    row[gallery] = torch.arange(len(gallery))
    return query, gallery, row[query]


def first_sides(protocol: RetrievalProtocol, labels: Indices) -> tuple[Tensor, Tensor, Tensor]:
    """As `sides_of`, by any protocol; of a drawn gallery the first draw."""
    match protocol:
        case EveryOther():
            every = torch.arange(len(labels))
            return every, every, every
        case QueryGallery():
            return sides_of(protocol)
        case RandomGallery():
            query, gallery = next(_draws(labels, 1))
            return query, gallery, torch.full((len(query),), -1)
        case _:
            assert_never(protocol)


def _draws(labels: Indices, num_draws: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions of the queries and of the gallery. The same for every model: no training's seed has a part in them."""
    order = np.argsort(labels, kind="stable")
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    if sizes.max(initial=0) < 2:
        raise ValueError("no query has a positive: every class has one image, and that is its gallery")
    for draw in range(num_draws):
        gallery = order[first + seeds.stream(seeds.Purpose.GALLERY, draw).integers(sizes)]
        query = np.delete(np.arange(len(labels)), gallery)
        yield torch.from_numpy(query), torch.from_numpy(gallery)


def _averaged(draws: Iterable[tuple[Tensor, QueryMetrics]], labels: Tensor, num_draws: int) -> QueryMetrics:
    """Of every image that was a query, over the draws in which it was one. In a drawn gallery all have a positive."""
    times = torch.zeros_like(labels, dtype=torch.int64)
    sums: dict[str, Tensor] = {}
    for query, found in draws:
        times[query] += 1
        for name, values in found.values.items():
            sums.setdefault(name, values.new_zeros(len(labels)))[query] += values
    rows = times.nonzero()[:, 0]
    means = {name: total[rows] / times[rows] for name, total in sums.items()}
    return QueryMetrics(means, labels[rows].long(), 0, times[rows], num_draws, rows)


def facts_of(protocol: RetrievalProtocol, labels: Indices) -> dict[str, str | int]:
    """What a reader must know to compare numbers: the name of the protocol, and how many images are what."""
    sizes = np.unique(labels, return_counts=True)[1]
    match protocol:
        case EveryOther(groups):
            return {"protocol": "every other image", "num_images": len(labels), **_facts_of_groups(groups)}
        case QueryGallery(roles, groups):
            query, gallery = (labels[may_be(roles, role)] for role in (QUERY, GALLERY))
            return _facts_of_groups(groups) | {
                "protocol": "query against gallery",
                "num_queries": len(query),
                "num_gallery": len(gallery),
                "num_gallery_classes_without_query": len(np.setdiff1d(gallery, query)),
            }
        case RandomGallery(num_draws):
            return {
                "protocol": "random gallery",
                "num_queries": len(labels) - len(sizes),
                "num_gallery": len(sizes),
                "num_draws": num_draws,
                "num_classes_of_one_image": int((sizes == 1).sum()),
            }
        case _:
            assert_never(protocol)


def _facts_of_groups(groups: Indices | None) -> dict[str, str | int]:
    # A row without a group of its own kind has a negative one to itself.
    return {} if groups is None else {"num_groups": len(np.unique(groups[groups >= 0]))}


def described(protocol: RetrievalProtocol, labels: Indices) -> str:
    """One line for the images of a split, such as `query against gallery: 14,218 queries, 12,612 gallery images`."""
    facts = facts_of(protocol, labels)
    apart = "; images of one class and group do not find each other" if "num_groups" in facts else ""
    match protocol:
        case EveryOther():
            return f"every image against all others: {facts['num_images']:,} images{apart}"
        case QueryGallery():
            sizes = f"{facts['num_queries']:,} queries, {facts['num_gallery']:,} gallery images"
            return f"query against gallery: {sizes}{apart}"
        case RandomGallery(num_draws):
            alone = facts["num_classes_of_one_image"]
            few = f"; {alone:,} of them are all there is of their class, which has no query" if alone else ""
            drawn = "one draw" if num_draws == 1 else f"mean of {num_draws:,} draws"
            return f"random gallery of {facts['num_gallery']:,}, {drawn}: {facts['num_queries']:,} queries{few}"
        case _:
            assert_never(protocol)


def beyond_gallery(protocol: RetrievalProtocol, labels: Indices, wanted: Wanted) -> str | None:
    """A line about ranks that a gallery is too small for: there recall@k is 1 and precision@k cannot be."""
    facts = facts_of(protocol, labels)
    size = int(facts.get("num_gallery", len(labels) - 1))
    ranks = {"recall": wanted.recall_at, "precision": wanted.precision_at, "map": wanted.map_at}
    named = [f"{name}@{k}" for name, at in ranks.items() for k in at if k > size]
    if not named:
        return None
    return f"{', '.join(named)}: a query has only {size:,} images to be found among"

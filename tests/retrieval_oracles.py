"""Protocols of retrieval one query and one candidate at a time, in float64; and sets of images made by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydml.data.cache import ImageSet
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY, Mask, Roles

Row = dict[str, float]


def unit_rows(labels: Sequence[int], *, seed: int, dim: int = 8, spread: float = 0.7) -> tuple[Tensor, Tensor]:
    """Noisy classes: float64 unit rows (N, D) and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(labels)
    centres = torch.randn(int(y.max()) + 1, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(y), dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(centres[y] + spread * noise, dim=1), y


def of_one_query(rows: Tensor, labels: Tensor, query: int, gallery: Iterable[int], ranks: Sequence[int]) -> Row | None:
    """Metrics of a query in a gallery, itself left out by identity; None where it has no positive there."""
    scored = [(float(rows[query] @ rows[j]), bool(labels[j] == labels[query])) for j in gallery if j != query]
    positives = sorted((s for s, same in scored if same), reverse=True)
    if not positives:
        return None
    negatives = [s for s, same in scored if not same]
    places = [i + sum(n >= s for n in negatives) for i, s in enumerate(positives, start=1)]
    num = len(positives)
    return {
        **{f"recall@{k}": float(places[0] <= k) for k in ranks},
        "map@r": sum(i / place for i, place in enumerate(places, start=1) if place <= num) / num,
        "r_precision": sum(place <= num for place in places) / num,
        "mrr": 1 / places[0],
        "tied_queries": float(positives[0] in negatives),
    }


def mean_of(found: Sequence[Row]) -> Row:
    """Of every name."""
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}


def by_roles(rows: Tensor, labels: Tensor, roles: Roles, ranks: Sequence[int]) -> tuple[dict[int, Row], int]:
    """Metrics of every query that has a positive, by position; and how many have none."""
    gallery = [i for i, role in enumerate(roles) if role in (GALLERY, ANY_ROLE)]
    queries = [i for i, role in enumerate(roles) if role in (QUERY, ANY_ROLE)]
    found = {i: of_one_query(rows, labels, i, gallery, ranks) for i in queries}
    usable = {i: row for i, row in found.items() if row is not None}
    return usable, len(found) - len(usable)


def by_draws(rows: Tensor, labels: Tensor, galleries: Sequence[Sequence[int]], ranks: Sequence[int]) -> list[Row]:
    """Metrics of every image, over the draws in which it is a query; empty where it never is."""
    found: dict[int, list[Row]] = defaultdict(list)
    for gallery in galleries:
        for query in set(range(len(labels))) - set(gallery):
            row = of_one_query(rows, labels, query, gallery, ranks)
            assert row is not None
            found[query].append(row)
    return [mean_of(found[i]) | {"times": len(found[i])} if found[i] else {} for i in range(len(labels))]


def image_set(
    labels: Sequence[int],
    *,
    num_training: int,
    roles: Sequence[int] | None = None,
    test_lists: Mapping[str, Sequence[bool]] | None = None,
    name: str = "by hand",
    seed: int = 0,
) -> ImageSet:
    """Random pixels 6 x 6, grey; labels rise."""
    y = np.array(labels, dtype=np.int64)
    pixels: npt.NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 256, (len(y), 6, 6, 1), dtype=np.uint8)
    lists: dict[str, Mask] = {key: np.array(mask, dtype=bool) for key, mask in (test_lists or {}).items()}
    return ImageSet(
        name=name,
        images=pixels,
        labels=y,
        classes=tuple(f"class {label}" for label in range(y.max() + 1)),
        sources=tuple(f"{place}.jpg" for place in range(len(y))),
        sizes=tuple(np.bincount(y).tolist()),
        fingerprint="0",
        synthetic=False,
        num_training=num_training,
        roles=None if roles is None else np.array(roles, dtype=np.int8),
        test_lists=lists,
    )

"""Which metrics are wanted, by name: `map`, `mrr`, `map@100`, `precision@10`, `nmi`, `silhouette` ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Of each query, beside recall@k, map@r and r_precision, which are always there.
OF_QUERIES = ("map", "mrr", "map@K", "precision@K")
# Of a whole set of embeddings.
OF_CLUSTERS = ("nmi", "ami", "f1")
OF_GEOMETRY = ("distances", "spectral_decay", "silhouette")
# What of those a class has: of all its rows, where other metrics of a class are means over its queries.
OF_CLASSES = ("intra_distance", "silhouette")

_LARGEST_RANK = 2**31 - 1
_AT_RANK = re.compile(r"(map|precision)@([1-9][0-9]*)")


@dataclass(frozen=True)
class Wanted:
    """The metrics of an evaluation."""

    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    precision_at: tuple[int, ...] = ()
    map_at: tuple[int, ...] = ()
    full_map: bool = False
    """Average precision over all ranks."""
    mrr: bool = False
    whole: tuple[str, ...] = ()
    """Of OF_CLUSTERS and OF_GEOMETRY."""


def wanted_metrics(recall_at: Sequence[int], names: Sequence[str] = ()) -> Wanted:
    """Raises ValueError that lists the known names for one that is unknown, and for a rank that is none."""
    at: dict[str, list[int]] = {"map": [], "precision": []}
    known = {"map", "mrr", *OF_CLUSTERS, *OF_GEOMETRY}
    for name in names:
        if found := _AT_RANK.fullmatch(name):
            at[found[1]].append(int(found[2]))
        elif name not in known:
            listed = ", ".join((*OF_QUERIES, *OF_CLUSTERS, *OF_GEOMETRY))
            raise ValueError(f"metrics must be of {listed} (K a rank), but got {name!r}")
    for rank in (*recall_at, *at["map"], *at["precision"]):
        if not 1 <= rank <= _LARGEST_RANK:
            raise ValueError(f"ranks must be in 1 ... {_LARGEST_RANK}, but got {rank}")
    return Wanted(
        tuple(recall_at),
        tuple(sorted(set(at["precision"]))),
        tuple(sorted(set(at["map"]))),
        "map" in names,
        "mrr" in names,
        tuple(name for name in (*OF_CLUSTERS, *OF_GEOMETRY) if name in names),
    )

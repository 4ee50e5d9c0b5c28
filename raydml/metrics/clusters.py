"""How well clusters of embeddings agree with the classes: NMI, AMI and the F1 score of pairs.

k-means has a start, so these numbers have a deviation from seed to seed that ranks do not have: about 0.002 for NMI.
Musgrave, Belongie and Lim (2020) advise against them; they are here to be compared with papers that report them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from raydml.config.wanted import OF_CLUSTERS
from raydml.metrics.classes import checked_partition, checked_set
from raydml.metrics.inputs import Labels, Rows
from raydml.neighbors import clusters
from raydml.splits import Indices


def nmi(labels: Labels, assigned: Labels) -> float:
    """Normalised mutual information of two partitions (N,) in [0, 1]: over the arithmetic mean of their entropies."""
    return float(normalized_mutual_info_score(*_both(labels, assigned)))


def ami(labels: Labels, assigned: Labels) -> float:
    """Adjusted mutual information (Vinh, Epps, Bailey 2010): 0 for chance, 1 for equal partitions (N,).

    Its cost grows with the number of classes times the number of clusters.
    """
    return float(adjusted_mutual_info_score(*_both(labels, assigned)))


def pairwise_f1(labels: Labels, assigned: Labels) -> float:
    """F1 score of pairs: those in one cluster against those of one class; both partitions (N,), in [0, 1].

    2 S / (P + T) with S pairs in one cluster and of one class, P pairs in one cluster, T pairs of one class (Manning,
    Raghavan, Schuetze 2008, 16.3). 1 where no partition has a pair: they are equal then.
    """
    table = contingency_matrix(*_both(labels, assigned), sparse=True, dtype=np.int64)
    same, of_class, of_cluster = (_pairs(counts) for counts in (table.data, table.sum(1), table.sum(0)))
    return 1.0 if of_class + of_cluster == 0 else 2 * same / (of_class + of_cluster)


_SCORES: Mapping[str, Callable[[Labels, Labels], float]] = {"nmi": nmi, "ami": ami, "f1": pairwise_f1}


def cluster_metrics(
    rows: Rows,
    labels: Labels,
    *,
    names: Sequence[str] = ("nmi", "f1"),
    num_clusters: int | None = None,
    iterations: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    """Of `nmi`, `ami` and `f1` those that are named, of embeddings (N, D) with labels (N,), scaled to unit length.

    The clusters are those of spherical k-means, as many as there are classes where `num_clusters` is None. Raises
    ValueError for an unknown name, more clusters than rows, embeddings that are not finite and labels that are no
    integers.
    """
    unknown = [name for name in names if name not in OF_CLUSTERS]
    if unknown:
        raise ValueError(f"metrics of clusters are {', '.join(OF_CLUSTERS)}, but got {unknown[0]!r}")
    x, y = checked_set(rows, labels)
    count = len(y.unique()) if num_clusters is None else num_clusters
    found = clusters(torch.nn.functional.normalize(x, dim=1), count, iterations=iterations, seed=seed)
    return {name: _SCORES[name](y, found) for name in OF_CLUSTERS if name in names}


def _both(labels: Labels, assigned: Labels) -> tuple[Indices, Indices]:
    return checked_partition(labels, len(labels)), checked_partition(assigned, len(labels))


def _pairs(sizes: npt.NDArray[np.int64]) -> int:
    """Of each size n the n (n - 1) / 2 pairs, added up."""
    n = np.asarray(sizes, dtype=np.int64)
    return int((n * (n - 1) // 2).sum())

"""Clusters of embeddings for metrics: spherical k-means of faiss, which is quick at as many clusters as classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raydml.neighbors.library import as_array, load_faiss

# An iteration that gains less than this share of the objective is the last one: NMI no longer moves by more than it
# does from seed to seed.
_GAIN = 1e-3
# faiss would cluster a sample of 256 rows a cluster; all rows are meant.
_ALL_ROWS = 2**31 - 1
# faiss counts them in an int; the gain ends them long before.
_MOST_ITERATIONS = 2**31 - 1


def clusters(rows: Tensor, num_clusters: int, *, iterations: int = 10, seed: int = 0) -> Tensor:
    """Spherical k-means of unit rows (N, D) from random rows: the cluster of each row, (N,) int64 in [0, K).

    At most so many iterations, fewer where the objective hardly grows. On the GPU of the rows where faiss sees it.
    The same seed gives the same clusters. Raises ValueError where there are more clusters than rows.
    """
    if not 1 <= num_clusters <= len(rows):
        raise ValueError(f"num_clusters must be in 1 ... {len(rows)}, the rows, but got num_clusters={num_clusters}")
    faiss, x = load_faiss(), as_array(rows)
    options = faiss.ClusteringParameters()
    options.spherical, options.niter, options.seed = True, min(iterations, _MOST_ITERATIONS), seed % 2**31
    options.early_stop_threshold = _GAIN
    options.min_points_per_centroid, options.max_points_per_centroid = 1, _ALL_ROWS
    clustering = faiss.Clustering(x.shape[1], num_clusters, options)
    index = _index(rows)
    clustering.train(x, index)
    _, found = index.search(x, 1)
    return torch.from_numpy(found[:, 0]).to(rows.device)


def _index(rows: Tensor) -> Any:  # noqa: ANN401
    """Of centroids, searched by inner product where the rows are."""
    faiss = load_faiss()
    flat = faiss.IndexFlatIP(rows.shape[1])
    if rows.is_cuda and faiss.get_num_gpus() > 0:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), rows.device.index or 0, flat)
    return flat

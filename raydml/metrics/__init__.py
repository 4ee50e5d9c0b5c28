"""Metrics of embeddings as pure functions of tensors or arrays: no Ray, no files, no loaders."""

from __future__ import annotations

from raydml.metrics.clusters import ami, cluster_metrics, nmi, pairwise_f1
from raydml.metrics.geometry import Geometry, distance_metrics, geometry, silhouettes, spectral_decay
from raydml.metrics.inputs import Labels, Rows
from raydml.metrics.ranks import Engine, query_metrics, retrieval_metrics

__all__ = [
    "Engine",
    "Geometry",
    "Labels",
    "Rows",
    "ami",
    "cluster_metrics",
    "distance_metrics",
    "geometry",
    "nmi",
    "pairwise_f1",
    "query_metrics",
    "retrieval_metrics",
    "silhouettes",
    "spectral_decay",
]

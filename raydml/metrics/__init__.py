"""Metrics of embeddings as pure functions of tensors or arrays: no Ray, no files, no loaders."""

from __future__ import annotations

from raydml.metrics.inputs import Labels, Rows
from raydml.metrics.ranks import Engine, query_metrics, retrieval_metrics

__all__ = ["Engine", "Labels", "Rows", "query_metrics", "retrieval_metrics"]

"""Nearest neighbours by inner product, exact and approximate, and clusters; the only room that knows faiss."""

from __future__ import annotations

from raydml.neighbors.clusters import clusters
from raydml.neighbors.exact import blocks, nearest
from raydml.neighbors.index_plans import Kind, Plan, plan_index
from raydml.neighbors.index_recall import found_shares
from raydml.neighbors.indexes import Index, build_index
from raydml.neighbors.streamed import nearest_in_blocks

__all__ = [
    "Index",
    "Kind",
    "Plan",
    "blocks",
    "build_index",
    "clusters",
    "found_shares",
    "nearest",
    "nearest_in_blocks",
    "plan_index",
]

"""Nearest neighbours by inner product, exact and approximate; the only room that knows faiss."""

from __future__ import annotations

from raydml.neighbors.exact import blocks, nearest

__all__ = ["blocks", "nearest"]

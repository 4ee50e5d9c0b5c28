"""What an index finds of the true neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from raydml.neighbors.exact import nearest
from raydml.neighbors.indexes import Index

# Products of unit rows in float32, summed in another order, differ by less.
_EQUALLY_NEAR = 1e-6


def found_shares(index: Index, query: Tensor, at: Sequence[int], *, exclude: Tensor | None = None) -> dict[int, Tensor]:
    """For each k the share (Q,) float64 of the k nearest rows of each query that are among the first k of the index.

    Rows are unit. One that is as near as the k-th nearest is as good: of equal rows an index may find any. Exact
    neighbours are those of every product, block by block. Raises ValueError as `nearest` does.
    """
    deepest = max(at)
    exact, _ = nearest(query, index.gallery, deepest, exclude=exclude, engine="torch")
    similarity, _ = index.search(query, deepest, exclude=exclude)
    return {k: (similarity[:, :k] >= exact[:, k - 1 : k] - _EQUALLY_NEAR).double().mean(1) for k in at}

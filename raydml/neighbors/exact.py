"""Exact nearest neighbours by inner product, with torch or faiss: two engines, the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from raydml.neighbors.library import Searched, as_array, flat_index

Engine = Literal["auto", "torch", "faiss"]

# One block of similarities: 16 MiB of float32, near what a core's caches hold; a few of them live at a time.
_BLOCK_ENTRIES = 2**22


def nearest(
    query: Tensor, gallery: Tensor, k: int, *, exclude: Tensor | None = None, engine: Engine = "auto"
) -> tuple[Tensor, Tensor]:
    """The k most similar gallery rows of each query: similarity (Q, k) in falling order, index (Q, k) int64.

    query (Q, D), gallery (M, D); `exclude` (Q,) is one gallery row that must not be returned, such as the query
    itself, or -1. Equal similarities come in rising order of index. `auto` is torch on a GPU and faiss elsewhere.
    Raises ValueError where fewer than k rows can be returned. `build_index` is for a gallery that is searched often.
    """
    require_available(len(gallery), k, exclude)
    if engine == "auto":
        engine = "torch" if query.is_cuda else "faiss"
    if engine == "torch":
        return by_similarity_then_index(*_nearest_torch(query, gallery, k, exclude))
    return nearest_in(flat_index(gallery), query, gallery, k, exclude)


def require_available(num_rows: int, k: int, exclude: Tensor | None) -> None:
    """Raises ValueError where a gallery of so many rows has fewer than k to return."""
    available = num_rows - int(exclude is not None)
    if not 1 <= k <= available:
        raise ValueError(f"k must be in 1 ... {available}, the rows that can be returned, but got k={k}")


def blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Row blocks whose products with `num_columns` columns fit the memory budget: at least 16 rows but for the last."""
    size = max(16, _BLOCK_ENTRIES // max(1, num_columns))
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def _nearest_torch(query: Tensor, gallery: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    found: list[tuple[Tensor, Tensor]] = []
    for rows in blocks(len(query), len(gallery)):
        similarity = query[rows] @ gallery.T
        if exclude is not None:
            those = (exclude[rows] >= 0).nonzero()[:, 0]
            similarity[those, exclude[rows][those]] = -torch.inf
        found.append(first_of_equals(similarity, k))
    return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])


def first_of_equals(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (Q, M), in no order among equals; where a tie is cut, those of the lowest index.

    topk does not promise that.
    """
    values, index = similarity.topk(k, dim=1)
    last = values[:, -1:]
    cut = ((similarity >= last).sum(1) > k).nonzero()[:, 0]
    if len(cut):
        rows = similarity[cut]
        above = rows > last[cut]
        equal = rows == last[cut]
        wanted = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
        index[cut] = wanted.nonzero()[:, 1].view(len(cut), k)
        values[cut] = rows.gather(1, index[cut])
    return values, index


def nearest_in(flat: Searched, query: Tensor, gallery: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `nearest`, from faiss's exact index of the gallery."""
    # One more than needed shows where a list ends amid equal similarities; faiss keeps any of them.
    depth = min(k + int(exclude is not None) + 1, len(gallery))
    values, index = flat.search(as_array(query), depth)
    similarity, indices = torch.from_numpy(values).to(query.device), torch.from_numpy(index).to(query.device)
    last = similarity[:, -1] if depth > k else torch.full_like(similarity[:, -1], torch.nan)
    if exclude is not None:
        similarity, indices = _without(similarity, indices, exclude)
    similarity, indices = similarity[:, :k].contiguous(), indices[:, :k].contiguous()
    cut = (similarity[:, -1] == last).nonzero()[:, 0]
    if len(cut):
        exact = _nearest_torch(query[cut].float(), gallery.float(), k, None if exclude is None else exclude[cut])
        similarity[cut], indices[cut] = exact
    return by_similarity_then_index(similarity, indices)


def _without(similarity: Tensor, index: Tensor, exclude: Tensor) -> tuple[Tensor, Tensor]:
    """Drops the excluded row from k + 1 neighbours, or the last one where it is not among them."""
    unwanted = index == exclude[:, None]
    unwanted[:, -1] |= ~unwanted.any(1)
    shape = (len(index), index.shape[1] - 1)
    return similarity[~unwanted].view(shape), index[~unwanted].view(shape)


def by_similarity_then_index(similarity: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Lists in falling order of similarity; where it is equal, in rising order of index."""
    index, order = index.sort(1)
    similarity, order = similarity.gather(1, order).sort(dim=1, descending=True, stable=True)
    return similarity, index.gather(1, order)

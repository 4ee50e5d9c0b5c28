"""Exact nearest neighbours by inner product, with torch or faiss: two engines, the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Engine = Literal["auto", "torch", "faiss"]

# One block of similarities: 16 MiB of float32, near what a core's caches hold; a few of them live at a time.
_BLOCK_ENTRIES = 2**22


def nearest(
    query: Tensor, gallery: Tensor, k: int, *, exclude: Tensor | None = None, engine: Engine = "auto"
) -> tuple[Tensor, Tensor]:
    """The k most similar gallery rows of each query: similarity (Q, k) in falling order, index (Q, k) int64.

    query (Q, D), gallery (M, D); `exclude` (Q,) is one gallery row that must not be returned, such as the query
    itself. Equal similarities come in rising order of index. `auto` is torch on a GPU and faiss elsewhere.
    Raises ValueError where fewer than k rows can be returned.
    """
    available = len(gallery) - int(exclude is not None)
    if not 1 <= k <= available:
        raise ValueError(f"k must be in 1 ... {available}, the rows that can be returned, but got k={k}")
    if engine == "auto":
        engine = "torch" if query.is_cuda else "faiss"
    find = _nearest_torch if engine == "torch" else _nearest_faiss
    return _by_similarity_then_index(*find(query, gallery, k, exclude))


def blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Row blocks whose products with `num_columns` columns fit the memory budget: at least 16 rows but for the last."""
    size = max(16, _BLOCK_ENTRIES // max(1, num_columns))
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def _nearest_torch(query: Tensor, gallery: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    found: list[tuple[Tensor, Tensor]] = []
    for rows in blocks(len(query), len(gallery)):
        similarity = query[rows] @ gallery.T
        if exclude is not None:
            similarity.scatter_(1, exclude[rows, None], -torch.inf)
        found.append(_first_of_equals(similarity, k))
    return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])


def _first_of_equals(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row; where a tie is cut, those of the lowest index, which topk does not promise."""
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


def _nearest_faiss(query: Tensor, gallery: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    import faiss

    flat = faiss.IndexFlatIP(gallery.shape[1])
    flat.add(gallery.detach().float().cpu().contiguous().numpy())
    extra = 0 if exclude is None else 1
    # One more than needed shows where a list ends amid equal similarities; faiss keeps any of them.
    depth = min(k + extra + 1, len(gallery))
    values, index = flat.search(query.detach().float().cpu().contiguous().numpy(), depth)
    similarity, indices = torch.from_numpy(values).to(query.device), torch.from_numpy(index).to(query.device)
    cut = (similarity[:, -1] == similarity[:, k - 1]).nonzero()[:, 0] if depth > k else similarity.new_zeros(0).long()
    if exclude is not None:
        similarity, indices = _without(similarity, indices, exclude)
    similarity, indices = similarity[:, :k].contiguous(), indices[:, :k].contiguous()
    if len(cut):
        exact = _nearest_torch(query[cut].float(), gallery.float(), k, None if exclude is None else exclude[cut])
        similarity[cut], indices[cut] = exact
    return similarity, indices


def _without(similarity: Tensor, index: Tensor, exclude: Tensor) -> tuple[Tensor, Tensor]:
    """Drops the excluded row from k + 1 neighbours, or the last one where it is not among them."""
    unwanted = index == exclude[:, None]
    unwanted[:, -1] |= ~unwanted.any(1)
    shape = (len(index), index.shape[1] - 1)
    return similarity[~unwanted].view(shape), index[~unwanted].view(shape)


def _by_similarity_then_index(similarity: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    index, order = index.sort(1)
    similarity, order = similarity.gather(1, order).sort(dim=1, descending=True, stable=True)
    return similarity, index.gather(1, order)

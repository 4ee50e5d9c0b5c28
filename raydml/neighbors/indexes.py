"""Indexes of a gallery that are built once and searched often: exact (`flat`) and approximate, all by faiss.

Everything is by inner product. The same rows, seed and number of threads give the same index and the same lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from raydml.neighbors.exact import blocks, by_similarity_then_index, nearest_in, require_available
from raydml.neighbors.index_plans import CODE_WORDS, GRAPH_DEGREE, Kind, Plan, plan_index
from raydml.neighbors.library import Searched, as_array, flat_index, load_faiss

# Candidates of the codes that are looked at again with their exact products: for each neighbour, and at least.
_CANDIDATES_PER_NEIGHBOUR = 4
_FEWEST_CANDIDATES = 100
# More rows than these train centroids for longer, and no better that one could measure.
_TRAINED_ON_PER_CENTROID = 64


@dataclass(frozen=True, eq=False)
class Index:
    """Rows of a gallery, ready to be searched."""

    plan: Plan
    gallery: Tensor
    """(M, D), as it was given."""
    built: Searched
    """faiss's index."""

    def search(self, query: Tensor, k: int, *, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k most similar rows that are found: similarity (Q, k) float32 in falling order, index (Q, k) int64.

        `exclude` (Q,) is one row that must not be returned, -1 for none. Equal similarities come in rising order of
        index. Where an approximate index finds fewer than k, the list ends with similarities of -inf and indices of -1.
        Raises ValueError where the gallery has fewer than k rows to return.
        """
        require_available(len(self.gallery), k, exclude)
        if self.plan.kind == "flat":
            return nearest_in(self.built, query, self.gallery, k, exclude)
        similarity, index = self._candidates(query, k + int(exclude is not None))
        if exclude is not None:
            similarity = similarity.masked_fill(index == exclude[:, None], -torch.inf)
        similarity, index = by_similarity_then_index(similarity, index)
        similarity, index = similarity[:, :k].contiguous(), index[:, :k].contiguous()
        return similarity, index.masked_fill(similarity == -torch.inf, -1)

    def _candidates(self, query: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        if self.plan.kind != "ivf_pq":
            return self._found(query, depth)
        wanted = min(max(_CANDIDATES_PER_NEIGHBOUR * depth, _FEWEST_CANDIDATES), len(self.gallery))
        parts = [self._ranked_again(query[rows], wanted, depth) for rows in blocks(len(query), wanted * query.shape[1])]
        return torch.cat([values for values, _ in parts]), torch.cat([index for _, index in parts])

    def _ranked_again(self, query: Tensor, wanted: int, depth: int) -> tuple[Tensor, Tensor]:
        """The nearest of the candidates by their exact products. No product of matrices: equal rows stay equal."""
        _, index = self._found(query, wanted)
        rows = self.gallery[index.clamp(min=0)].float()
        similarity = rows.mul_(query.float()[:, None]).sum(2).masked_fill(index < 0, -torch.inf)
        similarity, index = by_similarity_then_index(similarity, index)
        return similarity[:, :depth], index[:, :depth]

    def _found(self, query: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        load_faiss()
        values, found = self.built.search(as_array(query), depth)
        index = torch.from_numpy(found).to(query.device)
        return torch.from_numpy(values).to(query.device).masked_fill(index < 0, -torch.inf), index


def build_index(
    gallery: Tensor,
    kind: Kind = "flat",
    *,
    depth: int = 100,
    nprobe: int | None = None,
    ef_search: int | None = None,
    seed: int = 0,
) -> Index:
    """An index of gallery rows (M, D), on the GPU where faiss has one and it pays; `plan` says what it became.

    `flat` is exact. `ivf` looks into the `nprobe` nearest cells; `ivf_pq` does so in codes of a byte for eight
    dimensions and ranks the best again by their exact products; `hnsw` walks a graph, keeping `ef_search` candidates.
    Searches may ask for any k, but `nprobe` is chosen for lists of `depth`. Raises ValueError where the gallery is
    empty, or nprobe is more than there are cells.
    """
    if gallery.ndim != 2 or 0 in gallery.shape:
        raise ValueError(f"a gallery must be (M, D) with M and D at least 1, but got {tuple(gallery.shape)}")
    plan = plan_index(
        kind,
        *gallery.shape,
        depth=depth,
        nprobe=nprobe,
        ef_search=ef_search,
        num_gpus=load_faiss().get_num_gpus(),
        on_cuda=gallery.is_cuda,
    )
    if plan.kind == "flat":
        return Index(plan, gallery, _placed(flat_index(gallery), plan, gallery))
    # Before it is trained: a GPU that searches it trains it, too.
    index = _placed(_empty(plan, len(gallery), gallery.shape[1], seed), plan, gallery)
    if plan.num_cells:
        index.train(as_array(_drawn(plan, gallery, seed)))
    if plan.kind == "hnsw":
        # Threads that enter rows side by side would make another graph each time.
        load_faiss().omp_set_num_threads(1)
    index.add(as_array(gallery))
    return Index(plan, gallery, index)


def _empty(plan: Plan, num_rows: int, dim: int, seed: int) -> Searched:
    """On the CPU, where every kind can be made."""
    faiss = load_faiss()
    if plan.kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dim, GRAPH_DEGREE, faiss.METRIC_INNER_PRODUCT)
        # A search takes memory for all of them, and there are no more than rows.
        graph.hnsw.efSearch = min(plan.ef_search, num_rows)
        return cast("Searched", graph)
    sizes = (faiss.IndexFlatIP(dim), dim, plan.num_cells, *((plan.code_bytes, 8) if plan.code_bytes else ()))
    build = faiss.IndexIVFPQ if plan.code_bytes else faiss.IndexIVFFlat
    cells = build(*sizes, faiss.METRIC_INNER_PRODUCT)
    cells.nprobe, cells.cp.seed, cells.cp.spherical = plan.nprobe, seed, True
    return cast("Searched", cells)


def _placed(index: Searched, plan: Plan, gallery: Tensor) -> Searched:
    """Where it is searched: on the GPU of the rows, or the first, if that is the plan."""
    if not plan.on_gpu:
        return index
    faiss = load_faiss()
    return cast("Searched", faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), gallery.device.index or 0, index))


def _drawn(plan: Plan, gallery: Tensor, seed: int) -> Tensor:
    """The rows that the cells and the code words are found from."""
    count = _TRAINED_ON_PER_CENTROID * max(plan.num_cells, CODE_WORDS if plan.code_bytes else 0)
    order = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(seed))
    return gallery[order[:count].to(gallery.device)]

"""Indexes against a sort of everything: exact where all is looked into, ordered, the same every time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydml.neighbors import Index, Kind, build_index, nearest
from tests.index_cases import KINDS, MANY, by_sorting, clustered, codes

all_kinds = pytest.mark.parametrize("kind", KINDS)
# So much that nothing can be missed.
THOROUGH: dict[Kind, dict[str, int]] = {
    "flat": {},
    "ivf": {"nprobe": 256},
    "ivf_pq": {"nprobe": 256},
    "hnsw": {"ef_search": 2_000},
}


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return clustered(MANY)


@pytest.fixture(scope="module")
def built(rows: Tensor) -> dict[Kind, Index]:
    """Every kind, for one gallery."""
    return {kind: build_index(rows, kind, **THOROUGH[kind]) for kind in KINDS}


@all_kinds
@pytest.mark.parametrize("excluding", [False, True])
def test_an_index_that_looks_everywhere_finds_the_nearest(
    kind: Kind, excluding: bool, rows: Tensor, built: dict[Kind, Index], device: torch.device
) -> None:
    drawn = torch.arange(0, MANY, 250)
    exclude = drawn.clone() if excluding else None
    if exclude is not None:
        exclude[::3] = -1
    index = built[kind] if device.type == "cpu" else build_index(rows.to(device), kind, **THOROUGH[kind])
    similarity, found = index.search(
        rows[drawn].to(device), 10, exclude=None if exclude is None else exclude.to(device)
    )
    values, indices = by_sorting(rows[drawn], rows, 10, exclude)
    if kind == "ivf_pq":
        shared = (found.cpu()[:, :, None] == indices[:, None, :]).sum() / indices.numel()
        assert shared > 0.95, "codes may lose a few"
    else:
        assert torch.equal(found.cpu(), indices)
    assert (similarity.dtype, found.dtype, found.device.type) == (torch.float32, torch.int64, device.type)
    torch.testing.assert_close(similarity[:, 0].cpu().double(), values[:, 0], rtol=0, atol=1e-6)


@all_kinds
def test_similarities_are_the_products_of_the_rows_that_are_named(
    kind: Kind, rows: Tensor, built: dict[Kind, Index]
) -> None:
    """Also where candidates came from codes: they were looked at again."""
    similarity, found = built[kind].search(rows[:50], 20)
    products = (rows[found] * rows[:50, None]).sum(2)
    torch.testing.assert_close(similarity, products, rtol=0, atol=1e-6)
    assert bool((similarity.diff(dim=1) <= 0).all())


@all_kinds
def test_equal_similarities_come_in_rising_order_of_index(kind: Kind) -> None:
    gallery = codes(MANY)
    similarity, found = build_index(gallery, kind).search(gallery[:40], 30, exclude=torch.arange(40))
    tied = similarity.diff(dim=1) == 0
    assert bool(tied.any())
    assert bool((found.diff(dim=1) > 0)[tied].all())
    assert not bool((found == torch.arange(40)[:, None]).any())


def test_exact_lists_are_those_of_nearest_where_a_tie_is_cut() -> None:
    gallery = codes(300)
    own = torch.arange(300)
    index = build_index(gallery)
    for k in (1, 7, 299):
        similarity, found = index.search(gallery, k, exclude=own)
        assert torch.equal(found, by_sorting(gallery, gallery, k, own)[1])
        for engine in ("torch", "faiss"):
            again = nearest(gallery, gallery, k, exclude=own, engine=engine)
            assert torch.equal(again[0], similarity)
            assert torch.equal(again[1], found)


@all_kinds
def test_the_same_rows_and_seed_give_the_same_lists(kind: Kind, rows: Tensor) -> None:
    options = {"nprobe": 3} if kind in ("ivf", "ivf_pq") else {"ef_search": 4} if kind == "hnsw" else {}
    first, second = (build_index(rows, kind, seed=5, **options).search(rows[::50], 20) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_another_seed_draws_other_rows_to_train_on(rows: Tensor) -> None:
    few = rows[:200].repeat(8, 1) + 1e-3 * rows[:1600]
    lists = [build_index(few, "ivf", nprobe=1, seed=seed).search(few, 30)[1] for seed in (0, 1)]
    assert not torch.equal(lists[0], lists[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_matter(threads: int, rows: Tensor) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = build_index(rows[:2000], "hnsw", ef_search=4).search(rows[:200], 20)[1]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, build_index(rows[:2000], "hnsw", ef_search=4).search(rows[:200], 20)[1])


def test_a_list_that_is_not_full_ends_with_nothing(rows: Tensor) -> None:
    """One cell of 51 holds some 39 rows of 2,000."""
    index = build_index(rows[:2000], "ivf", nprobe=1)
    similarity, found = index.search(rows[:50], 500, exclude=torch.arange(50))
    missing = found == -1
    assert bool(missing.any(1).all())
    assert torch.equal(missing, similarity == -torch.inf)
    assert bool((missing.int().diff(dim=1) >= 0).all())
    for row in found.tolist():
        some = [index for index in row if index >= 0]
        assert len(some) == len(set(some)) > 0
    assert not bool((found == torch.arange(50)[:, None]).any())


@all_kinds
@pytest.mark.parametrize("dim", [1, 7])
def test_any_dimension_can_be_indexed(kind: Kind, dim: int) -> None:
    gallery = clustered(MANY, dim)
    index = build_index(gallery, kind)
    assert index.plan.kind == kind
    assert bool((index.search(gallery[:20], 1)[0] > 1 - 1e-5).all()), "itself, or one in the same direction"


@all_kinds
@pytest.mark.parametrize("count", [1, 2, 30])
def test_small_galleries_are_searched_exactly(kind: Kind, count: int) -> None:
    gallery = clustered(count)
    index = build_index(gallery, kind)
    assert index.plan.kind == (kind if kind in ("flat", "hnsw") else "flat")
    _, found = index.search(gallery, count)
    assert torch.equal(found, by_sorting(gallery, gallery, count)[1])


@all_kinds
@pytest.mark.parametrize(("k", "excluding"), [(0, False), (201, False), (200, True)])
def test_k_must_leave_rows_to_return(kind: Kind, k: int, excluding: bool) -> None:
    gallery = clustered(200)
    exclude = torch.arange(200) if excluding else None
    available = 199 if excluding else 200
    with pytest.raises(ValueError, match=f"k must be in 1 ... {available}, .* got k={k}"):
        build_index(gallery, kind).search(gallery, k, exclude=exclude)


@all_kinds
@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (8,)])
def test_a_gallery_has_rows_and_dimensions(kind: Kind, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"gallery must be \(M, D\) with M and D at least 1, but got"):
        build_index(torch.zeros(shape), kind)


def test_more_candidates_than_rows_are_all_rows() -> None:
    gallery = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    found = build_index(gallery, "hnsw", ef_search=10**12).search(gallery, 5)
    assert torch.equal(found[1], build_index(gallery, "flat").search(gallery, 5)[1])

"""Nearest neighbours: both engines against a sort of everything, and the order of what is equally near."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from raydml.neighbors import blocks, exact, nearest

Engine = Literal["auto", "torch", "faiss"]
Found = tuple[list[list[float]], list[list[int]]]
all_engines = pytest.mark.parametrize("engine", ["auto", "torch", "faiss"])


def random_rows(count: int, *, seed: int) -> Tensor:
    """Unit rows of 9 dimensions, float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 9, generator=generator), dim=1)


def integer_rows(count: int, *, seed: int) -> Tensor:
    """Codes with few different products, hence many ties."""
    return torch.randint(-1, 2, (count, 4), generator=torch.Generator().manual_seed(seed)).float()


def by_sorting(query: Tensor, gallery: Tensor, k: int, exclude: Tensor | None) -> Found:
    """All gallery rows sorted by falling similarity, then rising index; the first k that may be returned."""
    values: list[list[float]] = []
    indices: list[list[int]] = []
    for q, row in enumerate((query.double() @ gallery.double().T).tolist()):
        excluded = None if exclude is None else int(exclude[q])
        order = sorted((j for j in range(len(row)) if j != excluded), key=lambda j: (-row[j], j))
        indices.append(order[:k])
        values.append([row[j] for j in order[:k]])
    return values, indices


@all_engines
@pytest.mark.parametrize("excluding", [False, True])
@pytest.mark.parametrize("k", [1, 7, 59])
def test_neighbours_equal_a_sort(engine: Engine, excluding: bool, k: int, device: torch.device) -> None:
    query, gallery = random_rows(35, seed=0), random_rows(60, seed=1)
    exclude = torch.arange(35) + 3 if excluding else None
    similarity, index = nearest(
        query.to(device), gallery.to(device), k, exclude=None if exclude is None else exclude.to(device), engine=engine
    )
    values, indices = by_sorting(query, gallery, k, exclude)
    assert index.tolist() == indices
    assert index.dtype == torch.int64
    torch.testing.assert_close(similarity.cpu(), torch.tensor(values), rtol=0, atol=1e-6)


@all_engines
@pytest.mark.parametrize("excluding", [False, True])
@pytest.mark.parametrize("k", [1, 8, 80])
def test_equal_similarities_come_in_rising_order_of_index(
    engine: Engine, excluding: bool, k: int, device: torch.device
) -> None:
    rows = integer_rows(81, seed=2)
    exclude = torch.arange(81) if excluding else None
    similarity, index = nearest(
        rows.to(device), rows.to(device), k, exclude=None if exclude is None else exclude.to(device), engine=engine
    )
    assert similarity.tolist() == by_sorting(rows, rows, k, exclude)[0]
    assert torch.equal((rows @ rows.T).gather(1, index.cpu()), similarity.cpu())
    later, earlier = index[:, 1:], index[:, :-1]
    assert bool((later > earlier)[similarity[:, 1:] == similarity[:, :-1]].all())
    assert not excluding or not bool((index.cpu() == torch.arange(81)[:, None]).any())


@all_engines
def test_a_list_that_ends_within_a_tie_holds_its_first_rows(engine: Engine, device: torch.device) -> None:
    rows = integer_rows(81, seed=2)
    _, index = nearest(rows.to(device), rows.to(device), 8, engine=engine)
    assert index.tolist() == by_sorting(rows, rows, 8, None)[1]


@all_engines
def test_an_excluded_row_that_is_far_away_costs_no_neighbour(engine: Engine, device: torch.device) -> None:
    rows = torch.eye(4, device=device)
    far = torch.tensor([3, 3], device=device)
    _, index = nearest(rows[:2] + 0.5 * rows[1:3], rows, 2, exclude=far, engine=engine)
    assert index.tolist() == [[0, 1], [1, 2]]


@all_engines
@pytest.mark.parametrize(("k", "excluding"), [(0, False), (6, False), (5, True), (-1, True)])
def test_k_must_leave_rows_to_return(engine: Engine, k: int, excluding: bool) -> None:
    rows = random_rows(5, seed=3)
    with pytest.raises(ValueError, match=f"k={k}"):
        nearest(rows, rows, k, exclude=torch.arange(5) if excluding else None, engine=engine)


@all_engines
def test_the_size_of_blocks_does_not_matter(
    engine: Engine, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = integer_rows(83, seed=4).to(device)
    whole = nearest(rows, rows, 6, exclude=torch.arange(83, device=device), engine=engine)
    monkeypatch.setattr(exact, "_BLOCK_ENTRIES", 1)
    cut = nearest(rows, rows, 6, exclude=torch.arange(83, device=device), engine=engine)
    assert torch.equal(cut[0], whole[0])
    assert torch.equal(cut[1], whole[1])


def test_blocks_cover_every_row_once_within_the_budget() -> None:
    for num_rows, num_columns in [(0, 5), (1, 1), (15, 2**24), (100, 2**21), (1000, 2**14), (2**20, 100)]:
        parts = list(blocks(num_rows, num_columns))
        assert [row for part in parts for row in range(part.start, part.stop)] == list(range(num_rows))
        sizes = [part.stop - part.start for part in parts]
        assert all(size <= 16 or size * num_columns <= 2**24 for size in sizes)
        assert all(size >= 16 for size in sizes[:-1])

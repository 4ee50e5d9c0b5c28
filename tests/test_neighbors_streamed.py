"""Neighbours of a gallery that comes in blocks: those of the gallery in one piece, ties and all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from raydml.neighbors import nearest, nearest_in_blocks


def grid(count: int, *, device: torch.device, seed: int = 0) -> Tensor:
    """Rows of a few whole numbers: products are exact, and many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, (count, 4), generator=generator).float().to(device)


def in_blocks(rows: Tensor, size: int) -> Iterator[Tensor]:
    return iter(rows.split(size))


@pytest.mark.parametrize("size", [1, 3, 7, 40, 100])
@pytest.mark.parametrize("k", [1, 5, 39])
def test_blocks_of_any_size_find_what_the_whole_finds(size: int, k: int, device: torch.device) -> None:
    query, gallery = grid(9, device=device), grid(40, device=device, seed=1)
    exclude = torch.arange(9, device=device) * 4
    expected = nearest(query, gallery, k, exclude=exclude, engine="torch")
    found = nearest_in_blocks(query, in_blocks(gallery, size), k, exclude=exclude)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_only_some_queries_exclude_a_row(device: torch.device) -> None:
    gallery = torch.eye(3, device=device)
    found = nearest_in_blocks(gallery, in_blocks(gallery, 2), 2, exclude=torch.tensor([0, -1, 2], device=device))
    assert found[1].tolist() == [[1, 2], [1, 0], [0, 1]]


def test_queries_come_in_blocks_too(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydml.neighbors.exact._BLOCK_ENTRIES", 32)
    query, gallery = grid(50, device=device), grid(30, device=device, seed=1)
    own = torch.arange(50, device=device) - 20
    found = nearest_in_blocks(query, in_blocks(gallery, 10), 4, exclude=own.clamp(min=-1, max=29))
    monkeypatch.undo()
    assert torch.equal(
        found[1], nearest_in_blocks(query, in_blocks(gallery, 30), 4, exclude=own.clamp(min=-1, max=29))[1]
    )


def test_more_than_there_are_is_refused(device: torch.device) -> None:
    rows = torch.eye(3, device=device)
    law = "k must be at most the rows that can be returned, but got k={} and a gallery of 3"
    with pytest.raises(ValueError, match=law.format(4)):
        nearest_in_blocks(rows, in_blocks(rows, 2), 4)
    with pytest.raises(ValueError, match=law.format(3)):
        nearest_in_blocks(rows, in_blocks(rows, 2), 3, exclude=torch.tensor([0, -1, -1], device=device))

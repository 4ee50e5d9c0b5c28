"""A tie counts against the query: what collapsed, discrete and duplicated embeddings score."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from raydml.counting import sweep
from raydml.metrics import retrieval_metrics
from tests.test_metrics import RECALL_AT, loop_metrics

Engine = Literal["rank", "faiss"]
both_engines = pytest.mark.parametrize("engine", ["rank", "faiss"])


def collapsed(count: int, dim: int) -> Tensor:
    """The same unit row again and again; its products are no round numbers."""
    row = torch.randn(1, dim, generator=torch.Generator().manual_seed(dim))
    return torch.nn.functional.normalize(row, dim=1).expand(count, dim).contiguous()


@both_engines
def test_a_collapsed_embedding_finds_nothing(engine: Engine, device: torch.device) -> None:
    metrics = retrieval_metrics(collapsed(200, 33).to(device), torch.arange(200) // 4, engine=engine)
    assert metrics["recall@8"] == metrics["map@r"] == metrics["r_precision"] == 0.0
    assert metrics["tied_queries"] == 1.0


@pytest.mark.parametrize("dim", [3, 64, 513])
@pytest.mark.parametrize("remainder", [0, 1, 2, 3, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tie_is_seen_in_every_remainder_of_rows(
    dtype: torch.dtype, remainder: int, dim: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small products may round the same sum differently: tiles of 48 rows, and a few rows left over.
    count = 48 * 3 + remainder
    monkeypatch.setattr(sweep, "_TILE", 48)
    rows = collapsed(count, dim).to(device, dtype)
    metrics = retrieval_metrics(rows, torch.arange(count) // 4)
    assert (metrics["recall@1"], metrics["map@r"], metrics["tied_queries"]) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("dim", [3, 64, 513])
@pytest.mark.parametrize("num_queries", [1, 2, 3, 11, 40])
@pytest.mark.parametrize("num_columns", [2, 3, 11, 17, 129, 1027])
def test_a_tie_is_seen_by_few_queries_and_in_few_columns(
    num_queries: int, num_columns: int, dim: int, device: torch.device
) -> None:
    gallery, query = collapsed(num_columns, dim).to(device), collapsed(num_queries, dim).to(device)
    metrics = retrieval_metrics(query, torch.zeros(num_queries).long(), gallery, torch.arange(num_columns) % 2)
    assert (metrics["recall@1"], metrics["tied_queries"]) == (0.0, 1.0)


@both_engines
@pytest.mark.parametrize("with_gallery", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_integer_codes_equal_the_loop(engine: Engine, with_gallery: bool, bits: int, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2, (150, bits), generator=generator).float() * 2 - 1
    labels = torch.randint(0, 30, (150,), generator=generator)
    sides = (codes[:70], labels[:70], codes[70:], labels[70:]) if with_gallery else (codes, labels)
    found = retrieval_metrics(*(side.to(device) for side in sides), recall_at=RECALL_AT, engine=engine)
    assert found == pytest.approx(loop_metrics(*sides), abs=1e-12)
    assert found["tied_queries"] > 0


@both_engines
def test_of_two_equal_images_the_query_is_the_one_left_out(engine: Engine, device: torch.device) -> None:
    # Six pairs of identical images: each finds its twin, although the list of neighbours may begin with either.
    twins = torch.eye(6, device=device).repeat(2, 1)
    metrics = retrieval_metrics(twins, torch.arange(6).repeat(2), engine=engine)
    assert (metrics["recall@1"], metrics["map@r"], metrics["tied_queries"]) == (1.0, 1.0, 0.0)


@both_engines
def test_an_equal_image_of_another_class_ties(engine: Engine, device: torch.device) -> None:
    # Three equal images, one of a foreign class; and a pair on its own.
    rows = torch.eye(2, device=device)[[0, 0, 0, 1, 1]]
    metrics = retrieval_metrics(rows, torch.tensor([0, 0, 1, 2, 2]), engine=engine)
    assert metrics["recall@1"] == 0.5
    assert metrics["recall@2"] == 1.0
    assert metrics["tied_queries"] == 0.5


def test_in_a_gallery_of_its_own_an_equal_image_is_a_match(device: torch.device) -> None:
    # Query i must not hide gallery row i: only identity excludes, and here there is none.
    rows = torch.eye(5, device=device)
    metrics = retrieval_metrics(rows, torch.arange(5), rows, torch.arange(5))
    assert metrics["recall@1"] == 1.0

"""Values from lists of neighbours against a loop over the definitions: exact lists, and lists that miss some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from raydml.config import Wanted, wanted_metrics
from raydml.counting import Side
from raydml.metrics import query_metrics, retrieval_metrics
from raydml.metrics.lists import list_depth, values_by_lists
from raydml.neighbors import build_index, exact
from tests.index_cases import codes

WANTED = wanted_metrics(
    (1, 3, 200), ("mrr", "map@1", "map@5", "map@500", "precision@1", "precision@7", "precision@500")
)
SIZES = {"classes of six": [6] * 15, "all sizes": [1, 2, 3, 40, 25, 1, 9], "two classes": [50, 41]}
Row = dict[str, float]


def labels_of(sizes: list[int]) -> Tensor:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]


def of_ranked(relevant: list[bool], num_positives: int, *, tied: bool) -> Row:
    """The definitions, of a list in which each row is a positive or is not; what is not in it is not found."""
    ranks = [rank for rank, hit in enumerate(relevant, start=1) if hit]

    def average_precision(last: int) -> float:
        return sum(i / rank for i, rank in enumerate(ranks, start=1) if rank <= last) / min(num_positives, last)

    return {
        **{f"recall@{k}": float(bool(ranks) and ranks[0] <= k) for k in WANTED.recall_at},
        "map@r": average_precision(num_positives),
        "r_precision": sum(rank <= num_positives for rank in ranks) / num_positives,
        **{f"map@{k}": average_precision(k) for k in WANTED.map_at},
        **{f"precision@{k}": sum(rank <= k for rank in ranks) / k for k in WANTED.precision_at},
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "tied_queries": float(tied),
    }


def by_loop(rows: Tensor, labels: Tensor, groups: Tensor | None) -> list[Row | None]:
    """Every row among all others; None for a query without a positive."""
    similarity = (rows.double() @ rows.double().T).tolist()
    found: list[Row | None] = []
    for q, products in enumerate(similarity):
        same = [bool(labels[j] == labels[q]) for j in range(len(labels))]
        hidden = [j == q or (groups is not None and same[j] and bool(groups[j] == groups[q])) for j in range(len(same))]
        others = [j for j in range(len(same)) if not hidden[j]]
        order = sorted(others, key=lambda j: (-products[j], same[j]))
        best = max((products[j] for j in others if same[j]), default=None)
        tied = any(products[j] == best for j in others if not same[j])
        num = sum(same[j] for j in others)
        found.append(of_ranked([same[j] for j in order], num, tied=tied) if num else None)
    return found


@pytest.mark.parametrize("grouped", [False, True], ids=["all", "cameras"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_exact_lists_have_the_values_of_the_loop(sizes: list[int], grouped: bool, device: torch.device) -> None:
    """Rows with many ties, so that lists end within them and before the first positive."""
    labels = labels_of(sizes)
    rows = codes(len(labels), seed=1)
    groups = torch.arange(len(labels)) % 3 if grouped else None
    found = query_metrics(rows.to(device), labels, groups=groups, wanted=WANTED, engine="faiss")
    expected = [row for row in by_loop(rows, labels, groups) if row is not None]
    assert found.num_without_positive == len(labels) - len(expected)
    assert list(found.values) == list(expected[0])
    for name, column in found.values.items():
        assert column.tolist() == pytest.approx([row[name] for row in expected], abs=1e-12), name


@pytest.mark.parametrize("grouped", [False, True], ids=["all", "cameras"])
def test_engines_agree_on_a_gallery_in_which_some_queries_are(grouped: bool, device: torch.device) -> None:
    labels = labels_of(SIZES["all sizes"])
    rows = codes(len(labels), seed=2).to(device)
    own = torch.where(torch.arange(50) % 4 == 0, torch.arange(50), -1)
    groups = torch.arange(len(labels)) // 7
    sides = (rows[:50], labels[:50], rows[:70], labels[:70])
    given = {"groups": groups[:50], "gallery_groups": groups[:70]} if grouped else {}
    listed, counted = (
        query_metrics(*sides, own=own, **given, wanted=WANTED, engine=engine) for engine in ("faiss", "rank")
    )
    assert torch.equal(listed.labels, counted.labels)
    for name, column in counted.values.items():
        torch.testing.assert_close(listed.values[name], column, rtol=0, atol=1e-12)


def test_what_a_list_does_not_hold_is_not_found(device: torch.device) -> None:
    """Lists as an approximate index returns them: gaps, and ends of -1."""
    labels = labels_of(SIZES["all sizes"])
    side = Side(torch.eye(len(labels), device=device), labels.to(device), torch.arange(len(labels), device=device))
    generator = np.random.default_rng(0)
    kept = [generator.permutation(len(labels))[: generator.integers(0, 30)].tolist() for _ in labels]

    def search(query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Falling similarities; the row of the query is the place of its one."""
        lists = [kept[q][:k] for q in query.argmax(1).tolist()]
        index = torch.tensor([row + [-1] * (k - len(row)) for row in lists], device=device)
        similarity = -torch.arange(k, device=device).float().expand_as(index)
        return similarity.masked_fill(index < 0, -torch.inf), index

    values, usable = values_by_lists(side, side, WANTED, search)
    sizes = labels.bincount()[labels]
    assert usable.tolist() == (sizes > 1).tolist()
    for q in usable.nonzero()[:, 0].tolist():
        relevant = [bool(labels[j] == labels[q]) for j in kept[q] if j != q]
        expected = of_ranked(relevant, int(sizes[q]) - 1, tied=False)
        assert {name: float(column[q]) for name, column in values.items()} == pytest.approx(expected), q


def test_the_size_of_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    labels = labels_of(SIZES["all sizes"])
    rows = codes(len(labels), seed=4).to(device)
    whole = query_metrics(rows, labels, wanted=WANTED, engine="faiss")
    monkeypatch.setattr(exact, "_BLOCK_ENTRIES", 1)
    cut = query_metrics(rows, labels, wanted=WANTED, engine="faiss")
    assert all(torch.equal(cut.values[name], column) for name, column in whole.values.items())


def test_lists_of_queries_are_never_in_memory_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_BLOCK_ENTRIES", 2**12)
    labels = torch.arange(600) // 6
    rows = codes(600)
    index, longest = build_index(rows), []

    def search(query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        longest.append(len(query) * k)
        return index.search(query, k)

    side = Side(rows, labels, torch.arange(600))
    values_by_lists(side, side, Wanted(recall_at=(1, 50)), search)
    assert max(longest) <= 2**12
    assert len(longest) >= 600 * 51 / 2**12


def test_a_list_is_as_long_as_the_last_rank_that_matters() -> None:
    few, many = torch.tensor([0, 2]), torch.tensor([0, 30])
    assert list_depth(few, Wanted(recall_at=()), 100) == 2
    assert list_depth(many, Wanted(recall_at=(1, 8)), 100) == 30
    assert list_depth(few, wanted_metrics((1,), ("map@20", "precision@10")), 100) == 20
    assert list_depth(few, Wanted(recall_at=(1, 1000)), 100) == 100


def test_the_average_precision_over_all_ranks_needs_all_ranks() -> None:
    with pytest.raises(ValueError, match=r"^metrics: map is over all ranks, .* take engine=rank$"):
        retrieval_metrics(codes(40), torch.arange(40) // 4, metrics=("map",), engine="faiss")


def test_an_index_of_other_rows_is_refused() -> None:
    rows = codes(40)
    with pytest.raises(ValueError, match="the index must be one of the gallery's rows, but has 30, and it 40"):
        query_metrics(rows, torch.arange(40) // 4, engine=build_index(rows[:30]))


def test_an_exact_index_gives_the_exact_values() -> None:
    """Also where its lists end in doubt, and where it was to be another one but for so few rows."""
    labels = labels_of(SIZES["classes of six"])
    rows = codes(len(labels), seed=5)
    wanted = Wanted(recall_at=(1,), mrr=True)
    counted = query_metrics(rows, labels, wanted=wanted)
    for kind in ("flat", "ivf"):
        listed = query_metrics(rows, labels, wanted=wanted, engine=build_index(rows, kind))
        assert all(torch.allclose(listed.values[name], column) for name, column in counted.values.items())

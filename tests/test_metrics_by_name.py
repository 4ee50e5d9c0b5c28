"""map, map@k, precision@k, mrr and excluded groups against their definitions, written as loops over lists of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from raydml.config import Wanted
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.metrics import Engine, counts, query_metrics, retrieval_metrics
from raydml.retrieval import described, facts_of, protocol_metrics, protocol_of_roles
from tests.test_metrics import SHAPES, unit_rows

NAMES = ("map", "mrr", "map@1", "map@7", "map@500", "precision@1", "precision@5", "precision@500")


def loop(rows: Tensor, labels: Tensor, groups: Tensor | None = None) -> dict[str, float]:
    """Means over queries, each of which sorts all that it may find."""
    similarity = (rows.double() @ rows.double().T).cpu().numpy()
    found: list[dict[str, float]] = []
    for q in range(len(rows)):
        hidden = (labels == labels[q]) & (groups == groups[q]) if groups is not None else torch.zeros_like(labels) > 0
        others = [j for j in range(len(rows)) if j != q and not hidden[j]]
        # A tie counts against the query: of equal rows those of other classes come first.
        others.sort(key=lambda j: (-similarity[q, j], bool(labels[j] == labels[q])))
        ranks = [rank for rank, j in enumerate(others, start=1) if labels[j] == labels[q]]
        if ranks:
            found.append(of_ranks(ranks))
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]} | {"num_queries": len(found)}


def of_ranks(ranks: list[int]) -> dict[str, float]:
    num = len(ranks)

    def average_precision(last: float) -> float:
        return sum(i / rank for i, rank in enumerate(ranks, start=1) if rank <= last) / min(num, last)

    return {
        "recall@1": float(ranks[0] == 1),
        "recall@1000": 1.0,
        "map@r": average_precision(num),
        "map": average_precision(float("inf")),
        "mrr": 1 / ranks[0],
        **{f"map@{k}": average_precision(k) for k in (1, 7, 500)},
        **{f"precision@{k}": sum(rank <= k for rank in ranks) / k for k in (1, 5, 500)},
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_metrics_by_name_equal_their_definitions(shape: str, device: torch.device) -> None:
    """Ranks beyond the gallery are legal: every query that has a positive finds it within 1000 of 173 rows."""
    rows, labels = unit_rows(SHAPES[shape], seed=21, spread=1.2)
    found = retrieval_metrics(rows.to(device), labels.to(device), recall_at=(1, 1000), metrics=NAMES)
    expected = loop(rows, labels)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_excluded_rows_are_neither_found_nor_in_the_way(spread: float, device: torch.device) -> None:
    """A query does not find its class by its own camera; other classes by that camera remain negatives."""
    rows, labels = unit_rows([6] * 20 + [1] * 5, seed=22, spread=spread)
    cameras = torch.randint(0, 2, (len(rows),), generator=torch.Generator().manual_seed(0))
    found = retrieval_metrics(rows.to(device), labels, recall_at=(1, 1000), metrics=NAMES, groups=cameras.numpy())
    expected = loop(rows, labels, cameras)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    sides = (rows[:60], labels[:60], rows[60:], labels[60:])
    apart = retrieval_metrics(*sides, groups=cameras[:60], gallery_groups=cameras[60:] + 2)
    assert apart == retrieval_metrics(*sides), "groups that never meet exclude nothing"


def test_map_of_a_query_is_average_precision() -> None:
    rows, labels = unit_rows([30, 20, 25], seed=23, spread=2.0)
    found = query_metrics(rows[:1], labels[:1], rows[1:], labels[1:], wanted=Wanted((1,), full_map=True))
    theirs = average_precision_score((labels[1:] == labels[0]).numpy(), (rows[1:] @ rows[0]).numpy())
    assert found.values["map"].tolist() == pytest.approx([float(theirs)], abs=1e-12)


def test_many_positives_are_finished_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = unit_rows([40, 1, 9, 30], seed=24)
    whole = retrieval_metrics(rows, labels, metrics=NAMES)
    monkeypatch.setattr(counts, "_AT_A_TIME", 50)
    assert retrieval_metrics(rows, labels, metrics=NAMES) == whole


NONSENSE = {
    "an unknown name": ({"metrics": ("map@0",)}, r"metrics must be of .*map@K.*but got 'map@0'"),
    "a rank that no array holds": ({"metrics": (f"precision@{10**30}",)}, f"ranks must be in 1 ... .*but got {10**30}"),
    "a rank before the first": ({"recall_at": (0, 1)}, "ranks must be in 1 ... .*but got 0"),
    "one of the whole set": ({"metrics": ("nmi",)}, "metrics must be of map, mrr, .*but got 'nmi'"),
    "too few groups": ({"groups": torch.zeros(3).long()}, r"query: groups must be \(N,\)"),
    "groups with a fraction": ({"groups": torch.zeros(4)}, "query: groups must be integers, but got torch.float32"),
    "groups of no gallery": ({"gallery_groups": torch.zeros(4).long()}, "go together"),
    "lists that would not end": ({"metrics": ("map",), "engine": "faiss"}, "map is over all ranks.*engine=rank"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_what_makes_no_sense_is_refused(case: str) -> None:
    options, law = NONSENSE[case]
    with pytest.raises(ValueError, match=law):
        retrieval_metrics(torch.eye(4), torch.tensor([0, 0, 1, 1]), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["rank", "faiss"])
def test_groups_of_one_side_are_refused(engine: Engine) -> None:
    rows, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="groups and gallery_groups go together"):
        retrieval_metrics(rows, labels, rows, labels, groups=labels, engine=engine)


@pytest.mark.parametrize("engine", ["rank", "faiss"])
@pytest.mark.parametrize("roles", [None, [QUERY, ANY_ROLE, GALLERY, GALLERY, QUERY, ANY_ROLE]])
def test_images_of_one_class_and_group_do_not_find_each_other(roles: list[int] | None, engine: Engine) -> None:
    """The nearest of its class is by its own camera; the other lies behind a negative, which shares that camera."""
    angles = np.array([0.0, 0.1, 0.3, 0.2, 2.0, 2.4])
    rows, labels = np.stack([np.cos(angles), np.sin(angles)], 1), np.array([0, 0, 0, 1, 1, 1])
    cameras = np.array([7, 7, 8, 7, 8, -1])
    given = None if roles is None else np.array(roles, np.int8)
    free = protocol_metrics(protocol_of_roles(given, "x"), rows, labels, wanted=Wanted((1, 2)), engine=engine)
    protocol = protocol_of_roles(given, "x", cameras)
    apart = protocol_metrics(protocol, rows, labels, wanted=Wanted((1, 2)), engine=engine)
    assert free.values["recall@1"].tolist()[0] == 1.0
    assert [apart.values[name].tolist()[0] for name in ("recall@1", "recall@2")] == [0.0, 1.0]
    assert facts_of(protocol, labels)["num_groups"] == 2
    assert described(protocol, labels).endswith("; images of one class and group do not find each other")
    assert "group" not in described(protocol_of_roles(given, "x"), labels)


@pytest.mark.parametrize("engine", ["rank", "faiss"])
def test_one_query_may_have_a_group(engine: Engine) -> None:
    rows, labels = np.eye(4)[[0, 0, 0, 1]], np.array([0, 0, 0, 1])
    roles, cameras = np.array([QUERY, GALLERY, GALLERY, GALLERY], np.int8), np.array([3, 3, 5, 5])
    found = protocol_metrics(protocol_of_roles(roles, "x", cameras), rows, labels, wanted=Wanted((1,)), engine=engine)
    assert found.values["r_precision"].tolist() == [1.0]
    assert found.place is not None
    assert found.place.tolist() == [0]


@pytest.mark.parametrize("labels", [np.array(["a", "a", "b", "b"]), np.array([0, 0, 1, None], dtype=object)], ids=str)
def test_labels_that_are_words_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="query: labels must be integers, but got"):
        retrieval_metrics(torch.eye(4), labels)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine must be rank, faiss or an index, but got 'annoy'"):
        retrieval_metrics(torch.eye(4), torch.tensor([0, 0, 1, 1]), engine="annoy")  # type: ignore[arg-type]


def test_who_has_no_positive_is_said_of_groups_too() -> None:
    with pytest.raises(ValueError, match="alone in its class, or with images of its own group"):
        retrieval_metrics(torch.eye(4), torch.tensor([0, 0, 1, 1]), groups=torch.zeros(4).long())

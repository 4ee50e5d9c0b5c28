"""Retrieval metrics against a float64 loop and a second library, and what they refuse. Ties are in test_ties.py."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from raydml.config import Wanted
from raydml.counting import sweep
from raydml.metrics import query_metrics, ranks, retrieval_metrics

RECALL_AT = (1, 2, 5, 40)

# Sizes of the classes of a set of images.
SHAPES = {
    "few big classes": [60, 50, 41],
    "many small classes": [3] * 50 + [2] * 11,
    "sizes one and two": [1] * 20 + [2] * 40,
    "one class holds nearly all": [120, 2, 1, 3],
    "barely a gallery": [2, 1],
}


def unit_rows(sizes: list[int], *, seed: int, dim: int = 12, spread: float = 0.8) -> tuple[Tensor, Tensor]:
    """Noisy classes in a random order of images: float64 unit rows and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn(len(sizes), dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(centres[labels] + spread * noise, dim=1), labels


def loop_metrics(
    query: Tensor, query_labels: Tensor, gallery: Tensor | None = None, gallery_labels: Tensor | None = None
) -> dict[str, float]:
    """The definitions, one query and one rank at a time, in float64."""
    others, other_labels = (query, query_labels) if gallery is None else (gallery, gallery_labels)
    assert other_labels is not None
    similarity = (query.double().cpu() @ others.double().cpu().T).numpy()
    relevant = query_labels.cpu().numpy()[:, None] == other_labels.cpu().numpy()[None, :]
    rows: list[dict[str, float]] = []
    for q in range(len(query)):
        candidates = [j for j in range(len(others)) if gallery is not None or j != q]
        positives = sorted((similarity[q, j] for j in candidates if relevant[q, j]), reverse=True)
        negatives = np.array([similarity[q, j] for j in candidates if not relevant[q, j]])
        if positives:
            rows.append(_of_one_query(positives, negatives))
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {**means, "num_queries": len(rows), "num_queries_without_positive": len(query) - len(rows)}


def _of_one_query(positives: list[float], negatives: npt.NDArray[np.float64]) -> dict[str, float]:
    num = len(positives)
    ranks = [i + 1 + int((negatives >= s).sum()) for i, s in enumerate(positives)]
    inside = [(i + 1, rank) for i, rank in enumerate(ranks) if rank <= num]
    return {
        **{f"recall@{k}": float(ranks[0] <= k) for k in RECALL_AT},
        "map@r": sum(i / rank for i, rank in inside) / num,
        "r_precision": len(inside) / num,
        "tied_queries": float((negatives == positives[0]).any()),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_metrics_of_one_set_equal_the_loop(shape: str, dtype: torch.dtype, device: torch.device) -> None:
    embeddings, labels = unit_rows(SHAPES[shape], seed=1)
    embeddings = embeddings.to(dtype)
    found = retrieval_metrics(embeddings.to(device), labels.to(device), recall_at=RECALL_AT)
    assert found == pytest.approx(loop_metrics(embeddings, labels), abs=1e-7)


@pytest.mark.parametrize("engine", ["rank", "faiss"])
@pytest.mark.parametrize("missing", [0, 30], ids=["same classes", "some classes not in the gallery"])
def test_metrics_in_a_gallery_equal_the_loop(
    engine: Literal["rank", "faiss"], missing: int, device: torch.device
) -> None:
    query, query_labels = unit_rows([1] * 10 + [4] * 40, seed=2, spread=0.5)
    gallery, gallery_labels = unit_rows([5] * 40 + [1] * 10, seed=2, spread=0.5)
    gallery_labels = gallery_labels + missing
    found = retrieval_metrics(
        query.to(device), query_labels, gallery.to(device), gallery_labels, recall_at=RECALL_AT, engine=engine
    )
    expected = loop_metrics(query, query_labels, gallery, gallery_labels)
    assert found == pytest.approx(expected, abs=1e-7)
    assert (found["num_queries_without_positive"] > 0) == (missing > 0)


@pytest.mark.parametrize("shape", ["few big classes", "many small classes", "sizes one and two"])
def test_metrics_equal_pytorch_metric_learning(shape: str) -> None:
    embeddings, labels = unit_rows(SHAPES[shape], seed=3, dim=32)
    embeddings = embeddings.float()
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=names, k="max_bin_count", device=torch.device("cpu"))
    theirs = calculator.get_accuracy(embeddings, labels)
    ours = retrieval_metrics(embeddings, labels)
    assert [ours["recall@1"], ours["r_precision"], ours["map@r"]] == pytest.approx(
        [theirs[name] for name in names], abs=1e-6
    )


@pytest.mark.parametrize("recall_at", [(1,), (1, 3, 1000)], ids=["short lists", "lists of everything"])
@pytest.mark.parametrize("shape", SHAPES)
def test_engines_agree(shape: str, recall_at: tuple[int, ...], device: torch.device) -> None:
    embeddings, labels = unit_rows(SHAPES[shape], seed=4)
    embeddings = embeddings.float().to(device)
    by_rank = retrieval_metrics(embeddings, labels, recall_at=recall_at, engine="rank")
    by_faiss = retrieval_metrics(embeddings, labels, recall_at=recall_at, engine="faiss")
    assert by_faiss == pytest.approx(by_rank, abs=1e-6)


def test_ranks_are_those_of_each_query(device: torch.device) -> None:
    embeddings, labels = unit_rows(SHAPES["many small classes"], seed=13)
    wanted = Wanted(RECALL_AT, mrr=True)
    counted = query_metrics(embeddings.to(device), labels.to(device), wanted=wanted)
    listed = query_metrics(embeddings.to(device), labels.to(device), wanted=wanted, engine="faiss")
    for name, values in counted.values.items():
        torch.testing.assert_close(values, listed.values[name])


@pytest.mark.parametrize("engine", ["rank", "faiss"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_class_has_the_means_of_its_queries(
    shape: str, engine: Literal["rank", "faiss"], device: torch.device
) -> None:
    """Those of a loop over the queries of the class alone, in the gallery of all."""
    embeddings, labels = unit_rows(SHAPES[shape], seed=14)
    found = query_metrics(
        embeddings.to(device), labels.to(device), wanted=Wanted(RECALL_AT), engine=engine
    ).class_means()
    assert list(found) == [label for label, size in enumerate(SHAPES[shape]) if size > 1]
    for label, row in found.items():
        own = labels == label
        expected = loop_of_class(embeddings, labels, own)
        assert row == pytest.approx(expected, abs=1e-7), label


def loop_of_class(embeddings: Tensor, labels: Tensor, own: Tensor) -> dict[str, float]:
    rows = []
    for query in own.nonzero()[:, 0]:
        others = torch.arange(len(labels)) != query
        rows.append(loop_metrics(embeddings[query, None], labels[query, None], embeddings[others], labels[others]))
    names = [name for name in rows[0] if not name.startswith("num_")]
    return {"num_queries": len(rows), **{name: float(np.mean([row[name] for row in rows])) for name in names}}


@pytest.mark.parametrize("engine", ["rank", "faiss"])
def test_classes_weighted_by_their_queries_are_the_whole(engine: Literal["rank", "faiss"]) -> None:
    embeddings, labels = unit_rows([40, 2, 7, 1, 1], seed=15)
    found = query_metrics(embeddings, labels, wanted=Wanted(RECALL_AT), engine=engine)
    whole, classes = found.means(), found.class_means().values()
    assert whole == retrieval_metrics(embeddings, labels, recall_at=RECALL_AT, engine=engine)
    assert sum(row["num_queries"] for row in classes) == whole["num_queries"] == 49
    assert (found.num_without_positive, whole["num_queries_without_positive"]) == (2, 2)
    for name in found.values:
        mean = sum(row["num_queries"] * row[name] for row in classes) / 49
        assert mean == pytest.approx(whole[name], abs=1e-12), name


def test_the_order_of_images_does_not_matter(device: torch.device) -> None:
    embeddings, labels = unit_rows(SHAPES["many small classes"], seed=5)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(6))
    as_given = retrieval_metrics(embeddings.to(device), labels)
    assert retrieval_metrics(embeddings[order].to(device), labels[order]) == pytest.approx(as_given, abs=1e-12)


@pytest.mark.parametrize(("size", "positives"), [(48, 10_000), (96, 1), (144, 500)])
def test_the_size_of_blocks_does_not_matter(
    size: int, positives: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, labels = unit_rows(SHAPES["few big classes"], seed=7)
    whole = retrieval_metrics(embeddings.to(device), labels)
    monkeypatch.setattr(sweep, "_TILE", size)
    monkeypatch.setattr(ranks, "_MOST_POSITIVES", positives)
    assert retrieval_metrics(embeddings.to(device), labels) == whole


class Watch(TorchDispatchMode):
    """Notes the entries of the largest tensor that any operation makes, and the precision of every product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most_entries = 0
        self.precisions: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor):
                self.most_entries = max(self.most_entries, part.numel())
        if func is torch.ops.aten.mm.default:
            self.precisions.add((torch.get_float32_matmul_precision(), result.dtype))
        return result


@pytest.mark.parametrize("sizes", [[2] * 500, [300, 300]], ids=["small classes", "huge classes"])
def test_no_tensor_grows_with_the_square_of_the_images(
    sizes: list[int], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_TILE", 48)
    monkeypatch.setattr("raydml.counting.positives._MOST_ROWS", 48)
    for room in ("products", "positives", "sweep"):
        monkeypatch.setattr(f"raydml.counting.{room}.DEVICE_SIZE", 48)
    monkeypatch.setattr(ranks, "_MOST_POSITIVES", 1_000)
    embeddings, labels = unit_rows(sizes, seed=8)
    with Watch() as watch:
        retrieval_metrics(embeddings.to(device), labels.to(device))
    smallest_block = 48 * len(labels)
    assert watch.most_entries <= smallest_block


def test_queries_without_a_positive_are_counted_and_left_out() -> None:
    lonely = retrieval_metrics(torch.eye(4)[[0, 0, 1, 2]], torch.tensor([7, 7, 8, 9]))
    assert lonely["num_queries"] == 2
    assert lonely["num_queries_without_positive"] == 2
    assert lonely["recall@1"] == lonely["map@r"] == 1.0


def test_labels_beyond_float32_do_not_merge(device: torch.device) -> None:
    embeddings, labels = unit_rows(SHAPES["many small classes"], seed=9)
    plain = retrieval_metrics(embeddings.to(device), labels)
    assert retrieval_metrics(embeddings.to(device), labels + 2**24) == plain
    assert retrieval_metrics(embeddings.to(device), labels.numpy() + 2**53) == plain
    assert retrieval_metrics(embeddings.to(device), -labels.int()) == pytest.approx(plain, abs=1e-12)


def test_half_precision_is_multiplied_in_full_precision(device: torch.device) -> None:
    embeddings, labels = unit_rows([10] * 60, seed=10, dim=64, spread=3.0)
    half = embeddings.bfloat16().to(device)
    assert retrieval_metrics(half, labels) == retrieval_metrics(half.float(), labels)


def test_neither_autocast_nor_fast_products_change_a_metric(device: torch.device) -> None:
    embeddings, labels = unit_rows([10] * 60, seed=11, dim=64, spread=3.0)
    embeddings = embeddings.float().to(device)
    plain = retrieval_metrics(embeddings, labels)
    torch.set_float32_matmul_precision("medium")
    try:
        with Watch() as watch, torch.autocast(device.type, dtype=torch.bfloat16):
            assert retrieval_metrics(embeddings, labels) == plain
        assert watch.precisions == {("highest", torch.float32)}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_query_and_gallery_may_differ_in_precision() -> None:
    embeddings, labels = unit_rows(SHAPES["many small classes"], seed=12)
    narrow = embeddings.float()
    mixed = retrieval_metrics(narrow, labels, embeddings.numpy(), labels)
    assert mixed == pytest.approx(retrieval_metrics(narrow.double(), labels, embeddings, labels), abs=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_embeddings_that_are_not_finite_are_refused(bad: float, side: str, device: torch.device) -> None:
    rows = {name: torch.eye(4, device=device) for name in ("query", "gallery")}
    rows[side][2, 1] = bad
    labels = torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=f"{side}: .* finite, but 1 of 4 rows hold NaN or infinity: 2$"):
        retrieval_metrics(rows["query"], labels, rows["gallery"], labels)
    rows[side] = torch.full((9, 4), bad, device=device)
    with pytest.raises(ValueError, match=r"9 of 9 rows hold NaN or infinity: 0, 1, 2, 3, 4 \.\.\."):
        retrieval_metrics(rows[side], torch.arange(9))


_ROWS, _LABELS = torch.eye(4), torch.tensor([0, 0, 1, 1])

NONSENSE: dict[str, tuple[tuple[Tensor | None, ...], str]] = {
    "fewer labels than rows": ((_ROWS, _LABELS[:3]), "labels"),
    "a single row": ((_ROWS[0], _LABELS), "embeddings"),
    "no rows": ((_ROWS[:0], _LABELS[:0]), "embeddings"),
    "labels with a fraction": ((_ROWS, _LABELS.float()), "integers"),
    "labels that are true or false": ((_ROWS, _LABELS > 0), "integers"),
    "a gallery without labels": ((_ROWS, _LABELS, _ROWS, None), "together"),
    "labels without a gallery": ((_ROWS, _LABELS, None, _LABELS), "together"),
    "no label in common": ((_ROWS, _LABELS, _ROWS, _LABELS + 2), "positive"),
    "every label alone": ((_ROWS, torch.arange(4)), "positive"),
    "two dimensions": ((_ROWS, _LABELS, torch.eye(4, 5), _LABELS), "4 and 5"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_what_makes_no_sense_is_refused(case: str) -> None:
    arguments, law = NONSENSE[case]
    with pytest.raises(ValueError, match=law):
        retrieval_metrics(*arguments)  # type: ignore[arg-type]

"""Metrics from an approximate index: its recall against exact, what is written of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raydml.approximate import approximate_metrics
from raydml.cli import main
from raydml.config import ConfigError, EvaluateOptions, Wanted
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.measurement import measure
from raydml.metrics import query_metrics
from raydml.neighbors import Kind, build_index, found_shares
from raydml.retrieval import EveryOther, QueryGallery, RandomGallery, RetrievalProtocol, protocol_metrics
from tests.index_cases import by_sorting, clustered, codes

COUNT = 2_000
WANTED = Wanted(recall_at=(1, 10), map_at=(5,), mrr=True)


@pytest.fixture(scope="module")
def rows() -> Tensor:
    return clustered(COUNT)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    """Classes of ten around one centre each, which others share."""
    return torch.arange(COUNT) % 40 + 40 * (torch.arange(COUNT) // 400)


def roles() -> QueryGallery:
    return QueryGallery(np.resize(np.array([QUERY, GALLERY, GALLERY, ANY_ROLE], dtype=np.int8), COUNT))


@pytest.mark.parametrize("excluding", [False, True])
@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_share_of_neighbours_found_is_that_of_a_sort(
    kind: Kind, excluding: bool, rows: Tensor, device: torch.device
) -> None:
    index = build_index(rows.to(device), kind, nprobe=1 if kind == "ivf" else None, ef_search=2)
    drawn = torch.arange(0, COUNT, 7)
    query, exclude = rows[drawn].to(device), drawn.to(device) if excluding else None
    found = found_shares(index, query, [1, 10, 25], exclude=exclude)
    lists = index.search(query, 25, exclude=exclude)[1].tolist()
    for k in (1, 10, 25):
        true = by_sorting(rows[drawn], rows, k, exclude)[1].tolist()
        expected = [len(set(a[:k]) & set(b)) / k for a, b in zip(lists, true, strict=True)]
        more = found[k].cpu().numpy() - np.array(expected)
        assert more.min() > -1e-9
        assert (more > 1e-9).mean() < 0.01, "a row that differs by rounding is as good"
    assert 0.2 < float(found[25].mean()) < 0.99


def test_any_of_equal_rows_is_a_neighbour() -> None:
    gallery = torch.nn.functional.normalize(codes(COUNT) + 0.1, dim=1)
    index = build_index(gallery, "hnsw", ef_search=400)
    assert float(found_shares(index, gallery[:100], [5], exclude=torch.arange(100))[5].mean()) > 0.99


@pytest.mark.parametrize("protocol", [EveryOther(), roles()], ids=["every other", "query and gallery"])
@pytest.mark.parametrize("engine", ["ivf", "ivf_pq", "hnsw"])
def test_a_thorough_index_has_the_exact_metrics(
    engine: str, protocol: RetrievalProtocol, rows: Tensor, labels: Tensor, device: torch.device
) -> None:
    """And says so: by its numbers, its intervals and its line."""
    size = len(rows) if isinstance(protocol, EveryOther) else 1_500
    thorough = {"ivf": {"nprobe": size // 39}, "ivf_pq": {}, "hnsw": {"ef_search": 1_000}}[engine]
    options = EvaluateOptions.model_validate({"engine": engine, **thorough})
    found = approximate_metrics(protocol, rows.to(device), labels.to(device), WANTED, options)
    exact = protocol_metrics(protocol, rows.to(device), labels.to(device), wanted=WANTED)
    means, truth = found.queries.means(), exact.means()
    assert means.pop("mrr") <= truth.pop("mrr"), "beyond the list nothing is found"
    assert means == pytest.approx(truth, abs=1e-12)
    num = 1_000
    assert (found.facts["engine"], found.facts["index_recall_queries"]) == (engine, num)
    assert found.recall["index_recall@10"] == found.recall["index_recall@10_high"] == 1.0
    assert 0.99 < found.recall["index_recall@10_low"] < 1.0
    assert f"recall@10 against exact 1.000 (0.996 ... 1.000) on {num:,} queries" in found.description


def test_a_hasty_index_says_how_much_it_misses(rows: Tensor, labels: Tensor) -> None:
    options = EvaluateOptions(engine="ivf", nprobe=1)
    found = approximate_metrics(EveryOther(), rows, labels, WANTED, options)
    exact = query_metrics(rows, labels, wanted=WANTED)
    # Not always less: where negatives are missed, a positive moves up.
    assert found.queries.means()["recall@10"] != exact.means()["recall@10"]
    low, mean, high = (found.recall[f"index_recall@10{end}"] for end in ("_low", "", "_high"))
    assert 0.1 < low < mean < high < 0.95
    assert found.facts == {"engine": "ivf", "num_cells": 51, "nprobe": 1, "index_recall_queries": 1000}
    assert found.description == (
        f"ivf, 51 cells, 1 looked into: recall@10 against exact {mean:.3f} ({low:.3f} ... {high:.3f}) on 1,000 queries"
    )
    truth = found_shares(build_index(rows, "ivf", nprobe=1), rows, [10], exclude=torch.arange(COUNT))[10].mean()
    assert low < float(truth) < high, "of all queries"


def test_a_drawn_gallery_is_refused(rows: Tensor, labels: Tensor) -> None:
    law = "^x: engine=hnsw: every draw of a random gallery .* take engine=rank, which counts them exactly$"
    with pytest.raises(ConfigError, match=law):
        measure("x", RandomGallery(3), rows.numpy(), labels.numpy(), WANTED, EvaluateOptions(engine="hnsw"))


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"engine": "rank", "nprobe": 4}, "nprobe is one of engine=ivf and ivf_pq, but got nprobe=4, engine=rank"),
        ({"engine": "hnsw", "nprobe": 4}, "nprobe is one of engine=ivf and ivf_pq, but got nprobe=4, engine=hnsw"),
        ({"engine": "ivf", "ef_search": 4}, "ef_search is one of engine=hnsw, but got ef_search=4, engine=ivf"),
    ],
)
def test_parameters_belong_to_their_index(options: dict[str, object], law: str) -> None:
    with pytest.raises(ValidationError, match=law):
        EvaluateOptions.model_validate(options)


def test_nan_is_refused_by_its_rows(rows: Tensor, labels: Tensor) -> None:
    spoilt = rows.clone()
    spoilt[[3, 17], 0] = torch.nan
    with pytest.raises(ConfigError, match=r"^x: .*must be finite, but 2 of 2000 rows hold NaN or infinity: 3, 17$"):
        measure("x", EveryOther(), spoilt.numpy(), labels.numpy(), WANTED, EvaluateOptions(engine="ivf"))


def test_it_is_printed_and_kept_beside_the_exact_numbers(
    tmp_path: Path, rows: Tensor, labels: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows.numpy().ravel()), rows.shape[1])
    pq.write_table(pa.table({"label": labels.numpy(), "embedding": embedding}), tmp_path / "mine.parquet")
    words = [str(tmp_path / "mine.parquet"), f"storage={tmp_path}"]
    assert main(["evaluate", *words]) == 0
    assert main(["evaluate", *words, "engine=ivf", "nprobe=2"]) == 0
    printed = capsys.readouterr().out
    assert "ivf, 51 cells, 2 looked into: recall@10 against exact 0." in " ".join(printed.split())
    assert "index_recall" not in printed
    exact, listed = sorted(tmp_path.glob("evaluations/mine-*"))
    assert listed.name == f"{exact.name}-ivf"
    assert "index_recall@10" not in json.loads((exact / "metrics.json").read_text(encoding="utf-8"))
    metrics = json.loads((listed / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["index_recall@10_low"] < metrics["index_recall@10"] < metrics["index_recall@10_high"]
    facts = json.loads((listed / "protocol.json").read_text(encoding="utf-8"))
    assert (facts["engine"], facts["num_cells"], facts["nprobe"]) == ("ivf", 51, 2)
    assert main(["evaluate", *words, "engine=ivf", "nprobe=52"]) == 2
    assert "nprobe must be at most 51, the cells for 2,000 rows, but got nprobe=52" in capsys.readouterr().err

"""`python -m raydml.evaluate`: Ray Data embeds, two engines agree, and files anyone reads come out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import raydml
from raydml.config import ConfigError
from raydml.evaluate import evaluate
from raydml.metrics import retrieval_metrics
from tests.integration.conftest import FinishedSearch
from tests.integration.studies import curves_of, run_here
from tests.written import read_embeddings


@pytest.fixture(scope="module")
def evaluated(finished: FinishedSearch) -> Path:
    """Folder of the evaluation of the best trial on its validation classes."""
    process = run_here("evaluate", finished.folder / "best.yaml")
    assert process.returncode == 0, process.stderr
    assert "raw pixels" in process.stdout
    [folder] = finished.folder.glob("trials/*/evaluation/val")
    return folder


def test_a_trial_is_evaluated_on_validation_classes_and_equals_its_own_curve(
    evaluated: Path, finished: FinishedSearch
) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    last = curves_of(finished.folder)[evaluated.parent.parent.name][-1]
    for name in ("recall@1", "recall@8", "map@r", "r_precision"):
        assert metrics[name] == pytest.approx(last[f"val/{name}"], abs=1e-6)
    assert not (finished.folder / "test_looks.jsonl").exists()


def test_embeddings_are_standard_arrow(evaluated: Path) -> None:
    schema = pq.read_schema(evaluated / "embeddings.parquet")
    assert schema.field("index").type == pa.int64()
    assert schema.field("label").type == pa.int64()
    assert schema.field("embedding").type == pa.list_(pa.float32(), 16)


def test_it_is_drawn_and_seen_in_tensorboard(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    shown = json.loads((evaluated / "neighbors.json").read_text(encoding="utf-8"))
    index = pq.read_table(evaluated / "embeddings.parquet")["index"].to_pylist()
    hits = {hit["index"] for queries in shown.values() for query in queries for hit in query["hits"]}
    assert hits <= set(index)
    [file] = evaluated.glob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]} == pytest.approx(
        {f"val/{name}": value for name, value in metrics.items()}
    )
    assert events.Scalars("val/map@r")[0].step == 4, "after the last epoch"
    [image] = events.Images("neighbors/worst")
    assert image.width > 1000


def test_metrics_equal_brute_force_and_pytorch_metric_learning(evaluated: Path) -> None:
    rows, labels = read_embeddings(evaluated / "embeddings.parquet")
    metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    assert brute_force_map_at_r(rows, labels) == pytest.approx(metrics["map@r"], abs=1e-6)
    theirs = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"), k="max_bin_count"
    ).get_accuracy(torch.from_numpy(rows), torch.from_numpy(labels))
    assert theirs["precision_at_1"] == pytest.approx(metrics["recall@1"], abs=1e-6)
    assert theirs["r_precision"] == pytest.approx(metrics["r_precision"], abs=1e-6)
    assert theirs["mean_average_precision_at_r"] == pytest.approx(metrics["map@r"], abs=1e-6)


def brute_force_map_at_r(rows: np.ndarray, labels: np.ndarray) -> float:
    """One query at a time, in float64."""
    wide = rows.astype(np.float64)
    values = []
    for query, label in enumerate(labels):
        others = np.delete(np.arange(len(labels)), query)
        order = others[np.argsort(-(wide[others] @ wide[query]), kind="stable")]
        relevant = labels[order] == label
        total = relevant.sum()
        hits = [relevant[: i + 1].mean() for i in range(total) if relevant[i]]
        values.append(sum(hits) / total)
    return float(np.mean(values))


def test_embeddings_are_the_models_in_the_order_of_the_data(evaluated: Path, finished: FinishedSearch) -> None:
    from raydml import checkpoint, runs
    from raydml.data.opening import open_images
    from raydml.data.subsets import fold_subsets

    model = raydml.load(finished.folder)
    found = runs.resolve(finished.folder)
    config = checkpoint.load_objective(found.checkpoint)[1]
    images = open_images(config.data)
    held_out = fold_subsets(images, config.data, 0)[1]
    pixels = torch.from_numpy(images.images[held_out.index]).permute(0, 3, 1, 2)
    rows, labels = read_embeddings(evaluated / "embeddings.parquet")
    assert torch.allclose(model(pixels), torch.from_numpy(rows), atol=1e-6)
    assert np.array_equal(labels, images.labels[held_out.index])
    index = pq.read_table(evaluated / "embeddings.parquet")["index"].to_numpy()
    assert np.array_equal(index, held_out.index)


@pytest.mark.usefixtures("ray_here")
def test_both_engines_agree_and_a_look_at_test_classes_is_noted(finished: FinishedSearch, evaluated: Path) -> None:
    counted = run_here("evaluate", finished.folder, "split=test")
    assert counted.returncode == 0, counted.stderr
    folder = evaluated.parent / "test"
    by_rank = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert run_here("evaluate", finished.folder, "split=test", "engine=faiss").returncode == 0
    by_faiss = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert by_rank == pytest.approx(by_faiss, abs=1e-6)
    looks = (finished.folder / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(looks) == 2
    (finished.folder / "test_looks.jsonl").unlink()


def test_embeddings_that_something_else_made_are_evaluated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 6)
    rows = (rng.normal(size=(10, 8))[labels] + rng.normal(size=(60, 8))).astype(np.float32)
    table = pa.table({"label": labels, "embedding": pa.array(rows.tolist(), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "theirs.parquet")
    process = run_here("evaluate", tmp_path / "theirs.parquet", f"storage={tmp_path}")
    assert process.returncode == 0, process.stderr
    [written] = tmp_path.glob("evaluations/theirs-*/metrics.json")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert json.loads(written.read_text(encoding="utf-8")) == pytest.approx(retrieval_metrics(unit, labels), abs=1e-9)


@pytest.mark.parametrize(
    ("columns", "law"),
    [
        ({"label": [0, 1]}, "needs the columns label and embedding"),
        ({"label": [0.5, 1.0], "embedding": [[1.0], [2.0]]}, "label must be integers"),
        ({"label": [0, 1], "embedding": [[1.0], [2.0, 3.0]]}, "must all have the same length"),
        ({"label": [0, 1], "embedding": [[1.0], [2.0]]}, "no query has a positive"),
    ],
)
def test_embeddings_that_cannot_be_evaluated_are_refused_in_one_line(
    tmp_path: Path, columns: dict[str, list[object]], law: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from raydml.cli import main

    pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
    assert main(["evaluate", str(tmp_path / "bad.parquet"), f"storage={tmp_path}"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert law in line


def test_two_evaluations_of_the_same_do_not_take_each_others_blocks(finished: FinishedSearch, evaluated: Path) -> None:
    before = (evaluated / "embeddings.parquet").read_bytes()
    with (
        FileLock(evaluated / ".lock"),
        pytest.raises(ConfigError, match="is being written by another evaluation: wait"),
    ):
        evaluate(finished.folder / "best.yaml")
    assert (evaluated / "embeddings.parquet").read_bytes() == before

"""Metrics of whole sets in an evaluation: from the options on the command line to the files and the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raydml.cli import main
from raydml.config import ConfigError, EvaluateOptions, wanted_metrics
from raydml.config.grammar import validate
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY, Roles
from raydml.display import evaluation_table
from raydml.embedding_files import write_embeddings
from raydml.evaluate import Evaluation, evaluate
from raydml.measurement import Measured, measure
from raydml.metrics import cluster_metrics, geometry
from raydml.report.class_tables import read_class_means
from raydml.retrieval import EveryOther, QueryGallery, RandomGallery, RetrievalProtocol
from tests.retrieval_oracles import unit_rows

ALL = ("nmi", "ami", "f1", "distances", "spectral_decay", "silhouette")
# Classes of one to five rows, in no order.
LABELS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
ROLES = np.array([QUERY, GALLERY, ANY_ROLE, QUERY] * 5, dtype=np.int8)
OF_ALL = ("intra_distance", "silhouette")


def evaluated(folder: Path, roles: Roles | None = None, **options: Any) -> Path:  # noqa: ANN401
    """Evaluates a file of embeddings of which the first image has the index 100; the folder of the results."""
    rows, labels = unit_rows(LABELS, seed=1)
    path = folder / "rows.parquet"
    write_embeddings(path, rows.float().numpy(), labels.numpy(), 100 + np.arange(len(labels)), roles)
    evaluate(path, storage=str(folder / "runs"), recall_at=(1, 2), **options)
    [found] = folder.glob("runs/evaluations/*")
    return found


def table_of(folder: Path) -> dict[int, dict[str, float]]:
    """per_class.csv by class."""
    with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
        return {int(row.pop("class")): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)}


@pytest.mark.parametrize("roles", [None, ROLES], ids=["every other", "query against gallery"])
def test_an_evaluation_has_the_metrics_of_all_rows(tmp_path: Path, roles: Roles | None) -> None:
    folder = evaluated(tmp_path, roles, metrics=ALL, num_clusters=6, cluster_iterations=2)
    rows, labels = unit_rows(LABELS, seed=1)
    rows = torch.nn.functional.normalize(rows.float(), dim=1)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    whole = {
        **cluster_metrics(rows, labels, names=ALL[:3], num_clusters=6, iterations=2),
        **geometry(rows, labels).metrics,
    }
    assert {name: metrics[name] for name in whole} == pytest.approx(whole, abs=1e-7)
    assert {"recall@1", "map@r", "num_queries"} < metrics.keys()


@pytest.mark.parametrize("roles", [None, ROLES], ids=["every other", "query against gallery"])
def test_a_class_has_its_distance_and_its_silhouette(tmp_path: Path, roles: Roles | None) -> None:
    folder = evaluated(tmp_path, roles, metrics=ALL)
    rows, labels = unit_rows(LABELS, seed=1)
    expected = geometry(rows, labels).by_class
    found = table_of(folder)
    assert found.keys() >= {3, 5, 9}
    for label, row in found.items():
        assert {name: row[name] for name in OF_ALL} == pytest.approx({name: expected[name][label] for name in OF_ALL})
    # They are of all rows: the report must not take them for means over queries.
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    read = read_class_means(folder, metrics)
    assert read is not None
    assert not {*OF_ALL} & read.means.keys()


@pytest.mark.parametrize("roles", [None, ROLES], ids=["every other", "query against gallery"])
def test_every_query_has_a_line_of_its_own(tmp_path: Path, roles: Roles | None) -> None:
    folder = evaluated(tmp_path, roles, metrics=("silhouette",))
    table = pq.read_table(folder / "per_query.parquet").to_pydict()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert list(table)[:2] == ["index", "label"]
    assert len(table["index"]) == metrics["num_queries"] < len(LABELS)
    assert table["label"] == [LABELS[i] for i in table["index"]]
    assert roles is None or all(roles[i] != GALLERY for i in table["index"])
    for name in ("recall@1", "map@r", "tied_queries"):
        assert np.mean(table[name]) == pytest.approx(metrics[name], abs=1e-12)
    silhouettes = geometry(*unit_rows(LABELS, seed=1)).by_row["silhouette"]
    assert table["silhouette"] == pytest.approx(silhouettes[table["index"]].tolist(), abs=1e-6)


def test_a_drawn_query_is_found_by_its_place(tmp_path: Path) -> None:
    rows, labels = unit_rows(LABELS, seed=1)
    measured = measured_by(RandomGallery(40))
    place = measured.queries.place
    assert place is not None
    alone = {6, 7}
    assert {LABELS[i] for i in place.tolist()} == {*LABELS} - alone
    assert torch.equal(measured.queries.labels, labels[place])
    assert measured.by_row["silhouette"].shape == (len(rows),)


def measured_by(protocol: RetrievalProtocol) -> Measured:
    rows, labels = unit_rows(LABELS, seed=1)
    wanted = wanted_metrics((1,), ("silhouette",))
    return measure("x", protocol, rows.float().numpy(), labels.numpy(), wanted, EvaluateOptions())


@pytest.mark.parametrize("protocol", [EveryOther(), QueryGallery(ROLES), RandomGallery(3)])
def test_the_metrics_of_all_rows_do_not_depend_on_the_protocol(protocol: RetrievalProtocol) -> None:
    expected = geometry(*unit_rows(LABELS, seed=1)).metrics["silhouette"]
    assert measured_by(protocol).metrics()["silhouette"] == pytest.approx(expected, abs=1e-6)


def test_without_asking_there_are_none(tmp_path: Path) -> None:
    folder = evaluated(tmp_path)
    names = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).keys()
    assert not {"nmi", "silhouette", "density", "spectral_decay"} & names
    assert list(pq.read_schema(folder / "per_query.parquet").names) == [
        *("index", "label", "recall@1", "recall@2", "map@r", "r_precision", "tied_queries")
    ]


@pytest.mark.parametrize(
    ("words", "law"),
    [
        (["metrics=[nmi]", "num_clusters=21"], "num_clusters must be in 1 ... 20, the rows, but got num_clusters=21"),
        (["metrics=[purity]"], "metrics must be of"),
    ],
)
def test_what_cannot_be_computed_is_one_line(
    tmp_path: Path, words: list[str], law: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path)
    assert main(["evaluate", str(tmp_path / "rows.parquet"), f"storage={tmp_path / 'runs'}", *words]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert law in line


def test_raw_pixels_have_nothing_to_show_where_they_were_not_measured() -> None:
    metrics = {"recall@1": 0.5, "num_queries": 20.0, "nmi": 0.25}
    evaluation = Evaluation("x", Path(), "val", "", metrics, {"recall@1": 0.125, "num_queries": 20.0}, synthetic=False)
    table = evaluation_table(evaluation)
    assert [list(column.cells) for column in table.columns] == [
        ["recall@1", "num_queries", "nmi"],
        ["0.5000", "20", "0.2500"],
        ["0.1250", "20", ""],
    ]


@pytest.mark.parametrize("option", ["num_clusters", "cluster_iterations"])
def test_clusters_nobody_asked_for_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"{option} is one of metrics=nmi, ami, f1, but got metrics=\['map'\]"):
        validate(EvaluateOptions, {"metrics": ["map"], option: 3})
    assert validate(EvaluateOptions, {"metrics": ["nmi"], option: 3}).metrics == ("nmi",)

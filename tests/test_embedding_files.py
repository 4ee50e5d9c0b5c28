"""Embeddings in Parquet: roles go there and back, and a file of queries and gallery is evaluated as that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydml.cli import main
from raydml.config import ConfigError
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.embedding_files import write_embeddings
from raydml.evaluate import evaluate
from tests.retrieval_oracles import by_roles, mean_of, unit_rows
from tests.written import read_embeddings, read_roles

LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]
ROLES = [QUERY, GALLERY, QUERY, GALLERY, QUERY, GALLERY, QUERY, GALLERY, QUERY, QUERY, ANY_ROLE]


@pytest.mark.parametrize("roles", [None, ROLES])
def test_what_is_written_is_read(tmp_path: Path, roles: list[int] | None) -> None:
    rows = unit_rows(LABELS, seed=0)[0].float().numpy()
    column = None if roles is None else np.array(roles, dtype=np.int8)
    write_embeddings(tmp_path / "a" / "x.parquet", rows, np.array(LABELS), np.arange(11) + 5, column)
    found, labels = read_embeddings(tmp_path / "a" / "x.parquet")
    assert np.array_equal(found, rows)
    assert labels.tolist() == LABELS
    back = read_roles(tmp_path / "a" / "x.parquet")
    assert (back if back is None else back.tolist()) == roles
    table = pq.read_table(tmp_path / "a" / "x.parquet")
    assert table["index"].to_pylist() == list(range(5, 16))
    if roles is None:
        assert "role" not in table.column_names
    else:
        assert table["role"].to_pylist()[-3:] == ["query", "query", None]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.parquet"]


def theirs(folder: Path, roles: pa.Array) -> Path:
    """A file that something else made: neither scaled nor in the order of its labels."""
    rows, labels = unit_rows(LABELS, seed=1)
    table = pa.table({"role": roles, "label": labels.numpy(), "embedding": (3 * rows).tolist()})
    order = np.random.default_rng(0).permutation(len(LABELS))
    pq.write_table(table.take(pa.array(order)), folder / "theirs.parquet")
    return folder / "theirs.parquet"


def words() -> list[str | None]:
    names: dict[int, str | None] = {QUERY: "query", GALLERY: "gallery", ANY_ROLE: None}
    return [names[role] for role in ROLES]


@pytest.mark.parametrize("engine", ["rank", "faiss"])
@pytest.mark.parametrize(
    "roles",
    [
        pa.array(words()),
        pa.array([word or "" for word in words()]),
        pa.array(words(), pa.large_string()),
        pa.array(words()).dictionary_encode(),
    ],
    ids=["text", "empty text", "large text", "dictionary"],
)
def test_a_file_with_roles_is_evaluated_as_queries_and_gallery(
    tmp_path: Path, roles: pa.Array, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = theirs(tmp_path, roles)
    assert main(["evaluate", str(path), f"storage={tmp_path}", f"engine={engine}"]) == 0
    printed = capsys.readouterr().out
    assert "query against gallery: 7 queries, 5 gallery images" in " ".join(printed.split())
    [folder] = tmp_path.glob("evaluations/theirs-*")
    rows, y = unit_rows(LABELS, seed=1)
    expected, left_out = by_roles(rows, y, np.array(ROLES, dtype=np.int8), (1, 2, 4, 8))
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    counts = {"num_queries": len(expected), "num_queries_without_positive": left_out}
    assert found == pytest.approx(
        {**{k: v for k, v in mean_of(list(expected.values())).items() if k in found}, **counts}
    )
    assert json.loads((folder / "protocol.json").read_text(encoding="utf-8")) == {
        "protocol": "query against gallery",
        "num_queries": 7,
        "num_gallery": 5,
        "num_gallery_classes_without_query": 0,
        "engine": engine,
        "description": "query against gallery: 7 queries, 5 gallery images",
    }


@pytest.mark.parametrize("roles", [[None] * 11, [""] * 11])
def test_roles_that_say_nothing_are_none(tmp_path: Path, roles: list[str | None]) -> None:
    path = theirs(tmp_path, pa.array(roles, pa.string()))
    assert main(["evaluate", str(path), f"storage={tmp_path}"]) == 0
    [folder] = tmp_path.glob("evaluations/theirs-*")
    facts = json.loads((folder / "protocol.json").read_text(encoding="utf-8"))
    assert facts == {
        "protocol": "every other image",
        "num_images": 11,
        "engine": "rank",
        "description": "every image against all others: 11 images",
    }


@pytest.mark.parametrize(
    ("roles", "law"),
    [
        (
            ["query", "galery", "Query", "train", "x", *["gallery"] * 6],
            "role must be query, gallery or empty, but is also",
        ),
        ([1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1], "role must be query, gallery or empty, but is also 1, 2"),
        (["query"] * 11, "some have a role, but none is a gallery image"),
        (["gallery"] * 11, "some have a role, but none is a query image"),
    ],
)
def test_roles_that_nobody_knows_are_refused(tmp_path: Path, roles: list[object], law: str) -> None:
    path = theirs(tmp_path, pa.array(roles))
    with pytest.raises(ConfigError, match=law):
        evaluate(path, storage=str(tmp_path))
    assert not (tmp_path / "evaluations").exists()


@pytest.mark.parametrize("option", ["test_list=large", "gallery=random"])
def test_a_file_has_no_test_lists(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_embeddings(tmp_path / "x.parquet", torch.eye(4).numpy(), np.array([0, 0, 1, 1]), np.arange(4))
    assert main(["evaluate", str(tmp_path / "x.parquet"), option]) == 2
    error = capsys.readouterr().err
    assert "only the test classes of vehicleid have one" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("{here}/file/runs", "storage: {here}/file/runs/evaluations cannot be made: Not a directory"),
        ("s3://bucket/runs", "storage: the evaluation of a file is kept in a local folder, but got s3://bucket/runs"),
    ],
)
def test_a_storage_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, storage: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    write_embeddings(tmp_path / "x.parquet", torch.eye(4).numpy(), np.array([0, 0, 1, 1]), np.arange(4))
    assert main(["evaluate", "x.parquet", f"storage={storage.format(here=tmp_path)}"]) == 2
    assert capsys.readouterr().err == f"error: {said.format(here=tmp_path)}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "x.parquet"]


def test_names_of_images_are_not_read_where_none_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("raydml.evaluate.images_of_stored", refused)
    write_embeddings(tmp_path / "x.parquet", torch.eye(4).numpy(), np.array([0, 0, 1, 1]), np.arange(4))
    assert evaluate(tmp_path / "x.parquet", storage=str(tmp_path), pictures=0)["num_queries"] == 4

"""Embeddings in Parquet by anyone: every way to write them reads the same, and what is wrong is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydml.config import ConfigError
from raydml.stored import fingerprint, open_stored, read_rows, stream
from tests.shard_cases import lists, plain_rows, write_parts

ROWS, LABELS = plain_rows(100)
UNIT = torch.nn.functional.normalize(torch.from_numpy(ROWS), dim=1).numpy()


def save(path: Path, column: pa.Array, **others: pa.Array) -> Path:
    pq.write_table(pa.table({"label": pa.array(range(len(column))), "embedding": column, **others}), path)
    return path


@pytest.mark.parametrize(
    "column",
    [
        lists(ROWS),
        pa.array(ROWS.tolist(), pa.list_(pa.float32())),
        pa.array(ROWS.astype(np.float64).tolist(), pa.large_list(pa.float64())),
        lists(ROWS.astype(np.float64)),
    ],
    ids=["fixed", "lists", "large lists of doubles", "fixed doubles"],
)
@pytest.mark.parametrize("group", [7, 1000])
def test_lists_of_any_kind_read_the_same(tmp_path: Path, column: pa.Array, group: int) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"embedding": column, "label": LABELS, "other": LABELS}), path, row_group_size=group)
    stored = open_stored(path)
    assert (stored.num_rows, stored.dim) == (100, 8)
    assert np.array_equal(read_rows(stored, np.arange(100)), UNIT)


def test_half_precision_and_integers_are_widened(tmp_path: Path) -> None:
    whole = (ROWS * 8).round()
    expected = torch.nn.functional.normalize(torch.from_numpy(whole), dim=1).numpy()
    for kind in (np.float16, np.int8):
        stored = open_stored(save(tmp_path / f"{np.dtype(kind)}.parquet", lists(whole.astype(kind))))
        assert np.array_equal(read_rows(stored, np.arange(100)), expected)


@pytest.mark.parametrize("batch", [1, 5, 10_000])
def test_any_rows_of_any_files_go_to_their_places(tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydml.stored._VALUES", 8 * batch)
    stored = open_stored(write_parts(tmp_path, ROWS, LABELS, cuts=(1, 40, 40, 77)))
    assert stored.starts.tolist() == [0, 1, 40, 40, 77, 100]
    assert sorted(set(stored.ends.tolist())) == [1, 17, 33, 40, 56, 72, 77, 93, 100]
    rng = np.random.default_rng(0)
    for index in (np.array([0]), np.array([99]), np.arange(39, 78), np.sort(rng.permutation(100)[:30])):
        place = rng.permutation(len(index))
        assert np.array_equal(read_rows(stored, index), UNIT[index])
        assert np.array_equal(read_rows(stored, index, place)[place], UNIT[index])


def test_a_place_is_a_file_a_folder_or_a_uri_and_other_files_do_not_matter(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "x", ROWS, LABELS, cuts=(50,))
    (folder / "embeddings.json").write_text("{}")
    (folder / ".part-000009.parquet").write_text("half")
    (folder / "deeper").mkdir()
    (folder / "part-000001.parquet").rename(folder / "deeper" / "last.parquet")
    for root, expected in ((folder, UNIT[[*range(50, 100), *range(50)]]), (folder / "part-000000.parquet", UNIT[:50])):
        for place in (str(root), f"file://{root}"):
            stored = open_stored(place)
            assert np.array_equal(read_rows(stored, np.arange(stored.num_rows)), expected)


def test_unit_rows_are_left_as_they_are(tmp_path: Path) -> None:
    assert np.array_equal(read_rows(open_stored(save(tmp_path / "x", lists(ROWS)), scaled=True), np.arange(100)), ROWS)


def test_another_content_has_another_fingerprint(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "x", ROWS, LABELS, cuts=(50,))
    file = folder / "part-000000.parquet"
    before = [fingerprint(open_stored(place)) for place in (folder, file)]
    assert [fingerprint(open_stored(place)) for place in (folder, file)] == before
    assert all(len(digits) == 8 for digits in before)
    file.touch()
    os.utime(file, (0, 0))
    assert fingerprint(open_stored(file)) == before[1]
    assert fingerprint(open_stored(folder)) != before[0]
    write_parts(folder, ROWS + 1, LABELS, cuts=(50,))
    assert fingerprint(open_stored(file)) != before[1]


SHORT = lists(ROWS[:, :4])
HOLES = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, None, 4.0], pa.float32()), 2)


@pytest.mark.parametrize(
    ("columns", "law"),
    [
        ({"label": [0]}, "needs the columns label and embedding, but has label"),
        ({"label": ["a"], "embedding": [[1.0]]}, "label must be integers, .*but is string"),
        (
            {"label": pa.array(["a"]).dictionary_encode(), "embedding": [[1.0]]},
            "label must be integers, .*but is string",
        ),
        ({"label": [0], "embedding": [1.0]}, "embedding must be lists of numbers, but is double"),
        ({"label": [0], "embedding": [["a"]]}, "embedding must be lists of numbers, but is list"),
        ({"label": [0, 1], "embedding": [[1.0], [2.0, 3.0]]}, r"must all have the same length, but have \[1, 2\]"),
        ({"label": [0], "embedding": pa.array([[]], pa.list_(pa.float32()))}, "must have at least one number"),
        ({"label": [0, 1], "embedding": [[1.0], None]}, "must not be null, but some from row 0 on are"),
        ({"label": [0, 1], "embedding": [[1.0, 2.0], [None, 1.0]]}, "must not be null"),
        ({"label": [0, 1], "embedding": pa.array([[1.0], None], pa.list_(pa.float32(), 1))}, "must not be null"),
        ({"label": [0, 1], "embedding": HOLES}, "must not be null"),
        ({"label": pa.array([], pa.int64()), "embedding": pa.array([], pa.list_(pa.float32()))}, "no embeddings"),
    ],
)
def test_what_is_no_embedding_is_refused_in_one_line(tmp_path: Path, columns: dict[str, object], law: str) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ConfigError, match=rf"^{path}: .*{law}") as caught:
        read_rows(open_stored(path), np.arange(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_rows_that_are_not_finite_are_named_over_all_files(tmp_path: Path, value: float) -> None:
    rows = ROWS.astype(np.float64)
    rows[[70, 81, 82, 83, 84, 85], 3] = value
    folder = write_parts(tmp_path, rows, LABELS, cuts=(50,), group=100)
    law = r"part-000001.parquet: embeddings must be finite, .*: rows 70, 81, 82, 83, 84, \.\.\. \(counted from 0"
    with pytest.raises(ConfigError, match=law):
        read_rows(open_stored(folder), np.arange(100))
    assert len(read_rows(open_stored(folder), np.arange(70))) == 70


@pytest.mark.parametrize("column", [SHORT, pa.array(ROWS[:, :4].tolist())], ids=["fixed", "lists"])
def test_a_file_of_another_dimension_is_named(tmp_path: Path, column: pa.Array) -> None:
    save(tmp_path / "a.parquet", lists(ROWS))
    save(tmp_path / "b.parquet", column)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/b.parquet: embeddings must all have the same length, .*4"):
        read_rows(open_stored(tmp_path), np.arange(200))


@pytest.mark.parametrize("name", ["role", "group"])
def test_a_column_that_only_some_files_have_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a.parquet", lists(ROWS), **{name: pa.array(["query"] * 100)})
    save(tmp_path / "b.parquet", lists(ROWS))
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/b.parquet: {name} must be a column of all files or of none"):
        open_stored(tmp_path)


def test_places_without_parquet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no file \*.parquet"):
        open_stored(tmp_path)
    with pytest.raises(ConfigError, match=f"no such file or folder: {tmp_path}/absent"):
        open_stored(tmp_path / "absent")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ConfigError, match=f"^{tmp_path}/x.parquet: no readable Parquet file: "):
        open_stored(tmp_path / "x.parquet")


def test_columns_come_in_order_from_all_files(tmp_path: Path) -> None:
    stored = open_stored(write_parts(tmp_path, ROWS, LABELS, cuts=(30, 60)))
    parts = list(stream(stored, ["label"], 20, 80, batch_size=16))
    assert [part.row for part in parts] == sorted(part.row for part in parts)
    assert np.array_equal(np.concatenate([part.columns[0].to_numpy() for part in parts]), LABELS[20:80])
    assert {part.path for part in parts} == {f"part-00000{n}.parquet" for n in range(3)}


def test_a_part_of_one_huge_row_group_needs_the_memory_of_a_few_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200_000, 64)).astype(np.float32)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"label": np.arange(200_000), "embedding": lists(rows)}), path, use_dictionary=False)
    stored = open_stored(path)
    assert stored.groups == ((200_000,),)
    before = pa.total_allocated_bytes()
    parts = stream(stored, ["embedding"], 100_000, 200_000, batch_size=1000)
    assert max(pa.total_allocated_bytes() - before for _ in parts) < rows.nbytes / 10

"""Who is a query and who the gallery, and how both are cut."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydml.config import ConfigError
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.shards import Columns, cut, query_blocks, read_columns, rows_of
from raydml.stored import open_stored
from tests.shard_cases import mixed_roles, plain_rows, write_parts

ROWS, LABELS = plain_rows(60)
NO_ENDS = np.zeros(0, dtype=np.int64)


def save(path: Path, number: int, columns: Mapping[str, object]) -> Path:
    rows = len(next(iter(columns.values())))  # type: ignore[arg-type]
    table = pa.table({"embedding": [[1.0]] * rows, "label": [0] * rows, **columns})
    pq.write_table(table, path / f"{number}.parquet", row_group_size=3)
    return path


@pytest.mark.parametrize("at_a_time", [4, 1000])
def test_columns_of_all_files_are_read_in_order(
    tmp_path: Path, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydml.shards._AT_A_TIME", at_a_time)
    roles = mixed_roles(60)
    columns = read_columns(open_stored(write_parts(tmp_path, ROWS, LABELS, roles, cuts=(20, 50))))
    assert np.array_equal(columns.labels, LABELS)
    assert columns.roles is not None
    assert np.array_equal(columns.roles, roles)
    assert columns.groups is None


@pytest.mark.parametrize(
    "labels",
    [pa.array([3, 1, 3], pa.uint8()), pa.array([3, 1, 3], pa.uint64()), pa.array([3, 1, 3]).dictionary_encode()],
)
def test_labels_are_integers_of_any_width(tmp_path: Path, labels: pa.Array) -> None:
    assert read_columns(open_stored(save(tmp_path, 0, {"label": labels}))).labels.tolist() == [3, 1, 3]


def test_groups_are_numbered_alike_in_all_files_and_a_row_without_one_is_in_none(tmp_path: Path) -> None:
    save(tmp_path, 0, {"group": pa.array(["b", "a", None, "b"])})
    save(tmp_path, 1, {"group": pa.array(["a", None, "c"]).dictionary_encode()})
    groups = read_columns(open_stored(tmp_path)).groups
    assert groups is not None
    assert groups.tolist() == [0, 1, -3, 0, 1, -6, 2]


@pytest.mark.parametrize(
    ("columns", "law"),
    [
        ({"label": [0, None]}, "label must not be null"),
        ({"label": pa.array([0, 2**63], pa.uint64())}, "label must be integers of 64 bits"),
        ({"role": ["query", "galery", "train"]}, "role must be query, gallery or empty, but is also galery, train"),
        ({"role": [1, 2]}, "role must be query, gallery or empty, but is also 1, 2"),
    ],
)
def test_columns_that_say_nothing_known_are_refused(tmp_path: Path, columns: dict[str, object], law: str) -> None:
    with pytest.raises(ConfigError, match=f"^{tmp_path}/0.parquet: {law}"):
        read_columns(open_stored(save(tmp_path, 0, columns)))


@pytest.mark.parametrize("roles", [None, [ANY_ROLE] * 60])
def test_without_roles_every_row_is_both(roles: list[int] | None) -> None:
    columns = Columns(LABELS, None if roles is None else np.array(roles, dtype=np.int8))
    assert rows_of(columns, QUERY).tolist() == rows_of(columns, GALLERY).tolist() == list(range(60))


def test_roles_say_who_is_what() -> None:
    columns = Columns(LABELS[:4], np.array([QUERY, GALLERY, ANY_ROLE, QUERY], dtype=np.int8))
    assert rows_of(columns, QUERY).tolist() == [0, 2, 3]
    assert rows_of(columns, GALLERY).tolist() == [1, 2]


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 40, 1000])
@pytest.mark.parametrize("ends", [[], [60], [10, 20, 30, 60], list(range(1, 61))])
def test_shards_are_the_gallery_cut_into_equal_parts_sorted_by_class(num_shards: int, ends: list[int]) -> None:
    roles = mixed_roles(60)
    columns = Columns(LABELS, roles, np.arange(60) % 4)
    index = rows_of(columns, GALLERY)
    gallery = cut(columns, index, np.array(ends, dtype=np.int64), num_shards)
    assert gallery.num_shards == min(num_shards, len(index))
    shards = [gallery.shard(number) for number in range(gallery.num_shards)]
    assert np.array_equal(np.sort(np.concatenate([shard.identity for shard in shards])), index)
    sizes = [len(shard.identity) for shard in shards]
    assert sizes == [gallery.num_rows(number) for number in range(gallery.num_shards)]
    assert max(sizes) - min(sizes) <= 1
    for shard in shards:
        assert (np.diff(shard.labels) >= 0).all()
        assert np.array_equal(shard.labels, LABELS[shard.identity])
        assert shard.groups is not None
        assert np.array_equal(shard.groups, shard.identity % 4)
        assert shard.start <= shard.identity.min()
        assert shard.identity.max() < shard.stop


def test_a_cut_moves_to_the_end_of_a_row_group_that_is_near() -> None:
    labels = np.zeros(10_000, dtype=np.int64)
    columns, every = Columns(labels, None), np.arange(10_000)
    assert cut(columns, every, np.array([4800, 7000, 10_000]), 2).bounds.tolist() == [0, 4800, 10_000]
    assert cut(columns, every, np.array([4700, 7000, 10_000]), 2).bounds.tolist() == [0, 5000, 10_000]
    assert cut(columns, every, np.array([3000, 6501, 10_000]), 3).bounds.tolist() == [0, 3333, 6501, 10_000]
    assert cut(columns, every, NO_ENDS, 4).bounds.tolist() == [0, 2500, 5000, 7500, 10_000]


def test_blocks_of_queries_have_few_queries_and_few_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydml.shards._MOST_QUERIES", 9)
    monkeypatch.setattr("raydml.shards._MOST_POSITIVES", 30)
    # One class is so large that each of its queries is a block.
    labels = np.concatenate([np.full(40, 7), np.arange(100, 130), np.repeat([200, 201], 10)])
    query = np.delete(np.arange(90), [3, 5])
    gallery = np.arange(85)
    blocks = list(query_blocks(labels, query, gallery))
    assert [(a.stop, b.start) for a, b in pairwise(blocks) if a.stop != b.start] == []
    assert (blocks[0].start, blocks[-1].stop) == (0, 88)
    assert len(blocks) > 38 + 3
    for block in blocks:
        positives = sum(int((labels[gallery] == label).sum()) for label in labels[query[block]])
        assert block.stop - block.start <= 9
        assert positives <= 30 or block.stop - block.start == 1


def test_a_query_whose_class_the_gallery_lacks_has_no_positive() -> None:
    labels = np.array([5, 9, 5])
    assert list(query_blocks(labels, np.array([0, 1]), np.array([2]))) == [slice(0, 2)]

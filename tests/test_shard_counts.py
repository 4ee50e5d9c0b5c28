"""Counts of shards, in any order and number, give the metrics of one process bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raydml.config import Wanted, wanted_metrics
from raydml.data.listing import GALLERY, QUERY
from raydml.per_query import QueryMetrics
from raydml.retrieval import EveryOther, protocol_metrics, protocol_of_roles
from raydml.shard_actor import ShardActor, rows_of_shard
from raydml.shard_counts import BLOCKS_AT_HAND, Counts, Queries
from raydml.shards import Columns, cut, read_columns, rows_of
from raydml.stored import open_stored
from raydml.waves import Pass, Unit
from tests.shard_cases import mixed_roles, plain_rows, tied_rows, write_parts

WANTED = wanted_metrics((1, 2, 4, 1000), ("map", "mrr", "map@3", "precision@5"))


def counted(root: Path, num_shards: int, wanted: Wanted = WANTED, *, scaled: bool = False) -> QueryMetrics:
    """One actor after the other, in this process."""
    stored = open_stored(root, scaled=scaled)
    columns = read_columns(stored)
    gallery = cut(columns, rows_of(columns, GALLERY), stored.ends, num_shards)
    queries = Queries(stored, columns, rows_of(columns, QUERY), gallery.index, lambda x: x)
    counts = Counts(queries, wanted, lambda x: x)
    actor = ShardActor(stored, 1)
    passes: tuple[Pass, ...] = ("positives", "negatives")
    for kind in passes:
        for shard in range(gallery.num_shards):
            actor.hold(gallery.shard(shard))
            for block in range(len(queries.blocks)):
                given = queries.given(block)
                answer = (
                    actor.positives(given) if kind == "positives" else actor.negatives(given, counts.thresholds(block))
                )
                counts.add(Unit(kind, shard, block), answer, last=shard == gallery.num_shards - 1)
    return counts.metrics()


def require_equal(found: QueryMetrics, expected: QueryMetrics) -> None:
    assert found.values.keys() == expected.values.keys()
    for name, values in expected.values.items():
        assert torch.equal(found.values[name], values), name
    assert torch.equal(found.labels, expected.labels)
    assert found.place is not None
    assert expected.place is not None
    assert torch.equal(found.place, expected.place)
    assert found.num_without_positive == expected.num_without_positive
    assert found.means() == expected.means()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More blocks than are at hand, of uneven sizes."""
    monkeypatch.setattr("raydml.shards._MOST_QUERIES", 37)
    monkeypatch.setattr("raydml.shards._MOST_POSITIVES", 150)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
@pytest.mark.parametrize("roles", [False, True])
def test_shards_find_what_one_process_finds(tmp_path: Path, num_shards: int, roles: bool) -> None:
    for case in (tied_rows, plain_rows):
        rows, labels = case(211)
        given = mixed_roles(211) if roles else None
        root = write_parts(tmp_path / case.__name__, rows, labels, given, cuts=(1, 90, 190))
        unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
        protocol = protocol_of_roles(given, "x") if roles else EveryOther()
        found = counted(root, num_shards)
        require_equal(found, protocol_metrics(protocol, unit, labels, wanted=WANTED))
        if case is tied_rows:
            assert found.means()["tied_queries"] > 0.2


def test_rows_that_are_scaled_are_left_as_they_are(tmp_path: Path) -> None:
    rows, labels = plain_rows(100)
    root = write_parts(tmp_path, rows, labels)
    require_equal(counted(root, 3, scaled=True), protocol_metrics(EveryOther(), rows, labels, wanted=WANTED))


def test_a_constant_embedding_finds_nothing(tmp_path: Path) -> None:
    labels = np.arange(60) % 6
    found = counted(
        write_parts(tmp_path, np.ones((60, 4), dtype=np.float32), labels), 3, wanted_metrics((1, 8))
    ).means()
    assert (found["recall@1"], found["recall@8"], found["tied_queries"]) == (0, 0, 1)


def test_no_query_with_a_positive_is_refused(tmp_path: Path) -> None:
    root = write_parts(tmp_path, np.eye(20, dtype=np.float32), np.arange(20))
    with pytest.raises(ValueError, match="no query has a positive"):
        counted(root, 2)


def test_few_blocks_are_at_hand_and_one_that_is_needed_again_is_read_again(tmp_path: Path) -> None:
    rows, labels = plain_rows(211)
    stored = open_stored(write_parts(tmp_path, rows, labels))
    every = np.arange(211)
    laid: list[object] = []

    def put(block: object) -> int:
        laid.append(block)
        return len(laid)

    queries = Queries(stored, Columns(labels, None), every, every, put)
    assert len(queries.blocks) > BLOCKS_AT_HAND + 1
    assert sum(map(queries.size, range(len(queries.blocks)))) == 211
    assert [queries.given(n) for n in (0, 1, 0, 2, 3, 0, 4)] == [1, 2, 1, 3, 4, 1, 5]
    assert [queries.given(n) for n in (0, 1)] == [1, 6]


def test_an_actor_that_does_not_see_the_files_is_sent_its_rows(tmp_path: Path) -> None:
    """A folder of a machine's own: there, absent, and another of the same name."""
    write_parts(tmp_path / "here", *plain_rows(60))
    stored = open_stored(tmp_path / "here")
    stamps = stored.files.stamps(stored.paths)
    columns = read_columns(stored)
    gallery = cut(columns, rows_of(columns, GALLERY), stored.ends, 2)
    queries = Queries(stored, columns, rows_of(columns, QUERY), gallery.index, lambda x: x)
    asked = queries.given(0)
    seeing, blind = ShardActor(stored, 1), ShardActor(stored, 1)
    assert seeing.ready(stamps)
    rows = rows_of_shard(stored, gallery.shard(1))
    seeing.hold(gallery.shard(1))
    (tmp_path / "here").rename(tmp_path / "elsewhere")
    assert not blind.ready(stamps)
    blind.hold(gallery.shard(1), rows)
    of_one, of_other = (actor.positives(asked) for actor in (seeing, blind))
    assert np.array_equal(of_one[0], of_other[0])
    assert np.array_equal(of_one[1], of_other[1])
    write_parts(tmp_path / "here", *tied_rows(60))
    assert not ShardActor(stored, 1).ready(stamps), "another file of the same name"
    assert ShardActor(stored, 1).ready(None), "a URI is the same everywhere"

"""Several processes that write snapshots of one folder: the one that came last goes on, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydml.patience import TakenOverError
from raydml.snapshot import NOTHING, Entry, Snapshot, parsed, written
from raydml.storage import LIST, RemoteFolder
from tests.test_storage import FILES, files_of, objects_of, remote, store, stored, write

__all__ = ["store"]


def test_a_list_is_read_as_it_was_written() -> None:
    for snapshot in (NOTHING, Snapshot("w", 7, {"a/b": Entry("a/b~w-7", 3, "d")})):
        assert parsed(written(snapshot), "here") == snapshot


def test_the_process_that_came_last_writes_and_the_other_is_told(store: Path, tmp_path: Path) -> None:
    first = stored(store, tmp_path / "first")
    second = remote(store, tmp_path / "second")
    second.pull()
    write(tmp_path / "second", {"metrics.jsonl": "1\n2\n"})
    second.push()
    write(tmp_path / "first", {"metrics.jsonl": "old"})
    with pytest.raises(TakenOverError, match=r"store/run: another process has gone on with this; this one ends$"):
        first.push()
    second.push()
    remote(store, tmp_path / "third").pull()
    assert files_of(tmp_path / "third")["metrics.jsonl"] == "1\n2\n"


def test_who_has_not_looked_may_not_write_over_a_snapshot(store: Path, tmp_path: Path) -> None:
    stored(store, tmp_path / "first")
    with pytest.raises(TakenOverError):
        stored(store, tmp_path / "second")


def test_dropping_takes_the_newest_and_brings_nothing(store: Path, tmp_path: Path) -> None:
    """A process that ends may store its last words between two looks of a driver."""
    trial = stored(store, tmp_path / "here")
    driver = remote(store, tmp_path / "driver")
    driver.pull(skip=lambda path: "checkpoint" in path)
    write(tmp_path / "here", {"metrics.jsonl": "1\nthe end"})
    trial.push()
    write(tmp_path / "driver", {"metrics.jsonl": "something else"})
    driver.drop(lambda path: "checkpoint" in path)
    remote(store, tmp_path / "there").pull()
    assert files_of(tmp_path / "there") == {"config.yaml": "a: 1", "metrics.jsonl": "1\nthe end"}
    assert objects_of(store) == sorted(["config.yaml", LIST, "metrics.jsonl"])
    before = (store / LIST).read_text()
    driver.drop(lambda path: "checkpoint" in path)
    assert (store / LIST).read_text() == before, "nothing to drop"


@pytest.mark.parametrize("at", ["before it reads", "before it writes"])
def test_who_takes_over_gets_all_and_the_one_before_writes_no_more(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Also where the one before, which was thought dead, stores something at the last moment."""
    lost = stored(store, tmp_path / "lost")
    found, usual, looks = remote(store, tmp_path / "found"), RemoteFolder._read, list[int]()

    def at_the_last_moment(self: RemoteFolder) -> object:
        if self is found:
            looks.append(1)
            if len(looks) == (1 if at == "before it reads" else 2):
                write(tmp_path / "lost", {"metrics.jsonl": "1\n2\n"})
                lost.push()
        return usual(self)

    monkeypatch.setattr(RemoteFolder, "_read", at_the_last_moment)
    found.take_over()
    assert files_of(tmp_path / "found") == {**FILES, "metrics.jsonl": "1\n2\n"}
    write(tmp_path / "lost", {"metrics.jsonl": "1\n2\n3\n"})
    with pytest.raises(TakenOverError):
        lost.push()
    write(tmp_path / "found", {"metrics.jsonl": "1\n2\nthree\n"})
    found.push()
    remote(store, tmp_path / "there").pull()
    assert files_of(tmp_path / "there")["metrics.jsonl"] == "1\n2\nthree\n"


def test_who_is_overtaken_while_it_stores_does_not_write_the_list(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, found = stored(store, tmp_path / "lost"), remote(store, tmp_path / "found")
    usual = RemoteFolder._store

    def slowly(self: RemoteFolder, path: str) -> object:
        if self is lost:
            found.take_over()
        return usual(self, path)

    monkeypatch.setattr(RemoteFolder, "_store", slowly)
    write(tmp_path / "lost", {"metrics.jsonl": "1\n2\n"})
    with pytest.raises(TakenOverError):
        lost.push()
    remote(store, tmp_path / "there").pull()
    assert files_of(tmp_path / "there") == FILES

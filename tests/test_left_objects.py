"""What a push that was killed had stored: it goes with the first push of whoever took over, and nothing else goes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from raydml.patience import Patience, StorageError, TakenOverError
from raydml.storage import LIST, RemoteFolder
from tests.test_storage import FILES, files_of, objects_of, remote, store, stored, write

__all__ = ["store"]

NEWER = {"metrics.jsonl": "1\n2\n", "fold0/checkpoint/meta.json": '{"epoch": 2}'}
# What others put into the folder of a run: an evaluation with a list of its own, and embeddings without one.
OTHERS = {"evaluation/val/metrics.json~01234567-1": "", "embeddings/mine/part-000000.parquet": "", "note~1.txt": ""}


def killed_push(writer: RemoteFolder, folder: Path, monkeypatch: pytest.MonkeyPatch, *, stored: int = 2) -> None:
    """It dies behind so many objects, the last of them half written."""
    usual, done = RemoteFolder._write, list[str]()

    def dies(self: RemoteFolder, key: str, blocks: Iterable[bytes]) -> None:
        if len(done) >= stored:
            path = Path(f"{self._full(key)}.{self._writer}.part")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(key)
        usual(self, key, blocks)

    write(folder, NEWER)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            writer.push()


def named(folder: Path) -> list[str]:
    return sorted([*files_of(folder), LIST])


@pytest.mark.parametrize("objects", [0, 1, 2])
def test_what_a_killed_push_left_goes_with_the_next_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objects: int
) -> None:
    killed_push(stored(store, tmp_path / "first"), tmp_path / "first", monkeypatch, stored=objects)
    write(store, OTHERS)
    assert len(objects_of(store)) > len(FILES) + 1 + len(OTHERS)
    second = remote(store, tmp_path / "second")
    second.take_over()
    assert files_of(tmp_path / "second") == FILES
    write(tmp_path / "second", {"metrics.jsonl": "1\ntwo\n"})
    second.push()
    left = [path for path in OTHERS if (store / path).exists()]
    assert left == list(OTHERS), "who stored those may need them"
    for path in OTHERS:
        (store / path).unlink()
    assert objects_of(store) == named(tmp_path / "second")
    assert remote(store, tmp_path / "third").pull()
    assert files_of(tmp_path / "third") == {**FILES, "metrics.jsonl": "1\ntwo\n"}


def test_a_first_push_that_was_killed_leaves_nothing_either(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = remote(store, tmp_path / "first")
    first.take_over()
    killed_push(first, tmp_path / "first", monkeypatch, stored=1)
    second = remote(store, write(tmp_path / "second", {}))
    second.take_over()
    write(tmp_path / "second", FILES)
    second.push()
    assert objects_of(store) == named(tmp_path / "second")


def test_only_who_took_something_over_lists_objects_and_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, listed = RemoteFolder._objects_beside, list[RemoteFolder]()

    def counted(self: RemoteFolder, paths: Iterable[str]) -> set[str]:
        listed.append(self)
        return usual(self, paths)

    monkeypatch.setattr(RemoteFolder, "_objects_beside", counted)
    fresh = remote(store, tmp_path / "first")
    fresh.take_over()
    write(tmp_path / "first", FILES)
    fresh.push()
    assert listed == [], "where nobody was before"
    second = remote(store, tmp_path / "second")
    second.take_over()
    for text in "ab":
        write(tmp_path / "second", {"metrics.jsonl": text})
        second.push()
    assert listed == [second]
    other = remote(store, tmp_path / "third")
    other.compare()
    write(tmp_path / "third", {"failure.json": "{}"})
    other.push()
    assert listed == [second], "who is not alone removes nothing that it does not know"


def test_who_is_about_to_lose_lists_nothing_that_was_removed(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has stored its objects when the other removes them, and wakes up before it writes the list."""
    lost, found = stored(store, tmp_path / "lost"), remote(store, tmp_path / "found")
    usual = RemoteFolder._store

    def slowly(self: RemoteFolder, path: str) -> object:
        entry = usual(self, path)
        if self is lost:
            found.take_over()
            write(tmp_path / "found", {"metrics.jsonl": "1\ntwo\n"})
            found.push()
        return entry

    monkeypatch.setattr(RemoteFolder, "_store", slowly)
    write(tmp_path / "lost", {"metrics.jsonl": "1\n2\n"})
    with pytest.raises(TakenOverError):
        lost.push()
    assert objects_of(store) == named(tmp_path / "found")
    assert remote(store, tmp_path / "third").pull()
    assert files_of(tmp_path / "third") == {**FILES, "metrics.jsonl": "1\ntwo\n"}


def test_who_sleeps_between_listing_and_removing_spares_what_came_since(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is overtaken after its list: what it removes it had seen before."""
    stored(store, tmp_path / "first")
    second, third = (remote(store, tmp_path / name) for name in ("second", "third"))
    second.take_over()
    usual = RemoteFolder._remove

    def late(self: RemoteFolder, keys: Iterable[str]) -> None:
        found = list(keys)
        if self is second:
            third.take_over()
            write(tmp_path / "third", {"metrics.jsonl": "1\n2\n3\n"})
            third.push()
        usual(self, found)

    monkeypatch.setattr(RemoteFolder, "_remove", late)
    write(tmp_path / "second", {"metrics.jsonl": "1\n2\n"})
    second.push()
    assert remote(store, tmp_path / "fourth").pull()
    assert files_of(tmp_path / "fourth") == {**FILES, "metrics.jsonl": "1\n2\n3\n"}


def test_a_list_that_is_refused_for_minutes_is_not_written_over_that_of_another(store: Path, tmp_path: Path) -> None:
    """Between two attempts another process went on."""
    found = remote(store, tmp_path / "found")
    usual = RemoteFolder._write

    def sleep(seconds: float) -> None:
        found.take_over()
        write(tmp_path / "found", {"metrics.jsonl": "1\ntwo\n"})
        found.push()

    class Refused(RemoteFolder):
        def _write(self, key: str, blocks: Iterable[bytes]) -> None:
            if key == LIST and self.folder == tmp_path / "lost" and refusing.pop():
                raise OSError("503")
            usual(self, key, blocks)

    refusing = [False]
    lost = Refused(store.as_uri(), write(tmp_path / "lost", FILES), patience=Patience(60.0, sleep=sleep))
    lost.push()
    refusing.append(True)
    write(tmp_path / "lost", {"metrics.jsonl": "1\n2\n"})
    with pytest.raises(TakenOverError):
        lost.push()
    assert remote(store, tmp_path / "third").pull()
    assert files_of(tmp_path / "third") == {**FILES, "metrics.jsonl": "1\ntwo\n"}


def test_an_answer_that_was_lost_costs_nothing(store: Path, tmp_path: Path) -> None:
    """The list was written, and nobody heard of it: what the next push stores has other names, and nothing is left."""
    usual, lost = RemoteFolder._write, [False]

    class Unheard(RemoteFolder):
        def _write(self, key: str, blocks: Iterable[bytes]) -> None:
            usual(self, key, blocks)
            if key == LIST and lost[-1]:
                raise OSError("timed out")

    here = Unheard(store.as_uri(), write(tmp_path / "here", FILES), patience=Patience(0.0))
    here.push()
    lost.append(True)
    write(tmp_path / "here", {"metrics.jsonl": "1\n2\n"})
    with pytest.raises(StorageError, match="timed out"):
        here.push()
    before = {path for path in store.rglob("metrics.jsonl~*") if path.read_text() == "1\n2\n"}
    lost.append(False)
    write(tmp_path / "here", {"metrics.jsonl": "1\n2\nend"})
    here.push()
    assert not before & {*store.rglob("metrics.jsonl~*")}, "never written over while a list named it"
    assert objects_of(store) == named(tmp_path / "here")
    assert remote(store, tmp_path / "there").pull()
    assert files_of(tmp_path / "there")["metrics.jsonl"] == "1\n2\nend"

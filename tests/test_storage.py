"""Snapshots of a folder on a storage that renames and locks nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.patience import Patience, StorageError
from raydml.storage import LIST, RemoteFolder, below, snapshots_below


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store" / "run"


def remote(store: Path, folder: Path, **more: object) -> RemoteFolder:
    patience = Patience(0.0, sleep=lambda seconds: pytest.fail("nothing to wait for"))
    return RemoteFolder(store.as_uri(), folder, **{"patience": patience, **more})  # type: ignore[arg-type]


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def files_of(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def objects_of(store: Path) -> list[str]:
    """Names of what is stored, without what makes them unique."""
    return sorted(p.relative_to(store).as_posix().partition("~")[0] for p in store.rglob("*") if p.is_file())


FILES = {"config.yaml": "a: 1", "fold0/checkpoint/meta.json": "{}", "metrics.jsonl": "1\n"}


def stored(store: Path, folder: Path, files: Mapping[str, str] = FILES) -> RemoteFolder:
    found = remote(store, write(folder, files))
    found.push()
    return found


def test_what_is_pushed_is_pulled(store: Path, tmp_path: Path) -> None:
    stored(store, tmp_path / "here")
    there = remote(store, tmp_path / "there")
    assert there.pull()
    assert files_of(tmp_path / "there") == FILES
    assert objects_of(store) == sorted([*FILES, LIST])


def test_where_nothing_is_nothing_is_pulled(store: Path, tmp_path: Path) -> None:
    write(tmp_path / "here", FILES)
    assert not remote(store, tmp_path / "here").pull()
    assert files_of(tmp_path / "here") == {}, "the storage is right, not the disk"
    assert not store.exists(), "asking makes nothing"


def test_only_what_has_changed_is_stored_and_the_old_goes(store: Path, tmp_path: Path) -> None:
    here = stored(store, tmp_path / "here")
    before = set(store.rglob("*"))
    here.push()
    assert set(store.rglob("*")) == before, "nothing to do"
    write(tmp_path / "here", {"metrics.jsonl": "1\n2\n"})
    (tmp_path / "here" / "config.yaml").unlink()
    here.push()
    after = set(store.rglob("*"))
    assert {p.name.partition("~")[0] for p in before - after} == {"config.yaml", "metrics.jsonl"}
    assert {p.name.partition("~")[0] for p in after - before} == {"metrics.jsonl"}
    remote(store, tmp_path / "there").pull()
    assert files_of(tmp_path / "there") == {"fold0/checkpoint/meta.json": "{}", "metrics.jsonl": "1\n2\n"}


def test_a_file_of_the_same_size_is_another_one(store: Path, tmp_path: Path) -> None:
    here = stored(store, tmp_path / "here")
    path = tmp_path / "here" / "metrics.jsonl"
    stamp = path.stat()
    path.write_text("2\n")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    here.push()
    remote(store, tmp_path / "there").pull()
    assert files_of(tmp_path / "there")["metrics.jsonl"] == "2\n"


def test_hidden_files_and_those_kept_elsewhere_stay_out(store: Path, tmp_path: Path) -> None:
    write(tmp_path / "here", {**FILES, ".lock": "", ".tune/x": "", "trials/0001/metrics.jsonl": ""})
    remote(store, tmp_path / "here", elsewhere=lambda path: path.startswith("trials/")).push()
    assert objects_of(store) == sorted([*FILES, LIST])


def test_pulling_does_not_remove_what_is_kept_elsewhere_or_hidden(store: Path, tmp_path: Path) -> None:
    stored(store, tmp_path / "here")
    more = {".lock": "", "trials/0001/metrics.jsonl": "", "left.txt": "newer than the storage"}
    write(tmp_path / "there", more)
    remote(store, tmp_path / "there", elsewhere=lambda path: path.startswith("trials/")).pull()
    assert files_of(tmp_path / "there") == {**FILES, ".lock": "", "trials/0001/metrics.jsonl": ""}


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_death_in_the_middle_leaves_the_snapshot_before(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """After so many of its three writes, of which the list is the last."""
    here = stored(store, tmp_path / "here")
    write(tmp_path / "here", {"metrics.jsonl": "1\n2\n", "fold0/checkpoint/meta.json": '{"epoch": 2}'})
    usual, done = RemoteFolder._write, list[str]()

    def dies(self: RemoteFolder, key: str, blocks: object) -> None:
        if len(done) >= after:
            raise KeyboardInterrupt
        done.append(key)
        usual(self, key, blocks)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            here.push()
    there = remote(store, tmp_path / "there")
    there.pull()
    assert files_of(tmp_path / "there") == FILES
    write(tmp_path / "there", {"metrics.jsonl": "1\n2\n"})
    there.push()
    remote(store, tmp_path / "third").pull()
    assert files_of(tmp_path / "third") == {**FILES, "metrics.jsonl": "1\n2\n"}


def test_what_was_skipped_stays_stored_until_it_is_dropped(store: Path, tmp_path: Path) -> None:
    stored(store, tmp_path / "here")
    driver = remote(store, tmp_path / "driver")
    driver.pull(skip=lambda path: "checkpoint" in path)
    assert set(files_of(tmp_path / "driver")) == {"config.yaml", "metrics.jsonl"}
    write(tmp_path / "driver", {"failure.json": "{}"})
    driver.push()
    assert objects_of(store) == sorted([*FILES, "failure.json", LIST])
    driver.drop(lambda path: "checkpoint" in path)
    assert objects_of(store) == sorted(["config.yaml", "failure.json", LIST, "metrics.jsonl"])
    assert "fold0/checkpoint/meta.json" not in driver.stored()
    assert "failure.json" in driver.stored()


def test_comparing_stores_only_what_differs_and_removes_nothing(store: Path, tmp_path: Path) -> None:
    stored(store, tmp_path / "here")
    write(tmp_path / "driver", {"config.yaml": "a: 1", "metrics.jsonl": "other", "evaluation/test/metrics.json": "{}"})
    driver = remote(store, tmp_path / "driver")
    driver.compare()
    before = set(store.rglob("*.yaml~*"))
    driver.push()
    assert set(store.rglob("*.yaml~*")) == before
    remote(store, tmp_path / "there").pull()
    wanted = {**FILES, "metrics.jsonl": "other", "evaluation/test/metrics.json": "{}"}
    assert files_of(tmp_path / "there") == wanted


def test_a_damaged_file_is_named(store: Path, tmp_path: Path) -> None:
    stored(store, tmp_path / "here")
    [path] = store.glob("metrics.jsonl~*")
    path.write_text("1\n\n")
    with pytest.raises(ConfigError, match=r"store/run/metrics\.jsonl~.*: is not what was stored"):
        remote(store, tmp_path / "there").pull()
    assert not (tmp_path / "there" / "metrics.jsonl").exists()
    path.unlink()
    with pytest.raises(ConfigError, match=r"store/run: a file of its snapshot is missing: .*metrics\.jsonl"):
        remote(store, tmp_path / "there").pull()


def test_a_writer_that_goes_on_does_not_disturb_a_reader(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = stored(store, tmp_path / "here")
    reader, usual = remote(store, tmp_path / "there"), RemoteFolder._newest

    def overtaken(self: RemoteFolder) -> object:
        found = usual(self)
        if self is reader and not (tmp_path / "here" / "more").exists():
            write(tmp_path / "here", {"metrics.jsonl": "1\n2\n", "more": ""})
            writer.push()
        return found

    monkeypatch.setattr(RemoteFolder, "_newest", overtaken)
    reader.pull()
    assert files_of(tmp_path / "there") == {**FILES, "metrics.jsonl": "1\n2\n", "more": ""}


# A list that somebody else wrote, and what is said of it.
BAD_LISTS: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "is no list of files"),
    "no object": ([], "is no list of files"),
    "another format": ({"format": 2}, "format 2, but this raydml reads 1"),
    "no files": ({"format": 1, "writer": "w", "number": 1, "files": []}, "is no list of files"),
    "above the folder": ("../../etc/passwd", "names what is not below its folder: ../../etc/passwd"),
    "from the root": ("/etc/passwd", "names what is not below its folder: /etc/passwd"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
@pytest.mark.parametrize("place", ["path", "key"])
def test_a_list_by_another_hand_is_refused(store: Path, tmp_path: Path, name: str, place: str) -> None:
    found, reason = BAD_LISTS[name]
    if isinstance(found, str) and found != "{":
        path, key = (found, "a") if place == "path" else ("a", found)
        files = {path: {"key": key, "num_bytes": 1, "digest": "d"}}
        found = {"format": 1, "writer": "w", "number": 1, "files": files}
    store.mkdir(parents=True)
    (store / LIST).write_text(found if isinstance(found, str) else json.dumps(found))
    with pytest.raises(ConfigError, match=rf"store/run/{LIST}: {reason}"):
        remote(store, tmp_path / "there").pull()


def test_a_storage_that_fails_for_a_while_is_waited_for(store: Path, tmp_path: Path) -> None:
    here = stored(store, tmp_path / "here")
    away = store.with_name("away")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            store.unlink()
            away.rename(store)

    def fail() -> None:
        waits.clear()
        store.rename(away)
        store.write_text("in the way: nothing can be read or written below")

    here._patience.seconds, here._patience.sleep = 600.0, sleep
    write(tmp_path / "here", {"metrics.jsonl": "1\n2\n"})
    fail()
    here.push()
    assert len(waits) == 3
    there = remote(store, tmp_path / "there", patience=Patience(sleep=sleep))
    fail()
    there.pull()
    assert files_of(tmp_path / "there") == {**FILES, "metrics.jsonl": "1\n2\n"}
    here._patience.seconds = 0.0
    fail()
    write(tmp_path / "here", {"metrics.jsonl": "3\n"})
    with pytest.raises(StorageError, match=r"^storage: .*store/run failed 1 times in 0 s: "):
        here.push()


def test_snapshots_are_found_below_and_removed(store: Path, tmp_path: Path) -> None:
    uri = store.parent.as_uri()
    assert snapshots_below(uri) == []
    assert snapshots_below(below(uri, "none")) == []
    for name in ("run", "deep/er/run"):
        stored(store.parent / name, tmp_path / name)
    assert snapshots_below(uri) == ["deep/er/run", "run"]
    stored(store.parent, write(tmp_path / "whole", {"a": ""}), {})
    assert snapshots_below(uri) == ["", "deep/er/run", "run"]
    remote(store, tmp_path / "there").remove()
    assert snapshots_below(uri) == ["", "deep/er/run"]
    assert objects_of(store) == []
    remote(store, tmp_path / "there").remove()
    shutil.rmtree(store.parent)


@pytest.mark.parametrize(
    ("uri", "path", "found"),
    [
        ("s3://bucket/runs", "a/b", "s3://bucket/runs/a/b"),
        ("s3://bucket/runs/?region=x", "a", "s3://bucket/runs/a?region=x"),
        ("gs://bucket", "a", "gs://bucket/a"),
    ],
)
def test_what_lies_below_keeps_the_options(uri: str, path: str, found: str) -> None:
    assert below(uri, path) == found

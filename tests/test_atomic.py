"""Files and folders are whole or absent, whenever a process dies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from raydml import atomic


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_replaces_text_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text"
    for text in ("first and longer", "second"):
        atomic.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names_in(path.parent) == ["text"]


def test_a_write_that_fails_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    atomic.write_text(path, "old")
    monkeypatch.setattr("os.fsync", _disk_is_full)
    with pytest.raises(OSError, match="disk"):
        atomic.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_holds_no_number_that_json_has_not(value: float, tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "numbers", {"b": 1.5, "a": [1, None]})
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "numbers", {"a": value})
    text = (tmp_path / "numbers").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [1, None], "b": 1.5}
    assert text.index('"a"') < text.index('"b"')


def fill(folder: Path, text: str) -> None:
    with atomic.replaced_directory(folder) as fresh:
        assert names_in(fresh) == []
        (fresh / "file").write_text(text, encoding="utf-8")
        (fresh / text).touch()


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "first")
    fill(tmp_path / "folder", "second")
    assert names_in(tmp_path) == ["folder"]
    assert names_in(tmp_path / "folder") == ["file", "second"]


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "first")
    with pytest.raises(FileNotFoundError):
        fill(tmp_path / "folder", "not/there")  # writes one file, then fails
    assert names_in(tmp_path) == ["folder"]
    assert names_in(tmp_path / "folder") == ["file", "first"]


@pytest.mark.parametrize("crash_at", [1, 2], ids=["before the first rename", "between the renames"])
def test_a_crash_at_any_rename_loses_nothing(crash_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    fill(folder, "first")
    with monkeypatch.context() as patch:
        _crash_at_rename(crash_at, patch)
        with pytest.raises(SystemError):
            fill(folder, "second")
    assert (atomic.settled(folder) / "file").read_text(encoding="utf-8") == "first"
    fill(folder, "third")
    assert names_in(folder) == ["file", "third"]
    assert not folder.with_name("folder.previous").exists()


def test_what_a_killed_process_left_beside_a_folder_goes_with_its_successor(tmp_path: Path) -> None:
    # Half a checkpoint or half a cache, of a process that could not clean up: else they fill the disk, kill by kill.
    left = tmp_path / ".folder.999999999.part"
    left.mkdir()
    (left / "half").touch()
    fill(tmp_path / "folder", "first")
    assert names_in(tmp_path) == ["folder"]


def test_settling_leaves_a_whole_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert not atomic.settled(folder).exists()
    fill(folder, "new")
    fill(folder.with_name("folder.previous"), "old")
    assert (atomic.settled(folder) / "file").read_text(encoding="utf-8") == "new"


def _disk_is_full(descriptor: int) -> None:
    raise OSError("the disk is full")


def _crash_at_rename(number: int, patch: pytest.MonkeyPatch) -> None:
    """The `number`-th rename from now on never happens."""
    rename, count = Path.rename, 0

    def crashing(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number:
            raise SystemError("crash")
        return rename(self, target)

    patch.setattr(Path, "rename", crashing)


def test_what_takes_a_place_is_on_the_disk_before_the_old_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses its power keeps names longer than contents: nothing may hang on a file without its own."""
    folder = tmp_path / "folder"
    fill(folder, "first")
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def noted(file: int) -> None:
        place = Path(f"/proc/self/fd/{file}").readlink()
        synced.append((place.name if place.suffix != ".part" else "beside", (folder / "first").exists()))
        real(file)

    monkeypatch.setattr("os.fsync", noted)
    fill(folder, "second")
    assert sorted(synced[:-1]) == [("beside", True), ("file", True), ("second", True)]
    assert synced[-1] == (tmp_path.name, False)
    assert names_in(tmp_path) == ["folder"]


def test_of_workers_that_settle_at_once_each_finds_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "folder", "text")
    (tmp_path / "folder").rename(tmp_path / "folder.previous")
    rename = Path.rename

    def overtaken(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        atomic.settled(target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    assert (atomic.settled(tmp_path / "folder") / "text").exists()

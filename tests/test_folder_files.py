"""What a folder has, told without reading it, and without entering what is somebody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raydml.folder_files import digest_of, files_in
from raydml.layout import added_later, of_others
from tests.test_storage import write

RUN = ("config.yaml", "fold0/checkpoint/meta.json", "evaluation/note.txt")


def test_every_file_that_is_not_hidden_is_there_with_its_size_and_time(tmp_path: Path) -> None:
    write(tmp_path, {**dict.fromkeys(RUN, "abc"), ".lock": "", ".tune/x": "", "fold0/.part": ""})
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    found = files_in(tmp_path)
    assert sorted(found) == sorted(RUN)
    assert found["config.yaml"] == (3, (tmp_path / "config.yaml").stat().st_mtime_ns)
    assert files_in(tmp_path / "none") == {}


def test_folders_of_others_are_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {f"trials/{number:04d}/fold0/metrics.jsonl": "" for number in range(3)}
    write(tmp_path, {**runs, "study.yaml": "", "test_looks.jsonl": "", "test_looks/ab/looks.jsonl": "", "report/r": ""})
    usual, entered = os.scandir, list[str]()

    def noted(path: str) -> object:
        entered.append(os.path.relpath(path, tmp_path))
        return usual(path)

    monkeypatch.setattr(os, "scandir", noted)
    assert sorted(files_in(tmp_path, but=of_others)) == ["study.yaml"]
    assert sorted(entered) == [".", "trials"]


def test_evaluations_of_folds_are_left_out_of_a_run(tmp_path: Path) -> None:
    write(tmp_path, {**dict.fromkeys(RUN, ""), "fold0/evaluation/val/metrics.json": "", "report/report.md": ""})
    assert sorted(files_in(tmp_path, but=added_later)) == sorted(RUN)


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    write(tmp_path, {"a": "1", "b": "1", "c": "2"})
    a, b, c = (digest_of(tmp_path / name) for name in "abc")
    assert a == b != c
    assert len(a) == 32

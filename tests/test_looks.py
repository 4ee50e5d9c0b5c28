"""Looks at test classes: noted in a line each, and who was looked at."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.looks import looks_of, note_curve, note_look


def test_a_look_is_a_line_with_time_checkpoint_and_metrics(tmp_path: Path) -> None:
    for value in (0.5, 0.25):
        note_look(tmp_path, tmp_path / "final" / "base-seed0" / "checkpoint", {"map@r": value})
    lines = (tmp_path / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["checkpoint"] for row in rows] == ["final/base-seed0/checkpoint"] * 2
    assert [row["metrics"] for row in rows] == [{"map@r": 0.5}, {"map@r": 0.25}]
    for row in rows:
        assert abs(time.mktime(time.strptime(row["time"], "%Y-%m-%dT%H:%M:%S%z")) - time.time()) < 86_400


def test_looks_are_counted_by_run_and_a_repeated_one_is_none(tmp_path: Path) -> None:
    assert looks_of(tmp_path) == {}
    for checkpoint, value in (
        ("final/base-seed0/checkpoint", 0.5),
        ("final/base-seed0/checkpoint", 0.5),
        ("final/base-seed0/checkpoint", 0.6),
        ("trials/0003/fold0/checkpoint", 0.5),
        ("trials/0003/fold1/checkpoint", 0.5),
        ("checkpoint", 0.5),
    ):
        note_look(tmp_path, tmp_path / checkpoint, {"map@r": value})
    assert looks_of(tmp_path) == {".": 1, "final/base-seed0": 2, "trials/0003": 2}


def test_the_epochs_of_a_curve_are_noted_once_however_often_it_is_read(tmp_path: Path) -> None:
    checkpoint = tmp_path / "final" / "base-seed0" / "checkpoint"
    rows = [{"epoch": epoch, "train/loss": 1.0, "test/map@r": 0.5} for epoch in (1, 2)]
    for known in (rows[:1], rows, rows):
        note_curve(tmp_path, checkpoint, known)
    lines = (tmp_path / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["metrics"] for line in lines] == [{"epoch": 1, "map@r": 0.5}, {"epoch": 2, "map@r": 0.5}]
    assert looks_of(tmp_path) == {"final/base-seed0": 2}, "equal numbers of two epochs are two looks"
    note_curve(tmp_path, checkpoint, [{"epoch": 3, "train/loss": 1.0}])
    assert looks_of(tmp_path) == {"final/base-seed0": 2}


def test_every_test_list_is_a_look_of_its_own(tmp_path: Path) -> None:
    checkpoint = tmp_path / "final" / "base-seed0" / "checkpoint"
    for at in ("test", "test-medium", "test-medium", "test-leave_one_out"):
        note_look(tmp_path, checkpoint, {"map@r": 1.0}, at=at)
    assert looks_of(tmp_path) == {"final/base-seed0": 3}, "equal numbers of two lists are two looks"
    lines = [json.loads(line) for line in (tmp_path / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["at"] for line in lines] == ["test", "test-medium", "test-medium", "test-leave_one_out"]


def test_a_look_that_does_not_say_at_what_was_at_the_test_classes(tmp_path: Path) -> None:
    note_look(tmp_path, tmp_path / "checkpoint", {"map@r": 1.0})
    path = tmp_path / "test_looks.jsonl"
    line = json.loads(path.read_text(encoding="utf-8"))
    del line["at"]
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    assert looks_of(tmp_path) == {".": 1}


@pytest.mark.parametrize("line", ["{", "[]", '{"time": "now"}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    note_look(tmp_path, tmp_path / "checkpoint", {})
    with (tmp_path / "test_looks.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(ConfigError, match=r"test_looks.jsonl: line 2: no note of a look"):
        looks_of(tmp_path)

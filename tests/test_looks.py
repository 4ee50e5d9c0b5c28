"""Looks at test classes: noted in a line each, and who was looked at."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.looks import looked_at, note_look


def test_a_look_is_a_line_with_time_checkpoint_and_metrics(tmp_path: Path) -> None:
    for value in (0.5, 0.25):
        note_look(tmp_path, tmp_path / "final" / "base-seed0" / "checkpoint", {"map@r": value})
    lines = (tmp_path / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["checkpoint"] for row in rows] == ["final/base-seed0/checkpoint"] * 2
    assert [row["metrics"] for row in rows] == [{"map@r": 0.5}, {"map@r": 0.25}]
    for row in rows:
        assert abs(time.mktime(time.strptime(row["time"], "%Y-%m-%dT%H:%M:%S%z")) - time.time()) < 86_400


def test_every_checkpoint_that_was_looked_at_counts_once(tmp_path: Path) -> None:
    assert looked_at(tmp_path) == []
    for name in ("final/base-seed0", "trials/0003", "final/base-seed0"):
        note_look(tmp_path, tmp_path / name / "checkpoint", {})
    assert looked_at(tmp_path) == ["final/base-seed0/checkpoint", "trials/0003/checkpoint"]


@pytest.mark.parametrize("line", ["{", "[]", '{"time": "now"}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    note_look(tmp_path, tmp_path / "checkpoint", {})
    with (tmp_path / "test_looks.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(ConfigError, match=r"test_looks.jsonl: line 2: no note of a look"):
        looked_at(tmp_path)

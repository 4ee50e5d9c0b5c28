"""Looks at test classes of several machines: gathered, and stored in pieces that nobody writes twice."""

from __future__ import annotations

import shutil
from pathlib import Path

from raydml.looks import looks_of, note_look
from raydml.stored_looks import gather_looks, new_piece


def test_every_machine_adds_its_lines_and_reads_all(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for machine, value in ((one, 0.25), (other, 0.5)):
        machine.mkdir()
        note_look(machine, machine / "final/base-seed0/checkpoint", {"map@r": value})
    piece = new_piece(one)
    assert piece is not None
    assert new_piece(one) is None, "it is in a piece now"
    shutil.copytree(piece, other / piece.relative_to(one))
    gather_looks(other)
    gather_looks(other)
    assert looks_of(other) == {"final/base-seed0": 2}
    assert len((other / "test_looks.jsonl").read_text("utf-8").splitlines()) == 2
    second = new_piece(other)
    assert second is not None
    assert second.name != piece.name
    assert len((second / "looks.jsonl").read_text("utf-8").splitlines()) == 1, "its own alone"


def test_the_same_lines_are_the_same_piece(tmp_path: Path) -> None:
    note_look(tmp_path, tmp_path / "final/base-seed0/checkpoint", {"map@r": 0.5})
    piece = new_piece(tmp_path)
    assert piece is not None
    shutil.rmtree(piece)
    assert new_piece(tmp_path) == piece


def test_without_a_look_there_is_nothing(tmp_path: Path) -> None:
    gather_looks(tmp_path)
    assert new_piece(tmp_path) is None
    assert list(tmp_path.iterdir()) == []

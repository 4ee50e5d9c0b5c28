"""Broken files of confirming and final runs: one line that names the file, and no report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.protocol_cases import finished_study, legacy
from tests.test_report_broken import refused, removed, rewritten

CONFIRM, FINAL = "confirm/0003-seed1", "final/winner-seed0"
TEST = f"{FINAL}/evaluation/test"


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose phases have ended. To be read only."""
    confirmed = {**legacy(), "confirm": {"top": 3, "seeds": 3}}
    return finished_study(cache, tmp_path_factory.mktemp("finished"), confirmed)


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text("utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), "utf-8")

    return change


def in_the_last_line(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        *lines, last = (folder / name).read_text("utf-8").splitlines()
        assert old in last
        (folder / name).write_text("\n".join([*lines, last.replace(old, new)]) + "\n", "utf-8")

    return change


def another_class(folder: Path) -> None:
    """The same means, of classes with other names."""
    replaced(f"{TEST}/per_class.csv", "\n12,", "\n99,")(folder)


def other_numbers(folder: Path) -> None:
    path = folder / TEST / "metrics.json"
    numbers = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**numbers, "map@r": numbers["map@r"] + 0.01}), "utf-8")


def other_configuration(folder: Path) -> None:
    shutil.copy(folder / "confirm" / "base-seed1" / "config.yaml", folder / CONFIRM / "config.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rewritten(f"{CONFIRM}/metrics.jsonl", "{"), (f"{CONFIRM}/metrics.jsonl: cannot be read",)),
        (replaced(f"{CONFIRM}/metrics.jsonl", '"val/map@r"', '"val/x"'), (f"{CONFIRM}/metrics.jsonl: its last epoch",)),
        (replaced(f"{CONFIRM}/metrics.jsonl", "fold1/val/map@r", "y"), ("has no fold1/val/map@r",)),
        (removed(f"{CONFIRM}/config.yaml"), (f"{CONFIRM}/config.yaml: no such file",)),
        (rewritten(f"{CONFIRM}/config.yaml", "seed: -1\n"), (f"{CONFIRM}/config.yaml: seed: must be at least 0",)),
        (other_configuration, (f"{CONFIRM}/config.yaml: not the configuration of 0003 with its fresh seed",)),
        (rewritten(f"{TEST}/metrics.json", "[]"), (f"{TEST}/metrics.json: expected names and values",)),
        (rewritten(f"{TEST}/metrics.json", '{"map@r": "x"}'), (f"{TEST}/metrics.json: expected names and finite",)),
        (rewritten(f"{TEST}/per_class.csv", ""), (f"{TEST}/per_class.csv: expected the columns class, num_queries",)),
        (rewritten(f"{TEST}/per_class.csv", "class,map@r\n1,0.5\n"), (f"{TEST}/per_class.csv: expected the columns",)),
        (
            replaced(f"{TEST}/per_class.csv", "\n13,4,", "\n13,x,"),
            ("per_class.csv: line 3: no number for num_queries: x",),
        ),
        (
            replaced(f"{TEST}/per_class.csv", "\n13,4,", "\n13,4,nan,"),
            ("per_class.csv: line 3: no number for map@r: nan",),
        ),
        (another_class, ("per_class.csv: not the classes and numbers of queries of", "winner-seed")),
        (other_numbers, (f"{TEST}/per_class.csv: not the table of metrics.json: map@r is",)),
        (
            in_the_last_line(f"{FINAL}/metrics.jsonl", "test/map@r", "z"),
            (f"{FINAL}/metrics.jsonl: not every epoch has test/map@r",),
        ),
        (
            rewritten("test_looks.jsonl", '{"checkpoint": "a", "metrics": {}}\n{'),
            ("test_looks.jsonl: line 2: no note",),
        ),
        (rewritten("test_looks.jsonl", "{}\n"), ("test_looks.jsonl: line 1: no note of a look at test classes",)),
    ],
)
def test_a_broken_phase_is_refused_with_the_name_of_the_file(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "small"))
    change(folder)
    line = refused(capsys, folder)
    assert all(word in line for word in words), line
    assert not (folder / "report").exists()

"""Folders that are broken, incomplete or something else: one line that names the file, and exit code 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raydml import cli

ROOT = Path(__file__).parents[1]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a refused command prints."""
    assert cli.main(["report", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def rewritten(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        [path] = sorted(folder.glob(name))[:1]
        path.write_text(text, encoding="utf-8")

    return change


def removed(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        [path] = sorted(folder.glob(name))[:1]
        path.unlink()

    return change


def best_without_metrics(folder: Path) -> None:
    for path in folder.glob("trials/*/metrics.jsonl"):
        path.unlink()


def middle_of_journal(folder: Path) -> None:
    lines = (folder / "optuna.journal").read_text(encoding="utf-8").splitlines()
    (folder / "optuna.journal").write_text("\n".join([lines[0], "{broken", *lines[2:]]) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rewritten("optuna.journal", ""), ("optuna.journal", "no journal of a search")),
        (middle_of_journal, ("optuna.journal", "no journal of a search")),
        (removed("study.yaml"), ("study.yaml: no such file",)),
        (rewritten("study.yaml", "name: [\n"), ("study.yaml", "malformed YAML")),
        (rewritten("study.yaml", "nme: s\nprotocol: quick\n"), ("study.yaml: nme: unknown key",)),
        (removed("identity.json"), ("identity.json: no such file",)),
        (rewritten("identity.json", "{"), ("identity.json: cannot be read",)),
        (rewritten("identity.json", "[]"), ("identity.json: expected names and values, but got list",)),
        (rewritten("baseline.json", '{"map@r": "high"}'), ("baseline.json: expected names and finite numbers",)),
        (rewritten("trials/0000/metrics.jsonl", '{"epoch": 1'), ("trials/0000/metrics.jsonl: cannot be read",)),
        (rewritten("trials/0000/metrics.jsonl", "{}\n[1]\n"), ("trials/0000/metrics.jsonl: line 2: expected names",)),
        (rewritten("trials/0000/metrics.jsonl", '{"a": NaN}\n'), ("trials/0000/metrics.jsonl: line 1",)),
        (best_without_metrics, ("is complete, but its metrics.jsonl is missing or empty",)),
    ],
)
def test_a_broken_search_is_refused_with_the_name_of_the_file(
    searched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(searched, folder)
    change(folder)
    line = refused(capsys, folder)
    assert all(word in line for word in words), line
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rewritten("config.yaml", "seed: -1\n"), ("config.yaml: seed: must be at least 0",)),
        (rewritten("config.yaml", ""), ("config.yaml: expected keys and values",)),
        (rewritten("metrics.jsonl", "nonsense\n"), ("metrics.jsonl: cannot be read",)),
        (rewritten("checkpoint/meta.json", "{"), ("meta.json: cannot be read",)),
    ],
)
def test_a_broken_training_is_refused_with_the_name_of_the_file(
    repeated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(sorted(repeated.glob("train/*"))[0], folder)
    change(folder)
    line = refused(capsys, folder)
    assert all(word in line for word in words), line


def test_what_is_no_run_is_refused(tmp_path: Path, searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("", encoding="utf-8")
    assert refused(capsys, tmp_path / "none") == f"error: {tmp_path / 'none'}: no such run\n"
    for other in ("empty", "file.txt"):
        assert f"{tmp_path / other}: neither a study (optuna.journal), nor a run" in refused(capsys, tmp_path / other)
    assert "neither a study" in refused(capsys, searched, tmp_path / "empty", f"out={tmp_path}")


@pytest.mark.parametrize("place", ["out", "storage"])
def test_a_place_that_cannot_be_written_is_refused(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").touch()
    trial = searched / "trials" / "0000"
    line = refused(capsys, searched, trial, f"{place}={tmp_path / 'file' / 'below'}")
    assert f"{tmp_path / 'file' / 'below'}" in line
    assert "cannot be written" in line


def test_the_command_says_where_the_report_is(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a=b"  # looks like an option, is a run
    shutil.copytree(searched, folder)
    for run in (folder, folder / "best.yaml"):
        (folder / "best.yaml").touch()
        assert cli.main(["report", str(run)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == [f"written: {folder / 'report' / f'report.{e}'}" for e in ("html", "md", "tex", "json")]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "a=b/trials/0000", "a=b", "a=b/trials/0000"]) == 0
    assert "runs/comparison-" in capsys.readouterr().out


def test_neither_torch_nor_ray_is_needed(searched: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from raydml.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or str(sorted({'torch', 'ray', 'tensorboard'} & set(sys.modules)) or ''))"
    )
    command = [sys.executable, "-c", script, "report", str(searched), f"out={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert (tmp_path / "report.html").exists()

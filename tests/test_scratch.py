"""Folders of one process alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from raydml.scratch import Scratch

HOLD = """
import sys
from pathlib import Path
from typing import Any
import pytest
from filelock import FileLock

from raydml.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.folder / "file").write_text("x")
print(scratch.folder, flush=True)
sys.stdin.readline()
"""


def holder(root: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_of_one_process_until_it_is_removed(tmp_path: Path) -> None:
    first, second = Scratch(tmp_path), Scratch(tmp_path)
    assert first.folder != second.folder
    assert first.folder.stat().st_mode & 0o777 == 0o700
    (first.folder / "below").mkdir()
    first.remove()
    assert not first.folder.exists()
    assert second.folder.is_dir()
    first.remove()
    second.remove()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process, folder = holder(tmp_path)
    other = Scratch(tmp_path)
    assert (folder / "file").exists(), "its process lives"
    process.kill()
    process.wait()
    assert (folder / "file").exists()
    Scratch(tmp_path).remove()
    assert not folder.exists()
    assert other.folder.is_dir()
    other.remove()


def test_a_process_that_ends_leaves_nothing(tmp_path: Path) -> None:
    process, folder = holder(tmp_path)
    process.communicate("\n", timeout=30)
    assert process.returncode == 0
    assert not folder.exists()
    assert not list(tmp_path.iterdir())


def test_a_claim_that_another_process_took_for_a_left_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the file of a lock and its hold another process may take both away."""
    real, overtaken = FileLock.acquire, list[str]()

    def acquire(lock: FileLock, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401
        held = real(lock, *arguments, **more)
        if not overtaken:
            overtaken.append(lock.lock_file)
            Path(lock.lock_file).unlink()
        return held

    monkeypatch.setattr(FileLock, "acquire", acquire)
    scratch = Scratch(tmp_path)
    [alive] = tmp_path.glob("*.alive")
    assert alive.name == f"{scratch.folder.name}.alive"
    assert str(alive) not in overtaken
    scratch.remove()
    assert not list(tmp_path.iterdir())

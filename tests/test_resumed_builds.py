"""A build of the cache is killed, torn or spoilt at any place: it goes on with what is missing."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raydml.data import entry
from raydml.data.building import JOURNAL
from raydml.data.journal import Journal
from raydml.data.opening import open_images
from raydml.data.pixel_file import PixelFile
from tests.photo_cases import SIZE, Counting, KilledError, config_of, make_folder, open_folder, photos

N = 40
pytestmark = pytest.mark.usefixtures("blocks_of_six")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_killed_build_goes_on_with_the_missing_blocks(root: Path, cache: Path) -> None:
    killed, resumed = Counting(stop_after=3), Counting()
    with pytest.raises(KilledError):
        open_folder(root, cache, killed)
    assert [path for path in cache.iterdir() if (path / "meta.json").exists()] == []
    assert np.array_equal(open_folder(root, cache, resumed).images, photos())
    assert killed.decoded + resumed.decoded == N
    assert killed.blocks == 3


def test_the_journal_tells_only_of_what_the_disk_has(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def noting(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def noted(*arguments: object) -> object:
            events.append(name)
            return original(*arguments)

        monkeypatch.setattr(kind, name, noted)

    noting(PixelFile, "write")
    noting(PixelFile, "sync")
    noting(Journal, "append")
    open_folder(root, cache, Counting())
    assert events == ["write", "sync", "append"] * 7


def build_folder(cache: Path) -> Path:
    (found,) = [path for path in (cache / "builds").iterdir() if path.is_dir()]
    return found


@pytest.mark.parametrize("torn", [1, 20, 200])
def test_a_torn_last_line_of_the_journal_is_ignored(torn: int, root: Path, cache: Path) -> None:
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=3))
    journal = build_folder(cache) / JOURNAL
    os.truncate(journal, journal.stat().st_size - torn)
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=1))
    resumed = Counting()
    assert np.array_equal(open_folder(root, cache, resumed).images, photos())
    assert resumed.blocks == 7 - 3, "two were left, and one more was decoded behind the torn line"


def test_a_block_that_is_not_what_was_decoded_is_decoded_again(root: Path, cache: Path) -> None:
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=3))
    pixels = build_folder(cache) / "images.arrow"
    content = bytearray(pixels.read_bytes())
    at = content.index(photos()[8].tobytes())
    content[at] ^= 1
    pixels.write_bytes(content)
    resumed = Counting()
    assert np.array_equal(open_folder(root, cache, resumed).images, photos())
    assert resumed.blocks == 7 - 2


def test_pixels_that_were_cut_off_are_decoded_again(root: Path, cache: Path) -> None:
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=6))
    os.truncate(build_folder(cache) / "images.arrow", 12 * SIZE * SIZE * 3)
    resumed = Counting()
    assert np.array_equal(open_folder(root, cache, resumed).images, photos())
    assert resumed.blocks == 7 - 1, "of the second block the header leaves a part behind the cut"


def test_a_resumed_build_begins_where_it_was(root: Path, cache: Path) -> None:
    with pytest.raises(KilledError):
        open_images(config_of(root, cache), decode=Counting(stop_after=3))
    told: list[int] = []
    open_images(config_of(root, cache), decode=Counting(), progress=lambda done, total: told.append(done))
    assert told == [18, 24, 30, 35, 40]


def command(root: Path, cache: Path, notes: Path) -> list[str]:
    return [sys.executable, "-m", "tests.photo_cases", str(root), str(cache), str(notes), "4"]


def test_of_two_processes_one_decodes_and_the_other_waits(root: Path, cache: Path, tmp_path: Path) -> None:
    both = [
        subprocess.Popen(command(root, cache, tmp_path / "notes"), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1]
    assert len((tmp_path / "notes").read_text(encoding="utf-8")) == N


def test_a_kill_at_any_moment_leaves_a_whole_entry_or_none(root: Path, cache: Path, tmp_path: Path) -> None:
    notes, draws = tmp_path / "notes", random.Random(0)
    kills = 0
    for _ in range(6):
        process = subprocess.Popen(command(root, cache, notes), stdout=subprocess.DEVNULL)
        before = len(notes.read_text(encoding="utf-8")) if notes.exists() else 0
        wait_for(lambda before=before: notes.exists() and len(notes.read_text(encoding="utf-8")) > before, process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=draws.uniform(0, 0.03))
        process.kill()
        kills += process.wait() != 0
        whole = [path for path in cache.iterdir() if (path / "meta.json").exists()]
        assert all(entry.read(path) is not None and entry.verify(path) == [] for path in whole)
    assert kills > 0
    assert subprocess.run(command(root, cache, notes), check=False).returncode == 0
    # A kill costs the one block that was in flight, of four images.
    assert N <= len(notes.read_text(encoding="utf-8")) <= N + 4 * kills


def wait_for(ready: object, process: subprocess.Popen[bytes]) -> None:
    """Until something is there, or the process has ended."""
    assert callable(ready)
    while not ready() and process.poll() is None:
        os.sched_yield()


def test_an_unfinished_build_of_others_makes_room(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=1))
    left = build_folder(cache)
    (root / "class0" / "0.png").touch()
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=1))
    assert left.exists(), "as long as there is room"
    usage = shutil.disk_usage(cache)

    def free(path: Path) -> object:
        return usage._replace(free=usage.free if not left.exists() else 100)

    monkeypatch.setattr(shutil, "disk_usage", free)
    (root / "class0" / "0.png").touch()
    assert np.array_equal(open_folder(root, cache, Counting()).images, photos())
    assert not left.exists()

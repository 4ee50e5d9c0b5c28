"""A cache that does not fit, or may not be written: said before an image is decoded, and never by a dead process."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raydml.config import ConfigError
from raydml.data import disk
from tests.photo_cases import Counting, make_folder, open_folder, photos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


WAYS_OUT = ("data.cache=", "data.image_size=", "data.decode=always")


def test_too_small_a_disk_is_said_before_an_image_is_decoded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500_000))
    decode = Counting()
    with pytest.raises(ConfigError) as caught:
        open_folder(root, tmp_path / "cache", decode)
    message = str(caught.value)
    assert message.startswith("data.cache: the decoded images need 0.0011 GB, but ")
    assert "has 0.0005 GB free" in message
    assert all(way in message for way in WAYS_OUT)
    assert "\n" not in message
    assert decode.decoded == 0


def test_what_a_killed_build_holds_is_not_asked_for_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.photo_cases import KilledError

    with pytest.raises(KilledError):
        open_folder(root, tmp_path / "cache", Counting(stop_after=0))
    usage = shutil.disk_usage(tmp_path)
    pixels = photos().nbytes
    free = disk.num_bytes_of((40, 16, 16, 3)) - pixels
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    assert np.array_equal(open_folder(root, tmp_path / "cache", Counting()).images, photos())


def test_the_whole_place_is_taken_at_the_start(root: Path, tmp_path: Path) -> None:
    from tests.photo_cases import KilledError

    with pytest.raises(KilledError):
        open_folder(root, tmp_path / "cache", Counting(stop_after=0))
    (pixels,) = (tmp_path / "cache" / "builds").glob("*/images.arrow")
    assert pixels.stat().st_blocks * 512 >= photos().nbytes


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_is_full_all_the_same(
    number: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotas and limits are no part of what a disk calls free."""

    def full(file: int, offset: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    decode = Counting()
    with pytest.raises(ConfigError, match=r"^data\.cache: .* need .* free; .*data\.decode=always"):
        open_folder(root, tmp_path / "cache", decode)
    assert decode.decoded == 0
    monkeypatch.undo()
    assert np.array_equal(open_folder(root, tmp_path / "cache", decode).images, photos())


_LIMITED = """
import resource, sys
from pathlib import Path
from raydml.config import ConfigError
from tests.photo_cases import Counting, open_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
decode = Counting()
try:
    open_folder(Path(sys.argv[1]), Path(sys.argv[2]), decode)
except ConfigError as error:
    print(error, decode.decoded)
"""


def test_a_limit_on_the_size_of_files_is_no_crash(root: Path, tmp_path: Path) -> None:
    done = run_python(_LIMITED, root, tmp_path / "cache")
    assert done.stdout.startswith("data.cache: the decoded images need "), done.stderr
    assert done.stdout.endswith("data.decode=always 0\n")


_SMALL_DISK = """
set -e
mkdir -p "$1"
mount -t tmpfs -o size=24k tmpfs "$1"
shift
exec "$@"
"""

_ON_A_SMALL_DISK = """
import shutil, sys
from pathlib import Path
from raydml.config import ConfigError
from raydml.data import disk
from tests.photo_cases import Counting, open_folder
root, cache = Path(sys.argv[1]), Path(sys.argv[2])
usage = shutil.disk_usage(cache)
assert usage.total < 200_000, "the small disk is there"
for free in (usage.free, 10**12):
    disk.shutil.disk_usage = lambda path: usage._replace(free=free)
    decode = Counting()
    try:
        open_folder(root, cache, decode)
    except ConfigError as error:
        print(error, decode.decoded)
"""


def test_a_disk_that_is_really_full(root: Path, tmp_path: Path) -> None:
    """Found by looking, and, where looking was too early, by taking the place before the first image."""
    mounted = ["unshare", "-rm", "sh", "-c", _SMALL_DISK, "sh", str(tmp_path / "small")]
    if shutil.which("unshare") is None or run([*mounted, "true"]).returncode != 0:
        pytest.skip("no small disk can be mounted here")
    done = run([*mounted, sys.executable, "-c", _ON_A_SMALL_DISK, str(root), str(tmp_path / "small")])
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert all(line.startswith("data.cache: ") and line.endswith("data.decode=always 0") for line in lines)


_AS_NOBODY = """
import os, sys
from pathlib import Path
import numpy as np
from raydml.config import ConfigError
from tests.photo_cases import Counting, open_folder, photos
from raydml.data import folder, listing, photos as opening, streaming
root, cache, known = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
# Everything is imported now: where the environment is another user's, later imports would fail.
assert np.array_equal(open_folder(root, cache.parent / "warm", Counting()).images, photos())
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
decode = Counting()
for fingerprint in (known, None):
    assert np.array_equal(open_folder(root, cache, decode, known=fingerprint).images, photos())
try:
    open_folder(root.parent / "others", cache, decode)
except ConfigError as error:
    print(error, decode.decoded)
"""


def test_a_cache_of_another_user_is_opened_and_not_written(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    known = open_folder(root, cache, Counting()).fingerprint
    shutil.copytree(root, tmp_path / "others")
    (tmp_path / "others" / "class0" / "0.png").touch()
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    for folder in (cache, *(path for path in cache.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    done = run_python(_AS_NOBODY, root, cache, known)
    assert done.stdout.startswith(f"data.cache: {cache} cannot be written: Permission denied; "), done.stderr
    assert done.stdout.endswith(" 0\n")


def run_python(code: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", code, *map(str, arguments)])


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])

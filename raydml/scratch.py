"""A folder of this process alone, for what is kept elsewhere. Who is killed leaves his; the next one removes it."""

from __future__ import annotations

import atexit
import shutil
import uuid
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

_LOCK = ".alive"


class Scratch:
    """An empty folder that only its user may read, until `remove` or the end of the process."""

    def __init__(self, root: Path | None = None) -> None:
        """`root` holds the folders of all processes; None stands for one in the user's cache folder."""
        root = root or platformdirs.user_cache_path("raydml") / "scratch"
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder, self._lock = _claimed(root)
        self.folder.mkdir(mode=0o700)
        _remove_left(root)
        atexit.register(self.remove)

    def remove(self) -> None:
        """Removes the folder with all that is in it."""
        atexit.unregister(self.remove)
        _remove(self.folder, self._lock)


def _claimed(root: Path) -> tuple[Path, FileLock]:
    """A name that nobody has, and its lock: without it another process would take the folder for one that was left."""
    while True:
        folder = root / uuid.uuid4().hex[:12]
        lock = FileLock(root / f"{folder.name}{_LOCK}")
        lock.acquire()
        # Who looks for what was left may have been quicker than this process, and removed the file behind the lock.
        if Path(lock.lock_file).exists():
            return folder, lock
        lock.release()


def _remove_left(root: Path) -> None:
    for path in root.glob(f"*{_LOCK}"):
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue  # its process lives
        _remove(path.with_name(path.name.removesuffix(_LOCK)), lock)


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()

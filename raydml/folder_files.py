"""Which files a folder of this machine has and what they were like when they were looked at; their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

Choice = Callable[[str], bool]
"""Which files, by relative posix path."""


def none(path: str) -> bool:
    """No file."""
    del path
    return False


def files_in(folder: Path, *, but: Choice = none) -> dict[str, tuple[int, int]]:
    """Size and time of every file of a folder by relative posix path, without hidden files and folders.

    What `but` says of one file of a folder by any name holds of all of it: such folders are not entered, for a study
    has a thousand of them. Links to folders are not followed.
    """
    found: dict[str, tuple[int, int]] = {}
    for place, folders, names in os.walk(folder):
        relative = Path(place).relative_to(folder).as_posix()
        above = "" if relative == "." else f"{relative}/"
        folders[:] = [name for name in folders if not name.startswith(".") and not but(f"{above}{name}/any")]
        for path in (above + name for name in names if not name.startswith(".") and not but(above + name)):
            # It may be gone again, such as a lock.
            with contextlib.suppress(FileNotFoundError):
                status = (folder / path).stat()
                if stat.S_ISREG(status.st_mode):
                    found[path] = (status.st_size, status.st_mtime_ns)
    return found


def digest_of(path: Path) -> str:
    """128 bits of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

"""Relative paths that others wrote: whether they stay below the folder they are relative to."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from raydml.config import ConfigError

# Control characters, of which NUL ends a name for the system, and the separator of Windows.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_DRIVE = re.compile("[A-Za-z]:")
_LAW = "a path with / between its parts that stays in its folder: no .., no leading / or ~, no drive, no backslash"


def safe_relative(path: str) -> bool:
    """Whether a path names something below the folder it is relative to, on any system, and in one spelling.

    Refused: the empty path, `.` and `..` as parts, what is absolute, `~`, drives, backslashes, control characters,
    doubled or trailing slashes, and what no file name can hold. Symbolic links are not looked at (`require_inside`).
    """
    if not path or path[0] in "/~" or _DRIVE.match(path) or _FORBIDDEN.search(path):
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return posixpath.normpath(path) == path and path.split("/")[0] not in (".", "..")


def require_safe(paths: Iterable[str], *, said_by: str) -> None:
    """Raises ConfigError, which begins with `said_by`, for a path that is not `safe_relative`."""
    if (bad := next((path for path in paths if not safe_relative(path)), None)) is not None:
        raise ConfigError(f"{said_by}: names what is not below its folder: {shown(bad)}")


def require_inside(folder: Path, path: str, *, said_by: str) -> Path:
    """`folder / path`, where it lies below the folder also after symbolic links; it need not exist.

    Raises ConfigError that begins with `said_by`, such as the file that holds the path.
    """
    if not safe_relative(path):
        raise ConfigError(f"{said_by}: must be {_LAW}; got {shown(path)}")
    whole = folder / path
    try:
        real = whole.resolve()
    except (OSError, RuntimeError):  # links in a circle
        raise ConfigError(f"{said_by}: {shown(path)} is a symbolic link that leads nowhere") from None
    if not real.is_relative_to(folder.resolve()):
        raise ConfigError(f"{said_by}: {shown(path)} leaves {folder} by a symbolic link, to {shown(str(real))}")
    return whole


def shown(text: str, limit: int | None = 100) -> str:
    """What another wrote, for a message: on one line, without what would steer a terminal, and not long."""
    plain = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return plain if limit is None or len(plain) <= limit else f"{plain[: limit - 3]}..."

"""A Ray of this machine alone: its sockets on the loopback interface, its token readable by nobody else.

Left to itself Ray listens on all interfaces, and writes the token that guards it as readable as any file: on a machine
that others use, or in a network that others are in, it would be theirs too.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_LOOPBACK = "127.0.0.1"
# Read by Ray when it is imported: 0 makes a machine without a network of it, as it is by default on a Mac.
_NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_BYTES_OF_TOKEN = 32


@contextmanager
def on_loopback(ray: Any) -> Iterator[None]:  # noqa: ANN401
    """While a local Ray starts: everything of it listens on 127.0.0.1.

    Ray replaces that address by the one that other machines see, wherever it is given (2.60), unless it was told that
    there are none.
    """
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def environment_to_join(address: str) -> dict[str, str]:
    """Variables with which another process of this machine joins the Ray that has its head at `host:port`."""
    alone = {_NO_CLUSTER: "0"} if address.rpartition(":")[0] == _LOOPBACK else {}
    return {"RAY_ADDRESS": address, **alone}


def guard_token() -> None:
    """The token of the user's own Ray clusters, in a file of mode 0600, made where there is none.

    Ray 2.60 makes it with the mode of any file. A token in the environment, or at another place, is left alone.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    path = Path.home() / ".ray" / "auth_token"
    # Whatever is wrong with the place, Ray says it.
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            _close(path)
        else:
            _make(path)


def _close(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        path.chmod(mode & 0o700)


def _make(path: Path) -> None:
    # Beside, then linked: of two processes that begin at once, neither reads half a token.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, secrets.token_hex(_BYTES_OF_TOKEN).encode())
    finally:
        os.close(file)
    with suppress(FileExistsError):
        os.link(beside, path)
    beside.unlink()

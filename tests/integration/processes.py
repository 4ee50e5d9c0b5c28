"""Processes of this machine, found by the files they hold: Ray rewrites their command lines and environments."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those with a file open below a folder, or with its path in their command line."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _belongs(process, folder)]


def held_by(process: psutil.Process) -> list[str]:
    """Files that a process has open, those on a disk included that only its own machine sees."""
    found = []
    with suppress(OSError):
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(OSError):
                found.append(str(entry.readlink()))
    return found


def kill_all(folder: Path) -> None:
    """Ends all processes of a folder, those included that they start meanwhile."""
    for _ in range(10):
        if not (found := processes_of(folder)):
            return
        for process in found:
            signal_to(process, "kill")
        psutil.wait_procs(found, timeout=5)


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def signal_to(process: psutil.Process, what: str) -> None:
    with suppress(psutil.NoSuchProcess):
        getattr(process, what)()


def _belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
    except psutil.Error:
        return False
    inside = f"{folder}{os.sep}"
    return any(path.startswith(inside) for path in held_by(process)) or inside in command_line(process)

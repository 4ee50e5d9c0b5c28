"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raydml.config import ConfigError


def make_folder(path: Path) -> None:
    """A folder and those above it. Raises ConfigError where it cannot be: a user chose the place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"storage: {path} cannot be made: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Writes or replaces a file; a crash leaves the old one or the new one, never a part."""
    with replaced_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """As `write_text`, JSON with sorted keys; refuses NaN and infinity with ValueError."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A place to write a file to, which takes the place of `path` at the end; on an error `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        sync(beside)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    beside.replace(path)


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of `path` at the end; on an error `path` stays as it was.

    A folder cannot be renamed onto another one that holds files, so for an instant the old one is called
    `<name>.previous`: `settled` puts it back where a crash fell into that instant. What was written is on the disk
    before the old folder goes: a machine that loses its power would else have new names, and nothing in the files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.mkdir()
    try:
        yield beside
        for written in (*beside.rglob("*"), beside):
            sync(written)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    previous = _previous(path)
    shutil.rmtree(previous, ignore_errors=True)
    if path.exists():
        path.rename(previous)
    beside.rename(path)
    sync(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def settled(path: Path) -> Path:
    """`path`, restored from its predecessor where a crash interrupted `replaced_directory` between two renames."""
    previous = _previous(path)
    if not path.exists() and previous.exists():
        # Of several workers that start at once another one may have been first.
        with suppress(FileNotFoundError):
            previous.rename(path)
    return path


def sync(path: Path) -> None:
    """Returns when a file's content, or a folder's names, are on the disk. Raises OSError."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")

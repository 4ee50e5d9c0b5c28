"""A cache that nodes share through a bucket or a mount: each copies an entry once and reads its own copy.

Who decodes brings the entry there, meta.json after everything else: half an upload is no entry. What comes back is
checked block by block before anybody opens it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow as pa
from filelock import FileLock
from pyarrow import fs

from raydml.config import ConfigError
from raydml.data import entry as entries
from raydml.data.addresses import pointer_path, read_pointer
from raydml.data.cache import lock_of
from raydml.data.disk import require_room, reserve, writable
from raydml.data.files import Root, open_store
from raydml.data.pixel_file import write_all

_log = logging.getLogger(__name__)

_CHUNK, _STREAMS = 16 * 2**20, 8
T = TypeVar("T")


def is_remote(cache: str) -> bool:
    """Whether `data.cache` is a URI rather than a folder."""
    return "://" in cache


class RemoteCache:
    """Entries below a URI."""

    def __init__(self, uri: str) -> None:
        """Nothing is asked of the place yet."""
        self._uri = uri
        self._damaged: set[str] = set()

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        filesystem, root = self._asked(lambda: open_store(Root.of(self._uri)))
        return filesystem, root.rstrip("/")

    def pointed(self, signature: str) -> str | None:
        """The fingerprint that a listing was found to have; None where nobody knows. Raises ConfigError."""
        content = self._read(pointer_path(signature))
        return None if content is None else read_pointer(content)

    def download(self, fingerprint: str, cache: Path) -> bool:
        """Copies an entry to this node, once; whether the node has it then, with every pixel checked.

        Raises ConfigError where the place does not answer, or the node's disk has no room.
        """
        entry = cache / fingerprint
        with writable(cache, 0):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(lock_of(entry)):
                if entries.read(entry) is not None:
                    return True
                beside = cache / f".{fingerprint}.copy"
                shutil.rmtree(beside, ignore_errors=True)
                try:
                    if not self._copied(fingerprint, beside):
                        return False
                    entries.install(beside, entry)
                finally:
                    shutil.rmtree(beside, ignore_errors=True)
        return True

    def _copied(self, fingerprint: str, beside: Path) -> bool:
        """Whether the whole entry lies in a new folder then."""
        meta = self._read(f"{fingerprint}/{entries.META}")
        sizes = None if meta is None else _sizes(meta)
        if meta is None or sizes is None or not self._has(fingerprint, sizes):
            return False
        num_bytes = sum(sizes.values()) + len(meta)
        require_room(beside.parent, num_bytes)
        _log.info("copying decoded images from %s to %s (%.3g GB)", self._uri, beside.parent, num_bytes / 1e9)
        beside.mkdir()
        with writable(beside.parent, num_bytes):
            for name, size in sizes.items():
                self._copy_here(f"{fingerprint}/{name}", beside / name, size)
            (beside / entries.META).write_bytes(meta)
        if entries.read(beside) is None or entries.verify(beside):
            _log.warning("data.cache: %s/%s is damaged and is left alone", self._uri, fingerprint)
            self._damaged.add(fingerprint)
            return False
        return True

    def _copy_here(self, path: str, place: Path, num_bytes: int) -> None:
        """A file of the cache, in parallel ranges. Raises OSError for this node's disk, ConfigError for the place."""
        filesystem, root = self._opened
        file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            reserve(file, num_bytes)
            with self._asked(lambda: filesystem.open_input_file(f"{root}/{path}")) as source:

                def copy(offset: int) -> None:
                    length = min(_CHUNK, num_bytes - offset)
                    content = self._asked(lambda: source.read_at(length, offset))
                    write_all(file, memoryview(content), offset)

                with ThreadPoolExecutor(_STREAMS) as pool:
                    for _ in pool.map(copy, range(0, num_bytes, _CHUNK)):
                        pass
            os.fsync(file)
        finally:
            os.close(file)

    def publish(self, entry: Path, signature: str) -> None:
        """Brings an entry there unless it is there, with the pointer to it. A failure is only said."""
        meta = (entry / entries.META).read_bytes()
        fingerprint, sizes = entry.name, _sizes(meta)
        assert sizes is not None, "the entry was just opened"
        filesystem, root = self._opened
        try:
            there = self._read(f"{fingerprint}/{entries.META}")
            if there is None or fingerprint in self._damaged or not self._has(fingerprint, _sizes(there) or {}):
                _log.info("copying decoded images to %s/%s", self._uri, fingerprint)
                filesystem.create_dir(f"{root}/{fingerprint}", recursive=True)
                if there is not None:
                    filesystem.delete_file(f"{root}/{fingerprint}/{entries.META}")
                for name in (*entries.FILES, entries.META):
                    self._copy_there(entry / name, f"{fingerprint}/{name}")
                self._damaged.discard(fingerprint)
            if self.pointed(signature) != fingerprint:
                filesystem.create_dir(f"{root}/{PurePosixPath(pointer_path(signature)).parent}", recursive=True)
                with filesystem.open_output_stream(f"{root}/{pointer_path(signature)}") as file:
                    file.write(json.dumps({"fingerprint": fingerprint}).encode())
        except (OSError, pa.ArrowException, ConfigError) as error:
            _log.warning("data.cache: %s takes no copy of the decoded images: %s", self._uri, error)

    def _copy_there(self, place: Path, path: str) -> None:
        filesystem, root = self._opened
        with place.open("rb") as source, filesystem.open_output_stream(f"{root}/{path}") as target:
            while content := source.read(_CHUNK):
                target.write(content)

    def _has(self, fingerprint: str, sizes: dict[str, int]) -> bool:
        """Whether the files of an entry are there, of these sizes."""
        filesystem, root = self._opened
        infos = self._asked(lambda: filesystem.get_file_info([f"{root}/{fingerprint}/{name}" for name in sizes]))
        return bool(sizes) and [info.size for info in infos] == list(sizes.values())

    def _read(self, path: str) -> bytes | None:
        """A small file; None where there is none."""
        filesystem, root = self._opened

        def content() -> bytes | None:
            if filesystem.get_file_info(f"{root}/{path}").type != fs.FileType.File:
                return None
            with filesystem.open_input_stream(f"{root}/{path}") as file:
                found: bytes = file.readall()
            return found

        return self._asked(content)

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except (OSError, ValueError, ImportError, pa.ArrowException) as error:
            raise ConfigError(f"data.cache: {self._uri} does not answer: {' '.join(str(error).split())}") from None


def _sizes(meta: bytes) -> dict[str, int] | None:
    """Bytes of each file of an entry; None where its meta.json is none, or not whole."""
    try:
        found = json.loads(meta)["bytes"]
        return {name: int(found[name]) for name in entries.FILES}
    except (ValueError, LookupError, TypeError):
        return None

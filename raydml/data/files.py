"""Files below a root: a local folder, or any URI that pyarrow opens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
from pyarrow import fs

from raydml.config import ConfigError

T = TypeVar("T")


class Stamp(NamedTuple):
    """What tells without reading that a file is another one."""

    num_bytes: int
    modified_ns: int


class Files:
    """A root and what lies below it. Plain data when pickled: every process opens the place itself."""

    def __init__(self, root: str) -> None:
        """`root` is a path or a URI: of a folder, or of one file, whose relative path is then empty."""
        self.root = root

    def __reduce__(self) -> tuple[type[Files], tuple[str]]:
        return type(self), (self.root,)

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        if "://" not in self.root:
            return fs.LocalFileSystem(), str(Path(self.root).expanduser().absolute())
        filesystem, path = self._asked(lambda: fs.FileSystem.from_uri(self.root))
        return filesystem, path.rstrip("/")

    def kind(self, path: str = "") -> str:
        """`file`, `folder` or `absent`. Raises ConfigError where the place does not answer."""
        found = self._asked(lambda: self._opened[0].get_file_info(self._full(path)).type)
        return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "absent")

    def listed(self) -> dict[str, Stamp]:
        """Relative posix path of every file, sorted, with its stamp; hidden files and folders are left out.

        Raises ConfigError where the root is no folder or does not answer.
        """
        if self.kind() != "folder":
            raise ConfigError(f"data.root: no such folder: {self.root}")
        filesystem, root = self._opened
        infos = self._asked(lambda: filesystem.get_file_info(fs.FileSelector(root, recursive=True)))
        skip = len(root) + 1
        files = {i.path[skip:]: Stamp(i.size, i.mtime_ns or 0) for i in infos if i.type == fs.FileType.File}
        return {path: files[path] for path in sorted(files) if not path.startswith(".") and "/." not in path}

    def stamp(self, path: str = "") -> Stamp:
        """That of one file. Raises ConfigError where there is none."""
        info = self._asked(lambda: self._opened[0].get_file_info(self._full(path)))
        if info.type != fs.FileType.File:
            raise ConfigError(f"data.root: no such file: {self.named(path)}")
        return Stamp(info.size, info.mtime_ns or 0)

    def read(self, path: str = "") -> bytes:
        """The content of a file. Raises OSError."""
        filesystem, _ = self._opened
        if isinstance(filesystem, fs.LocalFileSystem):
            return Path(self._full(path)).read_bytes()
        with filesystem.open_input_file(self._full(path)) as file:
            data: bytes = file.readall()
        return data

    def text(self, path: str = "") -> str:
        """The content of a list or a table. Raises ConfigError where it cannot be read."""
        try:
            return self.read(path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"data.root: {self.named(path)} cannot be read: {error}") from None

    def _full(self, path: str) -> str:
        return f"{self._opened[1]}/{path}" if path else self._opened[1]

    def named(self, path: str) -> str:
        """The path or URI of a file, for a message."""
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"data.root: {self.root} does not answer: {' '.join(str(error).split())}") from None

"""Files that are written to a folder, or to any URI that pyarrow opens: each is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from raydml.config import ConfigError
from raydml.config.places import absolute, refused_credentials
from raydml.data.files import Files, Root, open_store

T = TypeVar("T")


class Output:
    """A folder of files without folders below it; made with its first file."""

    def __init__(self, place: str, *, field: str = "out") -> None:
        """`place` is a path or a URI, `field` what messages name. Raises ConfigError for a URI with credentials."""
        if (refused := refused_credentials(place)) is not None:
            raise ConfigError(f"{field}: {refused}")
        self.place, self.field = absolute(place), field

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        if "://" not in self.place:
            return fs.LocalFileSystem(), self.place
        filesystem, root = self._asked(lambda: open_store(Root.of(self.place)))
        return filesystem, root.rstrip("/")

    def named(self, name: str = "") -> str:
        """The path or URI of a file, for a message: without options."""
        return Files(self.place).named(name)

    def names(self) -> list[str]:
        """Files that are whole, in order; none where the folder is not there. Raises ConfigError."""
        filesystem, root = self._opened
        infos = self._asked(lambda: filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True)))
        return sorted(i.base_name for i in infos if i.type == fs.FileType.File and not i.base_name.startswith("."))

    def opened(self, name: str) -> pa.NativeFile:
        """A file to read from anywhere in it. Raises OSError."""
        filesystem, root = self._opened
        return filesystem.open_input_file(f"{root}/{name}")

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where it is not there. Raises ConfigError."""

        def content() -> bytes | None:
            try:
                with self.opened(name) as file:
                    data: bytes = file.readall()
            except FileNotFoundError:
                return None
            return data

        return self._asked(content)

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Writes or replaces a file; a crash leaves the old one or the new one. Raises ConfigError."""
        filesystem, root = self._opened
        beside = f"{root}/.{name}.{os.getpid()}.part"

        def written() -> None:
            if isinstance(filesystem, fs.LocalFileSystem):
                filesystem.create_dir(root, recursive=True)
            with filesystem.open_output_stream(beside) as stream:
                stream.write(content)
            filesystem.move(beside, f"{root}/{name}")

        self._asked(written)

    def remove(self) -> None:
        """Removes the folder with everything in it. Raises ConfigError."""
        filesystem, root = self._opened
        if self._asked(lambda: filesystem.get_file_info(root).type) == fs.FileType.Directory:
            self._asked(lambda: filesystem.delete_dir(root))

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except (OSError, ValueError, ImportError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(str(error).split())
            raise ConfigError(f"{self.field}: {self.named()} cannot be written or read: {reason}") from None

"""Files below a root: a local folder, or any URI that pyarrow opens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

from raydml.config import ConfigError
from raydml.config.places import absolute
from raydml.patience import is_final

T = TypeVar("T")

# How long a store may be silent before a user is told. By default pyarrow asks a mute S3 host for 100 seconds, and a
# mute GCS host for 15 minutes.
_CONNECT_S = 3.0
_SILENCE_S = 5.0
_ATTEMPTS = 3
# Requests at the same time, where many folders of a bucket are asked for.
_REQUESTS = 16


class SilentStoreError(ConfigError):
    """A store that did not answer. Who types its address wants to hear of it; a training may ask again later."""


class Stamp(NamedTuple):
    """What tells without reading that a file is another one."""

    num_bytes: int
    modified_ns: int


class Root(NamedTuple):
    """A URI in parts. Of a local path only `path` is not empty."""

    store: str
    """Scheme and bucket or host, such as `s3://bucket`."""
    path: str
    """What follows, as it is written in the URI."""
    query: str
    """Options of the store, with the question mark."""

    @classmethod
    def of(cls, root: str) -> Root:
        """The parts of a path or a URI."""
        found = re.fullmatch(r"([A-Za-z][\w+.-]*://[^/?]*)([^?]*)(\?.*)?", root, re.DOTALL)
        return cls(found[1], found[2], found[3] or "") if found else cls("", root, "")

    def __str__(self) -> str:
        return f"{self.store}{self.path}{self.query}"


class Files:
    """A root and what lies below it. Plain data when pickled: every process opens the place itself."""

    def __init__(self, root: str, folder: str = "", *, field: str = "data.root") -> None:
        """`root` is a path or a URI: of a folder, or of one file, whose relative path is then empty.

        Characters that a URI must escape may be escaped or not. `folder` is one below it that all paths are relative
        to. `field` is what messages name.
        """
        self.root, self.folder = root, folder
        self.field = field

    def __reduce__(self) -> tuple[partial[Files], tuple[str, str]]:
        # Other processes may run elsewhere: a relative path is theirs only when it is absolute.
        root = absolute(self.root)
        return partial(type(self), field=self.field), (root, self.folder)

    @property
    def is_local(self) -> bool:
        """Whether the files lie in this machine's own tree of files."""
        return isinstance(self._opened[0], fs.LocalFileSystem)

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        if "://" not in self.root:
            path = str(Path(absolute(self.root)) / self.folder)
            return fs.LocalFileSystem(), path.rstrip("/")
        filesystem, path = self._asked(lambda: open_store(Root.of(self.root)))
        return filesystem, "/".join(filter(None, (path.rstrip("/"), self.folder)))

    def folder_and_name(self) -> tuple[Files, str]:
        """The folder that holds the root, and the name of the root there."""
        root = Root.of(absolute(self.root))
        folder, _, name = root.path.rstrip("/").rpartition("/")
        whole = str(root._replace(path=folder)) or "/"
        return Files(whole, field=self.field), unquote(name) if root.store else name

    def kind(self, path: str = "") -> str:
        """`file`, `folder` or `absent`. Raises ConfigError where the place does not answer."""
        found = self._asked(lambda: self._opened[0].get_file_info(self._full(path)).type)
        return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "absent")

    def listed(self) -> dict[str, Stamp]:
        """Relative posix path of every file, sorted, with its stamp; hidden files and folders are left out.

        Links to files and folders are followed. Raises ConfigError where the root is no folder or does not answer,
        and where a link leads back to a folder above it.
        """
        if self.kind() != "folder":
            raise self._absent("folder")
        filesystem, root = self._opened
        infos = self._asked(lambda: filesystem.get_file_info(fs.FileSelector(self._full(""), recursive=True)))
        if self.is_local:
            self._require_no_circle(
                self._asked(lambda: [info.path for info in infos if info.type == fs.FileType.Directory])
            )
        skip = len(root) + 1
        files = self._asked(lambda: {i.path[skip:]: _stamp(i) for i in infos if i.type == fs.FileType.File})
        return {path: files[path] for path in sorted(files) if not path.startswith(".") and "/." not in path}

    def _require_no_circle(self, folders: Iterable[str]) -> None:
        for folder in folders:
            # A circle is listed again and again, until the names are too long: every image many times.
            if Path(folder).is_symlink() and Path(folder).parent.resolve().is_relative_to(Path(folder).resolve()):
                raise ConfigError(f"{self.field}: the link {folder} leads back to a folder above it: remove it")

    def stamp(self, path: str = "") -> Stamp:
        """That of one file. Raises ConfigError where there is none."""
        info = self._asked(lambda: self._opened[0].get_file_info(self._full(path)))
        if info.type != fs.FileType.File:
            raise self._absent("file", path)
        return _stamp(info)

    def stamps(self, paths: Iterable[str]) -> dict[str, Stamp]:
        """Those of the files among `paths`; what does not exist is left out. Raises ConfigError as `kind` does."""
        relative = {self._full(path): path for path in paths}
        infos = self._asked(lambda: list(self._infos(list(relative))))
        return {relative[i.path]: _stamp(i) for i in infos if i.path in relative and i.type == fs.FileType.File}

    def _infos(self, full: list[str]) -> Iterator[fs.FileInfo]:
        if self.is_local:
            yield from self._opened[0].get_file_info(full)
            return
        # One request lists a thousand files of a folder; asking for each takes a request or two.
        folders = {path.rpartition("/")[0] for path in full}
        with ThreadPoolExecutor(_REQUESTS) as pool:
            for infos in pool.map(self._infos_of_folder, sorted(folders)):
                yield from infos

    def _infos_of_folder(self, folder: str) -> list[fs.FileInfo]:
        found: list[fs.FileInfo] = self._opened[0].get_file_info(fs.FileSelector(folder, allow_not_found=True))
        return found

    def read(self, path: str = "") -> bytes:
        """The content of a file. Raises OSError."""
        if self.is_local:
            return Path(self._full(path)).read_bytes()
        with self.opened(path) as file:
            data: bytes = file.readall()
        return data

    def opened(self, path: str = "") -> pa.NativeFile:
        """A file to read from anywhere in it. Raises OSError."""
        return self._opened[0].open_input_file(self._full(path))

    def mapped(self, path: str = "") -> pa.Buffer:
        """A local file's content, of which only what is looked at is read. Raises OSError."""
        assert self.is_local, self.root
        with pa.memory_map(self._full(path)) as file:
            return file.read_buffer()

    def text(self, path: str = "") -> str:
        """The content of a list or a table. Raises ConfigError where it cannot be read."""
        try:
            return self.read(path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.field}: {self.named(path)} cannot be read: {error}") from None

    def _full(self, path: str) -> str:
        root = self._opened[1]
        return f"{root}/{path}" if path else root or "/"

    def named(self, path: str = "") -> str:
        """The path or URI of a file, for a message: without options and secrets."""
        root = Root.of(self.root)
        store = re.sub(r"//[^@]*@", "//", root.store)
        below = "/".join(filter(None, (self.folder, path)))
        # Slashes of the scheme stay: file:///a.
        return f"{store}{root.path.rstrip('/')}/{below}" if below else f"{store}{root.path}"

    def _absent(self, kind: str, path: str = "") -> ConfigError:
        filesystem, root = self._opened
        bucket = root.partition("/")[0]
        if bucket and not self.is_local:
            info = self._asked(lambda: filesystem.get_file_info(bucket))
            if info.type == fs.FileType.NotFound:
                return ConfigError(f"{self.field}: no such bucket: {bucket}, in {self.named(path)}")
        return ConfigError(f"{self.field}: no such {kind}: {self.named(path)}")

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{self.field}: {self.named()} holds a name that is no UTF-8: {error.object!r}; rename it"
            ) from None
        except (OSError, ValueError, ImportError) as error:
            if isinstance(error, ConfigError):
                raise
            silent = "://" in self.root and isinstance(error, OSError) and not is_final(str(error))
            kind = SilentStoreError if silent else ConfigError
            raise kind(f"{self.field}: {self.named()} {_reason(str(error))}") from None


def _stamp(info: fs.FileInfo) -> Stamp:
    return Stamp(info.size, info.mtime_ns or 0)


def open_store(root: Root) -> tuple[fs.FileSystem, str]:
    """The store of a URI and the path within, with bounded patience. Raises OSError, ValueError, ImportError."""
    # Escapes that are there stay; what is no URI without them gets them. A # would cut off the rest.
    path = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", root.path)
    root = root._replace(path=quote(path, safe="/%:@!$&'()*+,;=~"))
    if root.store.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in root.query:
        root = root._replace(query=f"{root.query or '?'}&retry_limit_seconds={_SILENCE_S * _ATTEMPTS:.0f}")
    filesystem, found = fs.FileSystem.from_uri(str(root))
    if isinstance(filesystem, fs.S3FileSystem):
        # A URI has no words for time limits: the same store again, with what pickling would keep of it.
        _, (options,) = filesystem.__reduce__()
        options |= {"connect_timeout": _CONNECT_S, "request_timeout": _SILENCE_S}
        # A small file is one request, not three.
        options |= {"allow_delayed_open": True}
        retry = fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
        filesystem = fs.S3FileSystem(**options, retry_strategy=retry)
    return filesystem, found


def _reason(answer: str) -> str:
    """What a store answered, and what a user can do about it."""
    short = " ".join(answer.split())
    if "ACCESS_DENIED" in short or "HTTP status 403" in short:
        return (
            "may not be read with the credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"or log in with the command line of the store ({short})"
        )
    return f"does not answer: {short}"

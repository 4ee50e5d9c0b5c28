"""A folder of this process, whole snapshots of which are kept at a URI.

An object store renames nothing and locks nothing. So a snapshot is a list, `snapshot.json`, which is written last and
at once: it names the object of every file, with its size and digest. No object that a list names is overwritten: a file
that has changed becomes a new one, and the old one goes when the list no longer needs it. Whatever dies when, a reader
finds a whole snapshot.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from raydml.config import ConfigError
from raydml.data.files import Files, Root, open_store
from raydml.inside import require_safe
from raydml.patience import Patience, TakenOverError
from raydml.snapshot import NOTHING, Entry, Snapshot, parsed, written

T = TypeVar("T")

LIST = "snapshot.json"
_AT_A_TIME = 16 * 2**20
_REQUESTS = 8

Choice = Callable[[str], bool]
"""Which files, by relative posix path."""


def _none(path: str) -> bool:
    del path
    return False


class RemoteFolder:
    """A local folder and the URI where its snapshots are. One process writes there at a time: the one that came last.

    Hidden files and folders, such as locks, are no part of a snapshot.
    """

    def __init__(self, uri: str, folder: Path, *, elsewhere: Choice = _none, patience: Patience | None = None) -> None:
        """`elsewhere` tells files of the folder that have a snapshot of their own.

        `patience` is how long a storage that does not answer is asked again; by default some minutes.
        """
        self.uri, self.folder, self._elsewhere = uri, folder, elsewhere
        self._patience = patience or Patience()
        # Of most stores this asks nothing but the URI.
        named = Files(uri).named()
        self._filesystem, self._root = self._patience.asked(
            lambda: open_store(Root.of(uri)), where=named, answers=False
        )
        self._writer = uuid.uuid4().hex[:8]
        self._snapshot = NOTHING
        # What a file was like when it was last the same here and there.
        self._known: dict[str, tuple[int, int]] = {}

    def pull(self, *, skip: Choice = _none) -> bool:
        """Makes the folder what the newest snapshot says, but for what is skipped; whether there is one.

        Files that are not in it are removed: where a process was killed the storage is right, not the disk. Raises
        StorageError where the storage does not answer, ConfigError where what it holds is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # A writer may remove what an older list needs while it is read.
        while True:
            self._snapshot = self._newest()
            wanted = {path: entry for path, entry in self._snapshot.files.items() if not skip(path)}
            try:
                with ThreadPoolExecutor(_REQUESTS) as pool:
                    list(pool.map(self._fetch, wanted, wanted.values()))
                break
            except FileNotFoundError as error:
                if self._newest() == self._snapshot:
                    raise ConfigError(f"{self.named()}: a file of its snapshot is missing: {error}") from None
        for path in self._found():
            if path not in wanted and not skip(path):
                (self.folder / path).unlink()
        self._known = {path: stamp for path, stamp in self._found().items() if path in wanted}
        return self._snapshot is not NOTHING

    def compare(self) -> None:
        """Reads the newest snapshot and changes nothing: `push` then adds what is only here, or is another file here.

        Raises StorageError where the storage does not answer.
        """
        self._snapshot = self._newest()
        files, found = self._snapshot.files, self._found()
        same = {path for path in found if path in files and _digest_of(self.folder / path) == files[path].digest}
        self._known = {path: found[path] for path in same}

    def push(self) -> None:
        """Makes the folder the newest snapshot; what was skipped by `pull` stays in it.

        Raises StorageError where the storage does not answer, its TakenOverError where another process writes there.
        """
        found = self._found()
        changed = {path for path, stamp in found.items() if self._known.get(path) != stamp}
        gone = {path for path in self._snapshot.files if path in self._known and path not in found}
        if not changed and not gone:
            return
        self._require_mine()
        number = self._snapshot.number + 1
        with ThreadPoolExecutor(_REQUESTS) as pool:
            stored = dict(zip(changed, pool.map(lambda path: self._store(path, number), changed), strict=True))
        # Again: large files take a while.
        self._require_mine()
        files = {path: entry for path, entry in self._snapshot.files.items() if path not in gone}
        self._replace_list(files | stored)
        self._known = {path: stamp for path, stamp in found.items() if path in self._snapshot.files}

    def take_over(self) -> None:
        """As `pull`; and who wrote here before writes no more: his next `push` tells him."""
        self.pull()
        while self._newest() != self._snapshot:
            self.pull()
        self._replace_list(self._snapshot.files)

    def drop(self, dropped: Choice) -> None:
        """Removes files from the newest snapshot, whoever wrote it, whatever the folder has. Raises StorageError."""
        self._snapshot = self._newest()
        kept = {path: entry for path, entry in self._snapshot.files.items() if not dropped(path)}
        if kept != self._snapshot.files:
            self._replace_list(kept)
        self._known = {path: stamp for path, stamp in self._known.items() if path in kept}

    def stored(self) -> frozenset[str]:
        """Files of the newest snapshot; none where there is none. Raises StorageError."""
        return frozenset(self._newest().files)

    def holds_any(self, choice: Choice) -> bool:
        """Whether the snapshot that was last pulled, compared or pushed has any of some files."""
        return any(map(choice, self._snapshot.files))

    def remove(self) -> None:
        """Removes the snapshot and its files from the storage."""
        found = self._newest()
        if found is not NOTHING:
            self._asked(lambda: self._filesystem.delete_file(self._full(LIST)))
            self._remove(entry.key for entry in found.files.values())
        self._snapshot, self._known = NOTHING, {}

    def named(self, path: str = "") -> str:
        """The URI of a file, for a message: without options."""
        return Files(self.uri).named(path)

    def _require_mine(self) -> None:
        newest = self._newest()
        if newest.writer != self._writer and (newest.writer, newest.number) != self._snapshot[:2]:
            raise TakenOverError(f"{self.named()}: another process has gone on with this; this one ends")

    def _newest(self) -> Snapshot:
        def content() -> bytes | None:
            try:
                with self._filesystem.open_input_stream(self._full(LIST)) as file:
                    data: bytes = file.read()
            except FileNotFoundError:
                return None
            return data

        data = self._asked(content)
        return NOTHING if data is None else parsed(data, self.named(LIST))

    def _replace_list(self, files: dict[str, Entry]) -> None:
        before, number = self._snapshot.files, self._snapshot.number + 1
        snapshot = Snapshot(self._writer, number, files)
        self._asked(lambda: self._write(LIST, [written(snapshot)]))
        self._snapshot = snapshot
        needed = {entry.key for entry in files.values()}
        self._remove(entry.key for entry in before.values() if entry.key not in needed)

    def _store(self, path: str, number: int) -> Entry:
        key = f"{path}~{self._writer}-{number}"

        def stored() -> Entry:
            digest, num_bytes = hashlib.blake2b(digest_size=16), 0

            def blocks() -> Iterable[bytes]:
                nonlocal num_bytes
                with (self.folder / path).open("rb") as file:
                    while block := file.read(_AT_A_TIME):
                        digest.update(block)
                        num_bytes += len(block)
                        yield block

            self._write(key, blocks())
            return Entry(key, num_bytes, digest.hexdigest())

        return self._asked(stored)

    def _write(self, key: str, blocks: Iterable[bytes]) -> None:
        full = self._full(key)
        local = isinstance(self._filesystem, fs.LocalFileSystem)
        # An object is there when it is closed; a file when it is opened.
        place = f"{full}.{self._writer}.part" if local else full
        if local:
            self._filesystem.create_dir(full.rpartition("/")[0], recursive=True)
        with self._filesystem.open_output_stream(place) as stream:
            for block in blocks:
                stream.write(block)
        if local:
            self._filesystem.move(place, full)

    def _fetch(self, path: str, entry: Entry) -> None:
        target = self.folder / path
        if target.is_file() and _digest_of(target) == entry.digest:
            return

        def fetched() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.{os.getpid()}.part")
            with self._filesystem.open_input_stream(self._full(entry.key)) as source, beside.open("wb") as file:
                while block := source.read(_AT_A_TIME):
                    file.write(block)
            beside.replace(target)

        self._asked(fetched)
        if _digest_of(target) != entry.digest:
            target.unlink()
            raise ConfigError(f"{self.named(entry.key)}: is not what was stored: its digest is another")

    def _remove(self, keys: Iterable[str]) -> None:
        def removed(key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.delete_file(self._full(key))

        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(lambda key: self._asked(lambda: removed(key)), keys))

    def _found(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file of the folder that is not hidden."""
        found: dict[str, tuple[int, int]] = {}
        for path in self.folder.rglob("*"):
            relative = path.relative_to(self.folder).as_posix()
            hidden = any(part.startswith(".") for part in relative.split("/"))
            if not hidden and not self._elsewhere(relative) and path.is_file():
                stat = path.stat()
                found[relative] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _full(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    def _asked(self, question: Callable[[], T]) -> T:
        return self._patience.asked(question, where=Files(self.uri).named())


def below(uri: str, path: str) -> str:
    """The URI of what lies below another one, with its options."""
    root = Root.of(uri)
    return str(root._replace(path=f"{root.path.rstrip('/')}/{path}"))


def snapshots_below(uri: str, *, patience: Patience | None = None) -> list[str]:
    """Relative paths of the folders below a URI that have a snapshot, in order. Raises StorageError."""

    def names() -> list[str]:
        filesystem, root = open_store(Root.of(uri))
        skip = len(root.rstrip("/")) + 1
        infos = filesystem.get_file_info(fs.FileSelector(root.rstrip("/"), allow_not_found=True, recursive=True))
        found = [i.path[skip:] for i in infos if i.type == fs.FileType.File and i.base_name == LIST]
        folders = sorted(path.rpartition("/")[0] for path in found)
        require_safe(filter(None, folders), said_by=Files(uri).named())
        return folders

    return (patience or Patience()).asked(names, where=Files(uri).named())


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

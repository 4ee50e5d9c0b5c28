"""A folder of this process, whole snapshots of which are kept at a URI.

An object store renames nothing and locks nothing. So a snapshot is a list, `snapshot.json`, which is written last and
at once: it names the object of every file, with its size and digest. No object that a list names is overwritten: a file
that has changed becomes a new one, and the old one goes when the list no longer needs it. Whatever dies when, a reader
finds a whole snapshot; what a killed push had stored by then goes with the first push of whoever goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from raydml.config import ConfigError
from raydml.data.files import Files, Root, open_store
from raydml.folder_files import Choice, digest_of, files_in, none
from raydml.inside import require_safe
from raydml.patience import Patience, TakenOverError
from raydml.snapshot import NOTHING, Entry, Snapshot, parsed, written

T = TypeVar("T")

LIST = "snapshot.json"
# What `_store` names an object, and what one is called while it is written to a disk.
_OBJECT = re.compile(r".+(~[0-9a-f]{8}-[0-9]+|\.[0-9a-f]{8}\.part)")
_AT_A_TIME = 16 * 2**20
_REQUESTS = 8


class RemoteFolder:
    """A local folder and the URI where its snapshots are. One process writes there at a time: the one that came last.

    Hidden files and folders, such as locks, are no part of a snapshot.
    """

    def __init__(self, uri: str, folder: Path, *, elsewhere: Choice = none, patience: Patience | None = None) -> None:
        """`elsewhere` tells files of the folder that have a snapshot of their own: any of a folder, all of it.

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
        self._num_pushes = 0
        # Whether pushes that were killed may have left objects which no list names.
        self._untidy = False
        # What a file was like when it was last the same here and there.
        self._known: dict[str, tuple[int, int]] = {}

    def pull(self, *, skip: Choice = none) -> bool:
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
        same = {path for path in found if path in files and digest_of(self.folder / path) == files[path].digest}
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
        self._mine(self._newest())
        # Listed before the last look at the list: another writer stores nothing before the list is his.
        left = self._objects_beside((*found, *self._snapshot.files)) if self._untidy else set()
        self._untidy, self._num_pushes = True, self._num_pushes + 1
        with ThreadPoolExecutor(_REQUESTS) as pool:
            stored = dict(zip(changed, pool.map(self._store, changed), strict=True))
        self._replace_list(
            lambda newest: {path: e for path, e in self._mine(newest).files.items() if path not in gone} | stored, left
        )
        self._untidy = False
        self._known = {path: stamp for path, stamp in found.items() if path in self._snapshot.files}

    def take_over(self) -> None:
        """As `pull`; and who wrote here before writes no more: his next `push` tells him."""
        while True:
            self._untidy = self.pull()
            # He may have stored something since.
            with contextlib.suppress(TakenOverError):
                return self._replace_list(lambda newest: self._mine(newest).files)

    def drop(self, dropped: Choice) -> None:
        """Removes files from the newest snapshot, whoever wrote it, whatever the folder has. Raises StorageError."""

        def files(newest: Snapshot) -> dict[str, Entry]:
            return {path: entry for path, entry in newest.files.items() if not dropped(path)}

        self._snapshot = self._newest()
        if files(self._snapshot) != self._snapshot.files:
            self._replace_list(files)
        self._known = {path: stamp for path, stamp in self._known.items() if path in self._snapshot.files}

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

    def _mine(self, newest: Snapshot) -> Snapshot:
        """The same; TakenOverError where it is another writer's, but for the one that this process goes on from."""
        if newest.writer != self._writer and newest[:2] != self._snapshot[:2]:
            raise TakenOverError(f"{self.named()}: another process has gone on with this; this one ends")
        return newest

    def _newest(self) -> Snapshot:
        return self._asked(self._read)

    def _read(self) -> Snapshot:
        try:
            with self._filesystem.open_input_stream(self._full(LIST)) as file:
                return parsed(file.read(), self.named(LIST))
        except FileNotFoundError:
            return NOTHING

    def _replace_list(self, files: Callable[[Snapshot], dict[str, Entry]], left: Iterable[str] = ()) -> None:
        """Writes the list of what `files` makes of the newest one, and removes what it no longer names, `left` too.

        The newest is read before every attempt: while one fails, for minutes, another process may go on.
        """
        known = {*left, *_keys(self._snapshot)}

        def replaced() -> Snapshot:
            newest = self._read()
            known.update(_keys(newest))
            snapshot = Snapshot(self._writer, newest.number + 1, files(newest))
            self._write(LIST, [written(snapshot)])
            return snapshot

        self._snapshot = self._asked(replaced)
        self._remove(known - _keys(self._snapshot))

    def _objects_beside(self, paths: Iterable[str]) -> set[str]:
        """Keys of all objects in the folders of some files, whoever stored them: what others put there has no such."""

        def listed(folder: str) -> set[str]:
            selector = fs.FileSelector(self._full(folder).rstrip("/"), allow_not_found=True)
            names = {i.base_name for i in self._filesystem.get_file_info(selector) if i.type == fs.FileType.File}
            return {f"{folder}/{name}".lstrip("/") for name in names if _OBJECT.fullmatch(name)}

        with ThreadPoolExecutor(_REQUESTS) as pool:
            folders = {path.rpartition("/")[0] for path in paths}
            return set().union(*pool.map(lambda folder: self._asked(lambda: listed(folder)), folders))

    def _store(self, path: str) -> Entry:
        key = f"{path}~{self._writer}-{self._num_pushes}"

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
        if target.is_file() and digest_of(target) == entry.digest:
            return

        def fetched() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.{os.getpid()}.part")
            with self._filesystem.open_input_stream(self._full(entry.key)) as source, beside.open("wb") as file:
                while block := source.read(_AT_A_TIME):
                    file.write(block)
            beside.replace(target)

        self._asked(fetched)
        if digest_of(target) != entry.digest:
            target.unlink()
            raise ConfigError(f"{self.named(entry.key)}: is not what was stored: its digest is another")

    def _remove(self, keys: Iterable[str]) -> None:
        def removed(key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.delete_file(self._full(key))

        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(lambda key: self._asked(lambda: removed(key)), keys))

    def _found(self) -> dict[str, tuple[int, int]]:
        return files_in(self.folder, but=self._elsewhere)

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


def _keys(snapshot: Snapshot) -> set[str]:
    return {entry.key for entry in snapshot.files.values()}

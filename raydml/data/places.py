"""Images that lie below one root, or anywhere: absolute paths and URIs."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from urllib.parse import unquote

from raydml.config.places import absolute
from raydml.data.files import Files, Root, Stamp
from raydml.inside import shown


def place_of(path: str) -> str:
    """A path of a table as a place: the same for two spellings of the same relative path."""
    return path if "://" in path else posixpath.normpath(path)


class Places:
    """Encoded images at places below a root, at absolute paths and at URIs. Plain data when pickled.

    A URI without options, in the bucket of the root, is opened with the options of the root.

    Who writes a table decides what its readers open. A table on this machine may name any file. One that came from a
    store may name what lies below the root, and URIs of stores: no other file of the machine that reads it, and no
    options, which say whom to ask.
    """

    def __init__(self, base: Files, *, table: Files) -> None:
        """`table` is where the places are written."""
        self._base, self._table = base, table
        self._files: dict[str, Files] = {}

    def __reduce__(self) -> tuple[partial[Places], tuple[Files]]:
        return partial(type(self), table=self._table), (self._base,)

    @property
    def field(self) -> str:
        """What messages about the root name."""
        return self._base.field

    def refused(self, place: str) -> str | None:
        """Why a table may not name a place; None where it may."""
        if "\0" in place:
            return "must be a path or a URI, but holds a NUL"
        if self._table.is_local or self._is_confined(place):
            return None
        return (
            f"must lie below {self._base.named()} or be a URI of a store without options, because the table comes from "
            f"a store, but got {shown(place)}: set data.images to the folder, or bring the table to this machine"
        )

    def _is_confined(self, place: str) -> bool:
        root = Root.of(place)
        if root.store:
            return not root.query and not root.store.lower().startswith("file:")
        if place.startswith("/"):
            folder = absolute(self._base.root).rstrip("/")
            return not self._base.folder and "://" not in folder and place.startswith(f"{folder}/")
        return place.partition("/")[0] != ".."

    def read(self, place: str) -> bytes:
        """The content of a file. Raises OSError."""
        if (refused := self.refused(place)) is not None:
            raise OSError(refused)
        files, path = self._at(place)
        return files.read(path)

    def named(self, place: str) -> str:
        """Where a file is, for a message."""
        files, path = self._at(place)
        return files.named(path)

    def stamps(self, places: Iterable[str]) -> dict[str, Stamp]:
        """Of those that exist. Raises ConfigError where a store does not answer."""
        below: dict[Files, dict[str, str]] = defaultdict(dict)
        for place in places:
            files, path = self._at(place)
            below[files][path] = place
        return {
            place_at[path]: stamp for files, place_at in below.items() for path, stamp in files.stamps(place_at).items()
        }

    def _at(self, place: str) -> tuple[Files, str]:
        root = Root.of(place)
        if root.store:
            base = Root.of(self._base.root)
            query = root.query or (base.query if base.store == root.store else "")
            return self._below(f"{root.store}/{query}"), unquote(root.path.strip("/"))
        if place.startswith("/"):
            return self._below("/"), place.lstrip("/")
        return self._base, place

    def _below(self, root: str) -> Files:
        # Opening a bucket may ask the network where it is: once for each, not for each image.
        return self._files.setdefault(root, Files(root, field=self._base.field))

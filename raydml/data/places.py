"""Images that lie below one root, or anywhere: absolute paths and URIs."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import unquote

from raydml.data.files import Files, Root, Stamp


def place_of(path: str) -> str:
    """A path of a table as a place: the same for two spellings of the same relative path."""
    return path if "://" in path else posixpath.normpath(path)


class Places:
    """Encoded images at places below a root, at absolute paths and at URIs. Plain data when pickled.

    A URI without options, in the bucket of the root, is opened with the options of the root.
    """

    def __init__(self, base: Files) -> None:
        self._base = base
        self._files: dict[str, Files] = {}

    def __reduce__(self) -> tuple[type[Places], tuple[Files]]:
        return type(self), (self._base,)

    @property
    def field(self) -> str:
        """What messages about the root name."""
        return self._base.field

    def read(self, place: str) -> bytes:
        """The content of a file. Raises OSError."""
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

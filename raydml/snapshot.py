"""The list of a snapshot: which object of a storage is which file of a folder. Text to values and back."""

from __future__ import annotations

import json
from typing import NamedTuple

from raydml.config import ConfigError
from raydml.inside import require_safe

_FORMAT = 1


class Entry(NamedTuple):
    """A stored file."""

    key: str
    """Name of the object below the URI."""
    num_bytes: int
    digest: str


class Snapshot(NamedTuple):
    """The files of a folder by relative posix path, as a writer stored them for the n-th time."""

    writer: str
    number: int
    files: dict[str, Entry]


NOTHING = Snapshot("", 0, {})


def written(snapshot: Snapshot) -> bytes:
    """What `parsed` reads."""
    files = {path: entry._asdict() for path, entry in sorted(snapshot.files.items())}
    raw = {"format": _FORMAT, "writer": snapshot.writer, "number": snapshot.number, "files": files}
    return json.dumps(raw, indent=1).encode()


def parsed(data: bytes, where: str) -> Snapshot:
    """Raises ConfigError for what is no list of files below a folder."""
    try:
        raw = json.loads(data)
        if raw["format"] != _FORMAT:
            raise ConfigError(f"{where}: format {raw['format']}, but this raydml reads {_FORMAT}")
        files = {path: Entry(str(e["key"]), int(e["num_bytes"]), str(e["digest"])) for path, e in raw["files"].items()}
        require_safe((*files, *(entry.key for entry in files.values())), said_by=where)
        return Snapshot(str(raw["writer"]), int(raw["number"]), files)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: is no list of files: {error!r}") from None

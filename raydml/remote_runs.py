"""What lies at a URI: a study, a run in it, or what lies in one, because snapshots say so; else embeddings, or nothing.

Looks at lists of files alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from pyarrow import fs

from raydml.config import ConfigError
from raydml.config.places import refused_credentials
from raydml.data.files import Files, Root, open_store
from raydml.inside import safe_relative, shown
from raydml.layout import EVALUATION, LOOKS, REPORT, RUN_FILE, RUNS
from raydml.patience import Patience, StorageError
from raydml.storage import RemoteFolder, snapshots_below

# Who types a URI wants to hear soon that it is wrong.
_PATIENCE_S = 20.0


class Located(NamedTuple):
    """What a URI names."""

    study: str
    """URI of the study, with its options."""
    path: str
    """What is named, relative to the study; empty where it is the study."""
    run: str | None
    """The run that is named, or that it lies in, relative to the study."""


def located(uri: str, *, patience: Patience | None = None) -> Located | None:
    """What a URI names; None where no snapshot lies there, above it or below it.

    Raises ConfigError where it holds credentials or names a folder of several studies, and StorageError.
    """
    if (refused := refused_credentials(uri)) is not None:
        raise ConfigError(f"RUN: {refused}")
    patience = patience or Patience(seconds=_PATIENCE_S)
    if _are_plain_embeddings(uri, patience):
        return None
    return _at_or_above(uri, patience) or _above_runs(uri, patience)


def _are_plain_embeddings(uri: str, patience: Patience) -> bool:
    """Whether files lie there as anybody reads them: one, or Parquet files. Those of a snapshot have other names."""

    def found() -> bool:
        filesystem, path = open_store(Root.of(uri))
        if filesystem.get_file_info(path).type == fs.FileType.File:
            return True
        infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return any(i.base_name.endswith(".parquet") and not i.base_name.startswith(".") for i in infos)

    return patience.asked(found, where=Files(uri).named())


def _at_or_above(uri: str, patience: Patience) -> Located | None:
    """By the nearest snapshot that is a run's or a study's own; those of reports and evaluations are neither."""
    parts = _parts(uri)
    for length in range(len(parts), 0, -1):
        here, rest = _cut(uri, length)
        try:
            files = RemoteFolder(here, Path(), patience=patience).stored()
        except StorageError:
            if length < len(parts):
                return None  # what lies above may be nobody's business
            raise
        if not files or parts[length - 1] == REPORT or {EVALUATION, LOOKS} & {*parts[length - 2 : length - 1]}:
            continue
        if RUN_FILE not in files:
            return Located(here, rest, None)
        above = next((n for n in range(length - 2, 0, -1) if parts[n] in RUNS), None)
        if above is None:
            raise ConfigError(f"{Files(uri).named()}: a run that lies in no study")
        study, path = _cut(uri, above)
        return Located(study, path, "/".join(path.split("/")[: length - above]))
    return None


def _above_runs(uri: str, patience: Patience) -> Located | None:
    """A study without files of its own, as single trainings leave it, or a folder of its runs."""
    below = snapshots_below(uri, patience=patience)
    if not below:
        return None
    if all(path.split("/")[0] in (*RUNS, REPORT, LOOKS) for path in below):
        return Located(uri, "", None)
    parts = _parts(uri)
    if parts[-1] in RUNS and len(parts) > 1:
        study, path = _cut(uri, len(parts) - 1)
        return Located(study, path, None)
    studies = sorted({path.split("/")[0] for path in below})
    raise ConfigError(f"{Files(uri).named()}: holds studies: name one of {', '.join(studies)}")


def _parts(uri: str) -> list[str]:
    return [part for part in Root.of(uri).path.split("/") if part]


def _cut(uri: str, length: int) -> tuple[str, str]:
    """The URI of the first parts of a path, and the others as a relative path of a folder of this machine."""
    root, parts = Root.of(uri), _parts(uri)
    rest = unquote("/".join(parts[length:]))
    if rest and not safe_relative(rest):
        raise ConfigError(f"RUN: names no file below a folder: {shown(rest)}")
    return str(root._replace(path="/" + "/".join(parts[:length]))), rest

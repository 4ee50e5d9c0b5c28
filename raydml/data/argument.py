"""Which data a command is about: a study file's, or those that lie at a place, whose kind is found by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from raydml.config import ConfigError, DataConfig, ExperimentConfig, dump
from raydml.config.grammar import defaults_of, section_of_kind, set_at, validate
from raydml.config.places import absolute, refused_credentials
from raydml.data.arrow_images import ARROW, PARQUET
from raydml.data.files import Files, Root
from raydml.overrides import parse_assignment
from raydml.space import Study, read_with_notes

_STUDIES = (".yaml", ".yml")
_TABLES = {".csv": "csv"} | dict.fromkeys(sorted(PARQUET | ARROW), "parquet")
_ARCHIVES = (".tgz", ".tar.gz", ".tar", ".zip", ".tar.bz2", ".7z", ".rar")


class Located(NamedTuple):
    """A data section, and how a command line says the same."""

    config: DataConfig
    notes: list[str]
    """What an override of a study changed besides its own path."""
    study: str | None
    """The study file; None for a place."""
    words: list[str]
    """Overrides that give any study these data; those that were given, for a study file."""


def located(what: str, overrides: Sequence[str]) -> Located:
    """The data of a study file, or at a path or URI. Overrides may leave `data.` out.

    Raises ConfigError where there is no such place, where it is an archive or has no known kind, and for a URI with
    credentials.
    """
    if (refused := refused_credentials(what)) is not None:
        raise ConfigError(f"data.root: {refused}")
    if what.lower().endswith(_STUDIES):
        words = [_of_data(text) for text in overrides]
        study, notes = read_with_notes(Path(what), words)
        return Located(study.base.data, notes, what, words)
    return _located_at(what, [parse_assignment(_of_data(text)) for text in overrides])


def _of_data(text: str) -> str:
    first = text.partition("=")[0].partition(".")[0]
    # Sections of a study keep their meaning; anything else is a field of the data.
    return text if first in {"data", "base", *ExperimentConfig.model_fields, *Study.model_fields} else f"data.{text}"


def _located_at(place: str, assignments: Sequence[tuple[str, object]]) -> Located:
    given = {path.removeprefix("base."): value for path, value in assignments}
    if other := [path for path in given if not path.startswith("data.")]:
        raise ConfigError(f"command line: {other[0]}: {place} is a place, not a study: only data.* can be set")
    kind = given.get("data.kind") or _kind_at(place)
    # Absolute: another command may run elsewhere.
    root = absolute(place)
    raw: dict[str, object] = {"data": {"kind": kind, "root": root}}
    for path, value in given.items():
        raw = set_at(raw, path, value)
    config = validate(ExperimentConfig, raw, source="command line").data
    return Located(config, [], None, _words(config))


def _words(config: DataConfig) -> list[str]:
    """`data.kind=... data.root=...` and what else is not the kind's default."""
    model = section_of_kind("data", config.kind)
    assert model is not None
    usual = defaults_of(model)
    found = dump(config)
    first = ("kind", "root")
    rest = [name for name in found if name not in first and found[name] != usual.get(name)]
    return [f"data.{path}={value}" for name in (*first, *rest) for path, value in _leaves(name, found[name])]


def _leaves(name: str, value: object) -> Iterable[tuple[str, object]]:
    """All fields of a section: those that are left out would have the section's defaults, not the kind's."""
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [(f"{name}.{key}", below) for key, below in value.items()]


def _kind_at(place: str) -> str:
    """Raises ConfigError naming what could be there."""
    local = "://" not in place
    if local and not Path(absolute(place)).exists():
        raise ConfigError(f"{place}: no such file or folder")
    files = Files(place)
    found = files.kind()
    if found == "absent":
        raise ConfigError(f"{place}: no such file or folder")
    if found == "folder":
        return _kind_of_folder(files)
    # Without the options of a URI.
    lower = Root.of(place).path.lower()
    if lower.endswith(_ARCHIVES):
        raise ConfigError(_about_archive(place, local=local))
    if kind := _TABLES.get(PurePosixPath(lower).suffix):
        return kind
    raise ConfigError(
        f"{place}: a file of a kind that is not known; known: a study (.yaml), a table ({', '.join(_TABLES)}), or a "
        "folder of images"
    )


def _kind_of_folder(files: Files) -> str:
    from raydml.data.folder import is_image
    from raydml.data.published import recognised

    paths = list(files.listed())
    if kind := recognised(paths):
        return _known_kind(files.root, kind)
    # Tables have other files beside them: Hugging Face writes JSON there.
    holds_tables = any(PurePosixPath(path.lower()).suffix in PARQUET | ARROW for path in paths)
    return "parquet" if holds_tables and not any(map(is_image, paths)) else "folder"


def _known_kind(place: str, kind: str) -> str:
    """The one layout that is recognised only to be refused."""
    if section_of_kind("data", kind) is not None:
        return kind
    raise ConfigError(
        f"{place}: is the older CUB-200 (2010) with 6,033 images; papers have CUB-200-2011, which is another set; to "
        "take it as images of your own give its folder images/ and kind=folder"
    )


def _about_archive(place: str, *, local: bool) -> str:
    from raydml.data.published import BENCHMARKS, archive_of

    unpack = "unpack it and give the folder it makes"
    if not local:
        return f"{place}: is an archive, not data: {unpack}"
    digest = _md5(Path(absolute(place)))
    if (known := archive_of(digest)) is None:
        return f"{place}: is an archive (md5 {digest}, none of the official ones), not data: {unpack}"
    kind, name = known
    return f"{place}: is {name}, the official archive of {BENCHMARKS[kind].name} (md5 {digest}): {unpack}"


def _md5(path: Path) -> str:
    """Which file it is, not whether somebody forged it."""
    make: Callable[[], hashlib._Hash] = lambda: hashlib.md5(usedforsecurity=False)  # noqa: E731
    with path.open("rb") as file:
        return hashlib.file_digest(file, make).hexdigest()

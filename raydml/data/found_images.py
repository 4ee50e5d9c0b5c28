"""Any images: a folder of any depth, a table, the data of a study, or one file; with labels or without.

Nothing is learned from them, so no number of classes is asked for, and splits are not looked at.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

import numpy as np
from PIL import Image

from raydml.config import (
    ConfigError,
    CsvConfig,
    DataConfig,
    DigitsConfig,
    FolderConfig,
    GlyphsConfig,
    ParquetConfig,
    PhotosConfig,
)
from raydml.config.places import absolute, refused_credentials
from raydml.data.argument import located
from raydml.data.cache import ImageSet
from raydml.data.catalog import list_photos
from raydml.data.files import Files, Root, Stamp
from raydml.data.folder import is_image
from raydml.data.listing import Encoded, Roles, numbered_groups, version_of
from raydml.data.opening import open_images
from raydml.data.rows import require_role, role_of, without_copies
from raydml.data.tables import about_missing, looked_up, read_csv, read_parquet
from raydml.splits import Indices

UNKNOWN = -1


@dataclass(frozen=True)
class FoundImages:
    """Images that somebody named, in the order in which they were found."""

    name: str
    """A short one, for folders."""
    encoded: Encoded
    places: tuple[str, ...]
    """(N,) what `encoded.read` takes; for a person to read, too."""
    version: str
    """Changes whenever an image or a label may have; `raydml.data.listing.Listing.version`."""
    classes: tuple[str, ...] = ()
    labels: Indices | None = None
    """(N,) indices into `classes`, UNKNOWN where an image has none; None where no image has one."""
    roles: Roles | None = None
    groups: Indices | None = None
    """(N,) `raydml.data.listing.numbered_groups`."""
    """(N,) `raydml.data.listing`: whether an image is a query or of the gallery; None where all are either."""
    source: tuple[str, ...] = ()
    """What `find_images` was asked for: a path made absolute, or a URI, and the overrides."""

    @property
    def class_names(self) -> tuple[str | None, ...]:
        """(N,) the class of each image; None where it has none."""
        if self.labels is None:
            return (None,) * len(self.places)
        return tuple(None if label == UNKNOWN else self.classes[label] for label in self.labels.tolist())


def find_images(what: str, overrides: Sequence[str] = (), *, absent_too: bool = False) -> FoundImages:
    """The images that a path, a URI or a study file means; overrides as `raydml.data.argument.located` takes them.

    In a folder, the first folder below it is the class of the images in that one, however deep. A table needs no column
    `label`; rows that are equal count once. Images that a table names and that are not there are refused,
    or with `absent_too` found like others, though they cannot be read. Raises ConfigError where there is no image.
    """
    return replace(_found(what, overrides, absent_too=absent_too), source=(absolute(what), *overrides))


def _found(what: str, overrides: Sequence[str], *, absent_too: bool) -> FoundImages:
    if is_image(Root.of(what).path) and (one := _one_file(what)) is not None:
        return one
    config = located(what, overrides).config
    name = _name_of(what)
    match config:
        case GlyphsConfig() | DigitsConfig():
            return _made(name, config)
        case FolderConfig():
            return _below(name, Files(config.root))
        case CsvConfig() | ParquetConfig():
            return _in_table(name, config, absent_too=absent_too)
        case _:
            return _listed(name, config)


def _name_of(what: str) -> str:
    """The last part of a place, without the ending of a file."""
    root = Root.of(absolute(what))
    last = PurePosixPath(unquote(root.path) if root.store else root.path).name
    return last.rpartition(".")[0] or last or "images"


def _one_file(what: str) -> FoundImages | None:
    if (refused := refused_credentials(what)) is not None:
        raise ConfigError(f"images: {refused}")
    file = Files(what, field="images")
    if file.kind() != "file":
        return None
    folder, name = file.folder_and_name()
    return FoundImages(_name_of(what), folder, (name,), version_of({name: file.stamp()}))


def _below(name: str, root: Files) -> FoundImages:
    images = {path: stamp for path, stamp in root.listed().items() if is_image(path)}
    if not images:
        raise ConfigError(f"{root.named()}: holds no image: no file in it has the name of one")
    words = [path.partition("/")[0] if "/" in path else "" for path in images]
    classes, labels = _numbered(words)
    return FoundImages(name, root, tuple(images), version_of(images), classes, labels)


def _numbered(words: Sequence[str], ranks: Mapping[str, int] | None = None) -> tuple[tuple[str, ...], Indices | None]:
    """Classes in order, and the label of each word; an empty one is no class."""
    known = sorted({word for word in words if word}, key=lambda word: ((ranks or {}).get(word, 0), word))
    if not known:
        return (), None
    number_of = {word: number for number, word in enumerate(known)} | {"": UNKNOWN}
    return tuple(known), np.array([number_of[word] for word in words], dtype=np.int64)


def _in_table(name: str, config: CsvConfig | ParquetConfig, *, absent_too: bool) -> FoundImages:
    found = read_csv(config) if isinstance(config, CsvConfig) else read_parquet(config)
    table = found.table
    if not table.rows:
        raise ConfigError(f"data.root: {table.name} has no row")
    for row in table.rows:
        require_role(row, table)
    rows = without_copies(table)
    version, missing = looked_up(found)
    if missing and not absent_too:
        raise ConfigError(about_missing(found, missing))
    classes, labels = _numbered([row.label for row in rows], table.order)
    roles = np.array([role_of(row) for row in rows], dtype=np.int8)
    places = tuple(row.place for row in rows)
    known = roles if roles.any() else None, numbered_groups([row.group for row in rows])
    return FoundImages(name, found.encoded, places, version, classes, labels, *known)


def _listed(name: str, config: PhotosConfig) -> FoundImages:
    listing = list_photos(config)
    return FoundImages(
        name,
        listing.encoded,
        listing.places,
        listing.version,
        listing.classes,
        listing.labels,
        listing.roles,
        listing.groups,
    )


class MadeImages:
    """Images that are made rather than read, as PNG. Plain data when pickled: every process makes its own."""

    def __init__(self, config: DataConfig) -> None:
        """Nothing is made before it is asked for."""
        self._config = config

    def __reduce__(self) -> tuple[type[MadeImages], tuple[DataConfig]]:
        return type(self), (self._config,)

    @cached_property
    def images(self) -> ImageSet:
        """All of them, those of test classes too."""
        return open_images(self._config, with_test=True)

    def read(self, place: str) -> bytes:
        """An image as PNG, its pixels unchanged."""
        pixels = self.images.images[int(place.rpartition("#")[2])]
        stream = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
        return stream.getvalue()

    def named(self, place: str) -> str:
        """The place itself: there is no file."""
        return place


def _made(name: str, config: GlyphsConfig | DigitsConfig) -> FoundImages:
    encoded = MadeImages(config)
    images = encoded.images
    places = tuple(f"{config.kind}#{number}" for number in range(len(images.labels)))
    stamp = {images.fingerprint: Stamp(len(places), 0)}
    return FoundImages(name, encoded, places, version_of(stamp), images.classes, images.labels)

"""Images decoded once per node: a content-addressed, memory-mapped uint8 cache that everything on the node shares.

A cache entry is a folder `<cache>/<fingerprint>/` (`raydml.data.entry`). It is built beside its place under a file lock
and renamed, so concurrent builders wait for the first and nobody sees a part of it. Rendered images are made in memory,
here; photographs block by block, in `raydml.data.building`.

Images lie in the order of their labels: those of the first classes are the first rows, and can be opened alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
from filelock import FileLock

from raydml import atomic
from raydml.config import ConfigError
from raydml.data.decoding import Pixels
from raydml.data.disk import num_bytes_of, writable
from raydml.data.entry import PIXELS, Description, finish, read, test_lists_of
from raydml.data.listing import Mask, Roles
from raydml.data.pixel_file import PixelFile, checksums_of
from raydml.splits import Indices

_log = logging.getLogger(__name__)


class Decoded(NamedTuple):
    """What a builder brings: pixels (N, H, W, C), labels (N,), class names and where each image comes from."""

    images: Pixels
    labels: Indices
    classes: tuple[str, ...]
    sources: list[str]


@dataclass(frozen=True)
class ImageSet:
    """Decoded images of a data set with their labels; pixels are a read-only view of the memory map."""

    name: str
    images: Pixels
    """(N, H, W, C) uint8."""
    labels: Indices
    """(N,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names; also of classes whose images were left out."""
    sources: tuple[str, ...]
    sizes: tuple[int, ...]
    """Images of each class, the first ones of `classes`; shorter than `classes` where images were left out."""
    fingerprint: str
    synthetic: bool
    """Rendered rather than photographed: said wherever results appear."""
    num_training: int | None = None
    """Classes, the first ones, that train; None where the configuration decides."""
    roles: Roles | None = None
    """(N,) `raydml.data.listing`: whether an image is a query, of the gallery, or either; None where all are either."""
    groups: Indices | None = None
    """(N,) such as cameras: images of one class and group do not find each other. None where there are none."""
    test_lists: Mapping[str, Mask] = field(default_factory=dict)
    """Named parts of the test images, (N,) each, where a data set has several."""

    def of_first(self, num_classes: int) -> ImageSet:
        """The images of the first classes alone. Which they are is read from `sizes`, not from any label."""
        sizes = self.sizes[:num_classes]
        count = sum(sizes)
        # Labels are copied: a view would lead back to those left out.
        labels = self.labels[:count].copy()
        return replace(
            self,
            images=self.images[:count],
            labels=labels,
            sources=self.sources[:count],
            sizes=sizes,
            roles=None if self.roles is None else self.roles[:count].copy(),
            groups=None if self.groups is None else self.groups[:count].copy(),
            test_lists={name: mask[:count].copy() for name, mask in self.test_lists.items()},
        )


def default_cache() -> Path:
    """The folder of decoded images below the user's cache folder."""
    return platformdirs.user_cache_path("raydml") / "images"


def open_entry(entry: Path) -> ImageSet | None:
    """The images of an entry; None where it is absent or damaged. Takes no lock: the folder may be another user's."""
    contents = read(entry)
    if contents is None or contents.meta["fingerprint"] != entry.name:
        return None
    meta, index, images = contents
    return ImageSet(
        name=meta["name"],
        images=images,
        labels=index["label"].to_numpy().astype(np.int64),
        classes=tuple(meta["classes"]),
        sources=tuple(index["source"].to_pylist()),
        sizes=tuple(meta["sizes"]),
        fingerprint=meta["fingerprint"],
        synthetic=meta["synthetic"],
        num_training=meta["num_training"],
        roles=index["role"].to_numpy().astype(np.int8) if "role" in index.column_names else None,
        groups=index["group"].to_numpy() if "group" in index.column_names else None,
        test_lists=test_lists_of(contents),
    )


def open_or_build(
    cache: Path,
    fingerprint: str,
    *,
    name: str,
    synthetic: bool,
    build: Callable[[], Decoded],
) -> ImageSet:
    """The cached images of a fingerprint; makes them first, in memory, where they are missing or damaged.

    Raises ConfigError where the cache cannot be written.
    """
    entry = cache / fingerprint
    if (found := open_entry(entry)) is not None:
        return found
    with writable(cache, 0):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_of(entry)):
            if (found := open_entry(entry)) is not None:
                return found
            _log.info("%s: decoding images once into %s", name, entry)
            with atomic.replaced_directory(entry) as scratch:
                _write(scratch, _by_label(build()), fingerprint=fingerprint, name=name, synthetic=synthetic)
    return opened(entry)


def opened(entry: Path) -> ImageSet:
    """The images of an entry that was just made. Raises ConfigError where somebody spoilt it since."""
    found = open_entry(entry)
    if found is None:
        raise ConfigError(f"data.cache: {entry} was damaged as soon as it was written")
    return found


def lock_of(entry: Path) -> Path:
    """The file that whoever writes an entry holds."""
    return entry.with_name(f"{entry.name}.lock")


def _by_label(decoded: Decoded) -> Decoded:
    """In the order of labels, images of a class as they came. Sources larger than memory bring them so."""
    images, labels, classes, sources = decoded
    if bool((labels[1:] >= labels[:-1]).all()):
        return decoded
    order = np.argsort(labels, kind="stable")
    return Decoded(images[order], labels[order], classes, [sources[position] for position in order])


def _write(folder: Path, decoded: Decoded, *, fingerprint: str, name: str, synthetic: bool) -> None:
    shape = decoded.images.shape
    with writable(folder, num_bytes_of(shape)):
        with PixelFile(folder / PIXELS, shape) as file:
            file.write(np.arange(len(decoded.images)), decoded.images)
        description = Description(name, synthetic, shape, decoded.labels, decoded.classes, tuple(decoded.sources))
        finish(folder, description, checksums_of(decoded.images), fingerprint=fingerprint)

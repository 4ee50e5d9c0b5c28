"""Whether a data set is what it should be, told before anything is trained on it: `python -m raydml.data check DATA`.

A check goes on where a training would stop: it collects what it finds, and raises only where there is nothing to
look at.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raydml.config import (
    ConfigError,
    DataConfig,
    FolderConfig,
    FreeSplit,
    Published,
    SopConfig,
)
from raydml.config.photos import PhotosConfig
from raydml.data import findings
from raydml.data.addresses import pointed, signature_of
from raydml.data.building import Progress
from raydml.data.catalog import list_photos
from raydml.data.entry import read
from raydml.data.examining import Examination, examine
from raydml.data.files import Files
from raydml.data.findings import LEVELS, Finding, Level
from raydml.data.folder import is_image
from raydml.data.listing import GALLERY, QUERY, Listed, Listing, MissingImagesError, listing_of, version_of
from raydml.data.opening import cache_folder
from raydml.data.published import require_published
from raydml.splits import fold_split, test_split


@dataclass(frozen=True)
class Overview:
    """Counts of a data set."""

    num_images: int
    num_classes: int
    training: tuple[int, int]
    """Images and classes that train; the test has the others."""
    roles: tuple[int, int] | None
    """Test images that are queries and that are the gallery; None where each is both."""
    per_class: tuple[int, float, int]
    """Fewest, median and most images of a class."""
    split: str
    """Who decides which classes train."""
    cache_bytes: int
    """What the decoded images take on disk; 0 where none are kept."""
    cached: bool
    """Whether they were decoded already."""
    free_bytes: int
    """Of the disk that they would lie on."""
    encoded_bytes: int | None = None
    """What the images take as they are; None where they were not read."""


@dataclass(frozen=True)
class Checked:
    """All that a check found."""

    config: DataConfig
    overview: Overview | None
    """None where the images could not even be listed."""
    findings: tuple[Finding, ...] = field(default=())

    def of_level(self, level: Level) -> list[Finding]:
        """Errors, warnings or notes."""
        return [finding for finding in self.findings if finding.level == level]


def check(config: PhotosConfig, *, decode: bool = True, progress: Progress | None = None) -> Checked:
    """Lists, reads and decodes all images in threads and tells everything that is wrong.

    Without `decode` names and counts are all that is looked at. Raises ConfigError where the place does not answer.
    """
    found: list[Finding] = []
    listing = _listed(config, found)
    if isinstance(config, FolderConfig):
        found += findings.other_files(Files(config.root).listed(), is_image)
    if listing is not None and not listing.places and not found:
        found.append(Finding("error", "no-images", "there is no image", "every class is a folder of images", 1))
    if listing is None or not listing.places:
        return Checked(config, None, tuple(found))
    num_training = _training_classes(config, listing)
    found += _counts(config, listing)
    found += _few_classes(config, listing)
    found += findings.both_sides(listing, num_training)
    examined = examine(listing, config.image_size, progress=progress) if decode else None
    if examined is not None:
        published = isinstance(config, Published)
        found += findings.unusable_images(listing, examined.images)
        found += findings.duplicates(listing, examined.images, num_training, published=published)
        found += findings.pixel_formats(listing, examined.images, config.image_size)
    found += findings.small_classes(listing, num_training, config.samples_per_class)
    overview = _overview(config, listing, num_training, examined)
    if not overview.cached:
        found += findings.disk(overview.cache_bytes, overview.free_bytes)
    return Checked(config, overview, tuple(sorted(found, key=lambda finding: LEVELS.index(finding.level))))


def _listed(config: PhotosConfig, found: list[Finding]) -> Listing | None:
    """As a training lists them, but for what can be passed over; what cannot is a finding."""
    lenient = config.model_copy(update={"counts": "any"}) if isinstance(config, Published) else config
    if isinstance(config, FolderConfig):
        return _listed_folder(config)
    try:
        return list_photos(lenient)
    except MissingImagesError as error:
        places = [error.others.encoded.named(place) for place in error.missing]
        found.append(findings.missing_images(places))
        return error.others
    except ConfigError as error:
        if Files(config.root).kind() == "absent":
            raise
        found.append(Finding("error", "listing", str(error), "mend this first: nothing else could be looked at", 1))
        return None


def _counts(config: PhotosConfig, listing: Listing) -> Iterator[Finding]:
    """Other numbers than were published: a note where the user asked for a part."""
    if not isinstance(config, Published):
        return
    halves = isinstance(config, SopConfig) and config.lists == "halves"
    try:
        require_published(config.kind, config.root, listing, halves=halves)
    except ConfigError as error:
        level: Level = "error" if config.counts == "published" else "info"
        text, _, mend = str(error).removeprefix("data.root: ").partition("; ")
        yield Finding(level, "counts", text, mend, 1)


def _listed_folder(config: FolderConfig) -> Listing:
    """All class folders that hold an image, few as they may be."""
    root = Files(config.root)
    images = {path: stamp for path, stamp in root.listed().items() if "/" in path and is_image(path)}
    classes = sorted({path.partition("/")[0] for path in images})
    listed = (Listed(path, path.partition("/")[0]) for path in images)
    return listing_of(root, listed, classes, version=version_of(images))


def _training_classes(config: PhotosConfig, listing: Listing) -> int:
    if listing.num_training is not None:
        return listing.num_training
    assert isinstance(config, FreeSplit), "data without a split of their own"
    count = len(listing.classes)
    return max(0, count - round(count * config.test_fraction))


def _few_classes(config: PhotosConfig, listing: Listing) -> Iterator[Finding]:
    """Too few classes for a test and for the folds."""
    num_classes, num_training = len(listing.classes), listing.num_training
    try:
        if num_training is None:
            assert isinstance(config, FreeSplit), "data without a split of their own"
            classes = test_split(num_classes, config.test_fraction).train
        else:
            classes = np.arange(num_training, dtype=np.int64)
        fold_split(classes, config.num_folds, 0)
    except ValueError as error:
        most = _training_classes(config, listing) // 2
        mend = f"add classes, or data.num_folds={most}" if most >= 2 else "add classes: each one is a folder or a label"
        yield Finding("error", "few-classes", f"{num_classes:,} classes are too few: {error}", mend, num_classes)


def _overview(config: PhotosConfig, listing: Listing, num_training: int, examined: Examination | None) -> Overview:
    sizes = np.bincount(listing.labels, minlength=len(listing.classes))
    roles = listing.roles
    counted = None if roles is None else (int((roles == QUERY).sum()), int((roles == GALLERY).sum()))
    pixels = len(listing.places) * config.image_size**2 * 3
    cache = cache_folder(config)
    fingerprint = pointed(cache, signature_of(listing, config.image_size))
    there = fingerprint is not None and read(cache / fingerprint) is not None
    return Overview(
        len(listing.places),
        len(listing.classes),
        (int(sizes[:num_training].sum()), num_training),
        counted,
        (int(sizes.min()), float(np.median(sizes)), int(sizes.max())),
        _split_words(config, listing),
        pixels if config.decode == "once" else 0,
        there,
        _free_bytes(cache),
        None if examined is None else examined.num_bytes,
    )


def _split_words(config: PhotosConfig, listing: Listing) -> str:
    if isinstance(config, Published):
        return "as published"
    if listing.num_training is not None:
        return "the table's own"
    assert isinstance(config, FreeSplit), "data without a split of their own"
    return f"the last {config.test_fraction:.0%} of the classes test (data.test_fraction)"


def _free_bytes(cache: Path) -> int:
    """Of the disk that holds the cache; a folder that is yet to be made lies on that of its parent."""
    while not cache.exists():
        cache = cache.parent
    return shutil.disk_usage(cache).free

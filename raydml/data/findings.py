"""What may be wrong with images and their labels, each thing found by one pure function and told with its remedy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raydml.data.examining import Examined
from raydml.data.listing import GALLERY, QUERY, Listing

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")
# What becomes eight-bit RGB without a loss that anybody sees.
_USUAL_MODES = ("RGB", "L")
_HAS = ("has", "have")


@dataclass(frozen=True)
class Finding:
    """One thing that was found, in how many places, and what to do about it."""

    level: Level
    """`error`: must be mended. `warning`: may spoil results. `info`: good to know."""
    name: str
    """A word for programs."""
    text: str
    """A sentence for people."""
    mend: str
    """What to do; empty where nothing needs to be done."""
    count: int
    examples: tuple[str, ...] = ()
    """All of them."""


def unusable_images(listing: Listing, images: Sequence[Examined]) -> Iterator[Finding]:
    """Images that are listed but missing, and images that cannot be read or decoded."""
    named = listing.encoded.named
    if missing := [named(listing.places[row]) for row, image in enumerate(images) if image.missing]:
        yield missing_images(missing)
    broken = [
        f"{named(listing.places[row])}: {image.problem}"
        for row, image in enumerate(images)
        if image.problem and not image.missing
    ]
    if broken:
        yield Finding(
            "error",
            "unreadable",
            f"{counted(broken, 'image')} unreadable",
            "copy or download these files again, or remove them",
            len(broken),
            tuple(broken),
        )


def missing_images(places: Sequence[str]) -> Finding:
    """Images that a list names and that are not there."""
    return Finding(
        "error",
        "missing",
        f"{counted(places, 'listed image')} missing",
        "copy the files to where the list has them, or take their lines out of it",
        len(places),
        tuple(places),
    )


def duplicates(
    listing: Listing, images: Sequence[Examined], num_training: int, *, published: bool
) -> Iterator[Finding]:
    """Images with the same bytes: on both sides of the split, with two labels, or twice in a class.

    A group is told once, as the worst that it is. In a published benchmark nobody can mend it: no error there.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        if image.digest:
            groups[image.digest].append(row)
    sorted_out: dict[str, list[list[int]]] = defaultdict(list)
    for rows in groups.values():
        if len(rows) > 1:
            sorted_out[_relation({int(listing.labels[row]) for row in rows}, num_training)].append(rows)
    keep = "part of the published data: keep them, to compare with published numbers"
    for name, level, text, mend in (
        ("leak", "error", "in training and test classes", "remove one of each: the test would know training images"),
        ("label-conflict", "warning", "in several classes", "find out which label is right and remove the others"),
        ("duplicate", "warning", "several times in a class", "remove all but one: an image would find its own copy"),
    ):
        if found := sorted_out[name]:
            yield Finding(
                "warning" if published or level == "warning" else "error",
                name,
                f"{counted(found, 'file')} {text}: {sum(map(len, found)):,} images of the same bytes",
                keep if published else mend,
                len(found),
                tuple(" = ".join(listing.places[row] for row in rows) for rows in found),
            )


def _relation(classes: set[int], num_training: int) -> str:
    if len(classes) == 1:
        return "duplicate"
    return "leak" if min(classes) < num_training <= max(classes) else "label-conflict"


def small_classes(listing: Listing, num_training: int, samples_per_class: int) -> Iterator[Finding]:
    """Classes of one image, queries without a positive, training classes smaller than their share of a batch."""
    sizes = np.bincount(listing.labels, minlength=len(listing.classes))
    alone = [listing.classes[label] for label in np.flatnonzero(sizes == 1)]
    if alone and listing.roles is None:
        yield Finding(
            "warning",
            "single",
            f"{counted(alone, 'class', _HAS)} one image only: as a query it finds no other",
            "add images, or remove the class; such a class still is wrong answers to others",
            len(alone),
            tuple(alone),
        )
    if listing.roles is not None:
        yield from _hopeless_queries(listing)
    few = [label for label in np.flatnonzero(sizes < samples_per_class) if label < num_training]
    if few:
        yield Finding(
            "info",
            "few-images",
            f"{counted(few, 'training class')} smaller than data.samples_per_class={samples_per_class}: "
            "their images repeat within a batch",
            f"data.samples_per_class={max(2, int(sizes[few].min()))} repeats none, or the fewest",
            len(few),
            tuple(f"{listing.classes[label]}: {sizes[label]}" for label in few),
        )


def _hopeless_queries(listing: Listing) -> Iterator[Finding]:
    assert listing.roles is not None
    answered = set(listing.labels[listing.roles == GALLERY].tolist())
    asked = set(listing.labels[listing.roles == QUERY].tolist())
    hopeless = [listing.classes[label] for label in sorted(asked - answered)]
    if hopeless:
        yield Finding(
            "warning",
            "no-gallery",
            f"{counted(hopeless, 'class', _HAS)} queries but no gallery image: they find nothing",
            "give one image of each the role gallery, or take its queries out",
            len(hopeless),
            tuple(hopeless),
        )


def both_sides(listing: Listing, num_training: int) -> Iterator[Finding]:
    """Classes that are listed for training and for test."""
    common = sorted(set(listing.classes[:num_training]) & set(listing.classes[num_training:]))
    if common:
        yield Finding(
            "error",
            "both-splits",
            f"{counted(common, 'class')} in training and in test",
            "give every class one split: the test is about classes that were never seen",
            len(common),
            tuple(common),
        )


def pixel_formats(listing: Listing, images: Sequence[Examined], image_size: int) -> Iterator[Finding]:
    """Images that are enlarged, and those of another pixel format than RGB and grey."""
    small = [row for row, image in enumerate(images) if 0 < image.short_side < image_size]
    if small:
        smallest = min(images[row].short_side for row in small)
        yield Finding(
            "info",
            "small",
            f"{counted(small, 'image')} smaller than data.image_size={image_size}: enlarged",
            f"a smaller data.image_size enlarges fewer; the shortest side is {smallest} pixels",
            len(small),
            tuple(f"{listing.places[row]}: {images[row].short_side} pixels" for row in small),
        )
    unusual = [row for row, image in enumerate(images) if image.mode and image.mode not in _USUAL_MODES]
    if unusual:
        modes = Counter(images[row].mode for row in unusual)
        shown = ", ".join(f"{count} {mode}" for mode, count in modes.most_common())
        yield Finding(
            "info",
            "modes",
            f"{counted(unusual, 'image')} neither RGB nor grey ({shown}): converted to RGB",
            "look at a few where colours matter",
            len(unusual),
            tuple(f"{listing.places[row]}: {images[row].mode}" for row in unusual),
        )


def other_files(paths: Iterable[str], is_image: Callable[[str], bool]) -> Iterator[Finding]:
    """Files below class folders that are no images, and folders that hold none."""
    has_image: dict[str, bool] = {}
    others: list[str] = []
    for path in paths:
        folder, _, rest = path.partition("/")
        if rest:
            has_image[folder] = has_image.get(folder, False) or is_image(path)
        if not is_image(path):
            others.append(path)
    if empty := sorted(folder for folder, any_image in has_image.items() if not any_image):
        yield Finding(
            "error",
            "empty-folder",
            f"{counted(empty, 'folder', _HAS)} no image",
            "remove them, or put the images of their class there",
            len(empty),
            tuple(empty),
        )
    if others:
        yield Finding(
            "info",
            "other-files",
            f"{counted(others, 'file')} no image by name: left out",
            "",
            len(others),
            tuple(others),
        )


def disk(need: int, free: int) -> Iterator[Finding]:
    """Decoded images, in bytes, that the disk of the cache has no room for."""
    if need > free:
        yield Finding(
            "warning",
            "disk",
            f"the decoded images take {need / 1e9:.1f} GB, but the disk of the cache has {free / 1e9:.1f} GB free",
            "data.cache=FOLDER on a larger disk, a smaller data.image_size, or data.decode=always",
            1,
        )


def counted(things: Sequence[object], noun: str, verb: tuple[str, str] = ("is", "are")) -> str:
    """`1 image is`, `1,200 images are`."""
    if len(things) == 1:
        return f"1 {noun} {verb[0]}"
    return f"{len(things):,} {noun}{'es' if noun.endswith('s') else 's'} {verb[1]}"

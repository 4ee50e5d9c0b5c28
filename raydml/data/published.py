"""The published benchmarks as their publishers describe them: files, counts, checksums, sources and terms.

Nothing is downloaded and nothing is kept but names and numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from raydml.config import ConfigError
from raydml.data.listing import GALLERY, QUERY, Listing, Mask


class Count(NamedTuple):
    """Images and classes of a part; None where no number was published."""

    images: int | None
    classes: int | None


@dataclass(frozen=True)
class Benchmark:
    """What is known of a benchmark without having it."""

    name: str
    whole: Count
    parts: Mapping[str, Count]
    """Of the part that trains, of those that test, as `counted` calls them."""
    source: str
    """Where a user gets it, to stand after `from`."""
    terms: str
    archives: Mapping[str, str] = field(default_factory=dict)
    """MD5 to the file name of an official archive."""
    numbered: int | None = None
    """Classes are numbered from 1 to this."""


BENCHMARKS: Mapping[str, Benchmark] = {
    "cub200": Benchmark(
        name="CUB-200-2011",
        whole=Count(11_788, 200),
        parts={"train": Count(5_864, 100), "test": Count(5_924, 100)},
        source="data.caltech.edu/records/65de6-vp158, file CUB_200_2011.tgz",
        terms=(
            "CUB-200-2011 (Wah et al. 2011) has no explicit licence; its photographs come from Flickr and belong to "
            "those who took them. Take it as meant for research only. Its owners warn that images overlap with "
            "ImageNet, on which most backbones were trained."
        ),
        archives={"97eceeb196236b17998738112f37df78": "CUB_200_2011.tgz"},
        numbered=200,
    ),
    "cars196": Benchmark(
        name="Cars196",
        whole=Count(16_185, 196),
        parts={"train": Count(8_054, 98), "test": Count(8_131, 98)},
        source="Kaggle, where copies circulate: the official address has been gone since April 2023",
        terms=(
            "Cars196 (Krause et al. 2013) was given out for research, on terms like those of ImageNet as far as is "
            "known; the page that stated them is gone."
        ),
        archives={
            "d5c8f0aa497503f355e17dc7886c3f14": "car_ims.tgz",
            "b407c6086d669747186bd1d764ff9dbc": "cars_annos.mat",
        },
        numbered=196,
    ),
    "sop": Benchmark(
        name="Stanford Online Products",
        whole=Count(120_053, 22_634),
        parts={"train": Count(59_551, 11_318), "test": Count(60_502, 11_316)},
        source="ftp://cs.stanford.edu/cs/cvgl/, file Stanford_Online_Products.zip",
        terms=(
            "Stanford Online Products (Song et al. 2016) holds photographs of sellers on eBay; as far as is known it "
            "may be used for research."
        ),
        archives={"7f73d41a2f44250d4779881525aea32e": "Stanford_Online_Products.zip"},
        numbered=22_634,
    ),
    "inshop": Benchmark(
        name="In-shop Clothes Retrieval (DeepFashion)",
        whole=Count(52_712, 7_982),
        parts={"train": Count(25_882, 3_997), "query": Count(14_218, 3_985), "gallery": Count(12_612, 3_985)},
        source="the page of DeepFashion (In-shop Clothes Retrieval Benchmark): img.zip, not img_highres.zip",
        terms=(
            "In-shop Clothes Retrieval of DeepFashion (Liu et al. 2016) is RESTRICTED to non-commercial research and "
            "educational purposes."
        ),
    ),
    "vehicleid": Benchmark(
        name="PKU VehicleID",
        # How many images there are is not agreed on.
        whole=Count(None, None),
        parts={
            "train": Count(None, 13_164),
            "small": Count(None, 800),
            "medium": Count(None, 1_600),
            "large": Count(None, 2_400),
        },
        source="its authors, who send it upon request by e-mail",
        terms=(
            "PKU VehicleID (Liu et al. 2016) is sent by its authors upon request, for academic research; its terms are "
            "those of the request."
        ),
    ),
}

# The Reality Check's halves: only the classes of each were published.
_HALVES: Mapping[str, Count] = {"train": Count(None, 11_317), "test": Count(None, 11_317)}

CUB_2010 = "cub200-2010"
_IMAGES_OF_2010 = 6_033
# Files that only one benchmark has, below the folder that holds it.
_MARKS = {
    "cub200": r"image_class_labels\.txt",
    CUB_2010: r"lists/(?:files|splits|train|test)\.txt",
    "cars196": r"cars_annos\.mat|devkit/cars_train_annos\.mat|anno_train\.csv",
    "sop": r"Ebay_(?:train|test)\.txt",
    "inshop": r"(?:Eval/)?list_eval_partition\.txt",
    "vehicleid": r"train_test_split/(?:train_list|test_list_(?:800|1600|2400))\.txt",
}
_MARK_OF = {kind: re.compile(rf"(?:(.*?)/)??(?:{mark})") for kind, mark in _MARKS.items()}
_BIRD = re.compile(r"(?:(.*)/)?images/\d{3}\.[^/]+/[^/]+\.jpg")


def terms(kind: str) -> str | None:
    """On which terms the images of a benchmark may be used; None for a kind that was not published."""
    return BENCHMARKS[kind].terms if kind in BENCHMARKS else None


def archive_of(md5: str) -> tuple[str, str] | None:
    """Kind and file name of the official archive with this MD5 (hexadecimal); None where none is known."""
    for kind, benchmark in BENCHMARKS.items():
        if md5.lower() in benchmark.archives:
            return kind, benchmark.archives[md5.lower()]
    return None


def recognised(paths: Iterable[str]) -> str | None:
    """Which benchmark has these files, relative paths: a `data.kind`, or `cub200-2010`; None where it is none.

    Of several the one that lies least deep.
    """
    found = homes(paths)
    return found[0][0] if found else None


def homes(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Kind and folder (empty for the root) of every benchmark among these files, relative paths; least deep first."""
    marked: dict[str, set[str]] = {kind: set() for kind in _MARKS}
    birds: Counter[str] = Counter()
    for path in paths:
        if path.endswith((".jpg", ".JPG")):
            if "images/" in path and (match := _BIRD.fullmatch(path)):
                birds[match[1] or ""] += 1
            continue
        for kind, mark in _MARK_OF.items():
            if match := mark.fullmatch(path):
                marked[kind].add(match[1] or "")
    older = {home for home, count in birds.items() if count == _IMAGES_OF_2010 or home in marked[CUB_2010]}
    marked[CUB_2010] = older - marked["cub200"]
    marked["cub200"] |= birds.keys() - marked[CUB_2010]
    return sorted(((kind, home) for kind in marked for home in marked[kind]), key=_by_depth)


def _by_depth(found: tuple[str, str]) -> tuple[int, str]:
    return depth(found[1]), found[1]


def depth(folder: str) -> int:
    """Folders between a root and what lies in a folder below it."""
    return len(folder.split("/")) if folder else 0


def counted(listing: Listing) -> dict[str, Count]:
    """Images and classes of every part of a listing that has a split of its own.

    `train`; `query` and `gallery`, or the names of its test lists, or `test`.
    """
    assert listing.num_training is not None, "a benchmark has a split"
    trains = listing.labels < listing.num_training
    parts: dict[str, Mask] = {"train": trains}
    if listing.roles is not None:
        parts |= {"query": listing.roles == QUERY, "gallery": listing.roles == GALLERY}
    parts |= listing.test_lists or ({} if listing.roles is not None else {"test": ~trains})
    return {name: Count(int(mask.sum()), len(np.unique(listing.labels[mask]))) for name, mask in parts.items()}


def require_published(kind: str, root: str, listing: Listing, *, halves: bool = False) -> None:
    """Raises ConfigError where a listing has other numbers of images or classes than were published."""
    benchmark = BENCHMARKS[kind]
    found = {"": Count(len(listing.places), len(listing.classes)), **counted(listing)}
    expected = {"": benchmark.whole, **(_HALVES if halves else benchmark.parts)}
    nothing = Count(0, 0)
    wrong = [line for part, count in expected.items() for line in _differences(part, found.get(part, nothing), count)]
    if wrong:
        raise ConfigError(
            f"data.root: {root} is not {benchmark.name} as published: it has {', '.join(wrong)}"
            f"{_older_cub(kind, len(listing.places))}; complete it, from {benchmark.source}; or take a part with "
            "data.counts=any"
        )


def _differences(part: str, found: Count, expected: Count) -> Iterator[str]:
    for what, count, published in zip(("images", "classes"), found, expected, strict=True):
        if published is not None and count != published:
            yield f"{count:,} {f'{part} {what}'.strip()} instead of {published:,}"


def _older_cub(kind: str, num_images: int) -> str:
    if kind == "cub200" and num_images == _IMAGES_OF_2010:
        return ", the number of the older CUB-200 (2010)"
    return ""

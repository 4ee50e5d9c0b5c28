"""A user's copy of a published benchmark: found below the root, its lists read line by line, its images all there."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raydml.config import Cars196Config, ConfigError, Cub200Config, InShopConfig, SopConfig, VehicleIdConfig
from raydml.data.files import Files, Stamp
from raydml.data.listing import ANY_ROLE, Listed, Listing, MissingImagesError, listing_of, version_of
from raydml.data.published import BENCHMARKS, CUB_2010, depth, homes, require_published

BenchmarkConfig = Cub200Config | Cars196Config | SopConfig | InShopConfig | VehicleIdConfig

# What is looked for, in a message.
_EXPECTED = {
    "cub200": "images/ with images.txt and image_class_labels.txt, or with folders such as 001.Black_footed_Albatross",
    "cars196": "cars_annos.mat and car_ims/, or devkit/, cars_train/ and cars_test/, or anno_train.csv and car_data/",
    "sop": "Ebay_train.txt and Ebay_test.txt",
    "inshop": "Eval/list_eval_partition.txt",
    "vehicleid": "train_test_split/train_list.txt",
}


class Row(NamedTuple):
    """One image as the lists of a benchmark have it."""

    place: str
    class_id: int
    trains: bool
    role: int = ANY_ROLE


@dataclass(frozen=True)
class Copy:
    """The folder that holds a benchmark."""

    config: BenchmarkConfig
    files: Files
    stamps: Mapping[str, Stamp]
    """Of every file, by its path in the folder."""

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return path in self.stamps

    def folder(self, *candidates: str) -> str:
        """The first folder that has files; the last one where none has."""
        return next((c for c in candidates if any(path.startswith(f"{c}/") for path in self.stamps)), candidates[-1])

    def lines(self, path: str, pattern: str, layout: str, *, headers: Sequence[str] = ()) -> list[tuple[str, ...]]:
        """The groups of `pattern` in every line of a list, after those of `headers` in its first lines.

        Raises ConfigError for a line that is neither, with the `layout` that it should have.
        """
        if not self.has(path):
            raise ConfigError(f"data.root: no such file: {self.files.named(path)}; complete the copy")
        text = [line.strip() for line in self.files.text(path).splitlines()]
        expected = re.compile(pattern)
        found = []
        for number, line in enumerate(text, start=1):
            match = re.fullmatch(headers[number - 1], line) if number <= len(headers) else expected.fullmatch(line)
            if match:
                found.append(match.groups())
            elif line:
                raise ConfigError(
                    f"data.root: {self.files.named(path)}, line {number}: expected {layout}, but got '{line[:80]}'"
                )
        if len(found) <= len(headers):
            raise ConfigError(f"data.root: {self.files.named(path)} lists no image; take it from a new copy")
        return found

    def keyed(self, path: str, pattern: str, layout: str) -> dict[str, str]:
        """The second group of every line by the first. Raises ConfigError where two lines have the same first."""
        found: dict[str, str] = {}
        for key, value in self.lines(path, pattern, layout):
            if key in found:
                raise ConfigError(f"data.root: {self.files.named(path)} names {key} twice; take it from a new copy")
            found[key] = value
        return found


def open_copy(config: BenchmarkConfig) -> Copy:
    """The benchmark that a configuration names, in the folder `root` or below it, the least deep one.

    Raises ConfigError where there is none or where there are two, and names another benchmark that lies there.
    """
    root = Files(config.root)
    stamps = root.listed()
    found = homes(stamps)
    mine = [home for kind, home in found if kind == config.kind]
    least = [home for home in mine if depth(home) == depth(mine[0])]
    if not least:
        raise ConfigError(f"data.root: {_not_there(config, found)}")
    if len(least) > 1:
        name = BENCHMARKS[config.kind].name
        raise ConfigError(
            f"data.root: {config.root} holds {name} {len(least)} times, in {least[0]} and {least[1]}: name one of them"
        )
    above = f"{least[0]}/" if least[0] else ""
    below = {path.removeprefix(above): stamp for path, stamp in stamps.items() if path.startswith(above)}
    return Copy(config, Files(config.root, least[0]), below)


def _not_there(config: BenchmarkConfig, found: Sequence[tuple[str, str]]) -> str:
    benchmark = BENCHMARKS[config.kind]
    if not found:
        expected = _EXPECTED[config.kind]
        return f"no {benchmark.name} in {config.root}: expected {expected}. It is had from {benchmark.source}"
    other = found[0][0]
    if other == CUB_2010:
        return f"{config.root} is the older CUB-200 (2010), not {benchmark.name}, which is had from {benchmark.source}"
    return f"{config.root} is {BENCHMARKS[other].name}, not {benchmark.name}: set data.kind={other}"


def listing_of_copy(
    copy: Copy,
    rows: Collection[Row],
    names: Mapping[int, str],
    *,
    lists: Sequence[str],
    test_lists: Mapping[str, Container[str]] | None = None,
    halves: bool = False,
) -> Listing:
    """The listing of a benchmark: classes in the order of their ids, those that train first.

    `names` are those of the classes by their ids, `lists` the files that rows come from. Raises ConfigError for an
    image that is missing or named twice, a class that the benchmark has not or that is on both sides, and, with
    `data.counts=published`, for other counts than were published.
    """
    _require_each_once(copy, rows)
    missing = [row.place for row in rows if not copy.has(row.place)]
    about = _about_missing(copy, missing, len(rows), lists) if missing else ""
    rows = [row for row in rows if copy.has(row.place)]
    if not rows:
        raise ConfigError(about or f"data.root: {copy.files.named()} holds no image; {_had_from(copy.config)}")
    sides = {trains: {row.class_id for row in rows if row.trains == trains} for trains in (True, False)}
    _require_classes(copy, sides, names)
    order = [*sorted(sides[True]), *sorted(sides[False])]
    stamps = {path: copy.stamps[path] for path in (*lists, *sorted(row.place for row in rows))}
    listing = listing_of(
        copy.files,
        (Listed(row.place, names[row.class_id], row.role) for row in rows),
        [names[class_id] for class_id in order],
        # The same files are other data where the lists are taken otherwise.
        version=f"{copy.config.kind}-{len(sides[True])}-{version_of(stamps)}",
        num_training=len(sides[True]),
        test_lists=test_lists,
    )
    if missing:
        raise MissingImagesError(about, missing, listing)
    if copy.config.counts == "published":
        require_published(copy.config.kind, copy.config.root, listing, halves=halves)
    return listing


def _require_each_once(copy: Copy, rows: Collection[Row]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.place in seen:
            raise ConfigError(
                f"data.root: the lists name {copy.files.named(row.place)} twice; take them from a new copy"
            )
        seen.add(row.place)


def _about_missing(copy: Copy, missing: Sequence[str], num_rows: int, lists: Sequence[str]) -> str:
    return (
        f"data.root: {len(missing):,} of {num_rows:,} images that {' and '.join(lists)} name are missing, the "
        f"first is {copy.files.named(missing[0])}; {_had_from(copy.config)}"
    )


def _had_from(config: BenchmarkConfig) -> str:
    return f"complete the copy, from {BENCHMARKS[config.kind].source}"


def _require_classes(copy: Copy, sides: Mapping[bool, set[int]], names: Mapping[int, str]) -> None:
    benchmark = BENCHMARKS[copy.config.kind]
    both = sorted(sides[True] & sides[False])
    if both:
        raise ConfigError(
            f"data.root: {len(both):,} classes are on both sides of the split of {copy.config.root}, the first is "
            f"{names[both[0]]}; take its lists from a new copy"
        )
    ids = sides[True] | sides[False]
    strange = sorted(class_id for class_id in ids if benchmark.numbered and not 1 <= class_id <= benchmark.numbered)
    if strange:
        raise ConfigError(
            f"data.root: {benchmark.name} has classes 1 ... {benchmark.numbered:,}, but {copy.config.root} has "
            f"class {strange[0]}"
        )
    owner: dict[str, int] = {}
    for class_id in sorted(ids):
        if owner.setdefault(names[class_id], class_id) != class_id:
            raise ConfigError(
                f"data.root: classes {owner[names[class_id]]} and {class_id} of {copy.config.root} are both called "
                f"{names[class_id]}"
            )

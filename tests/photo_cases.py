"""Folders of small photographs, and builders of their cache that count and that can be killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from raydml.config import FolderConfig
from raydml.data import building
from raydml.data.building import DecodedBlock, decode_block
from raydml.data.cache import ImageSet
from raydml.data.decoding import Pixels
from raydml.data.folder import list_folder
from raydml.data.listing import Listing
from raydml.data.photos import open_photos
from raydml.splits import Indices

SIZE = 16
CLASSES, PER_CLASS = 10, 4


def photo(label: int, number: int) -> Pixels:
    """(SIZE, SIZE, 3) noise that no other photograph has."""
    return np.random.default_rng([label, number]).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def photos() -> Pixels:
    """(40, SIZE, SIZE, 3) what the cache has to hold."""
    return np.stack([photo(label, number) for label in range(CLASSES) for number in range(PER_CLASS)])


def make_folder(root: Path) -> Path:
    """Forty photographs of ten classes. PNG: what is decoded is what was drawn."""
    for label in range(CLASSES):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(PER_CLASS):
            Image.fromarray(photo(label, number)).save(root / f"class{label}" / f"{number}.png")
    return root


def config_of(root: Path, cache: Path | str, **fields: object) -> FolderConfig:
    raw = {"kind": "folder", "root": str(root), "image_size": SIZE, "input_size": SIZE, "num_folds": 2}
    return FolderConfig.model_validate(raw | {"cache": str(cache), **fields})


class Counting:
    """Decodes as always, and counts: images, and the largest block."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        """After so many blocks the process dies, as far as a test can tell."""
        self.decoded = 0
        self.blocks = 0
        self._stop_after = stop_after

    def __call__(self, listing: Listing, image_size: int, blocks: Sequence[Indices]) -> Iterator[DecodedBlock]:
        for positions in blocks:
            if self.blocks == self._stop_after:
                raise KilledError
            self.blocks += 1
            self.decoded += len(positions)
            yield decode_block(listing, image_size, positions)


class KilledError(Exception):
    """Instead of a kill, where a test wants to look at what is left."""


def open_folder(root: Path, cache: Path, decode: Counting, *, known: str | None = None) -> ImageSet:
    return open_photos(
        cache,
        lambda: list_folder(config_of(root, cache)),
        name="folder",
        image_size=SIZE,
        known=known,
        decode=decode,
    )


class Noting:
    """Decodes, and adds a letter to a file for every image: it counts over processes that are killed."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def __call__(self, listing: Listing, image_size: int, blocks: Sequence[Indices]) -> Iterator[DecodedBlock]:
        for positions in blocks:
            with self._notes.open("a", encoding="utf-8") as file:
                file.write("x" * len(positions))
            yield decode_block(listing, image_size, positions)


def main(root: str, cache: str, notes: str, images_per_block: str) -> None:
    """A process that opens the folder, to be killed or to run beside another."""
    building._IMAGES_PER_BLOCK = int(images_per_block)
    images = open_photos(
        Path(cache),
        lambda: list_folder(config_of(Path(root), cache)),
        name="folder",
        image_size=SIZE,
        known=None,
        decode=Noting(Path(notes)),
    )
    assert np.array_equal(images.images, photos())
    print(images.fingerprint)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Photographs decoded into the cache: block by block, in threads or wherever else a decoder runs.

A build is a folder `<cache>/builds/<signature>/`: the file of pixels at its full size, and a journal of the blocks that
are done. A killed one goes on with the blocks that are missing. When all are there, the folder is named after their
content and becomes an entry: no pixel is written twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from raydml.config import ConfigError
from raydml.data import entry as entries
from raydml.data.addresses import fingerprint_of, point
from raydml.data.cache import lock_of
from raydml.data.decoding import Pixels, UnreadableImageError, decode_image, decoder
from raydml.data.disk import num_bytes_of, require_room, writable
from raydml.data.journal import FinishedBlock, Journal
from raydml.data.listing import Listing
from raydml.data.pixel_file import PixelFile, checksums_of
from raydml.splits import Indices

_log = logging.getLogger(__name__)

# A block is what a thread holds at once, and what a kill may cost.
_IMAGES_PER_BLOCK, _BYTES_PER_BLOCK = 256, 64 * 2**20
JOURNAL = "journal.jsonl"

Progress = Callable[[int, int], None]
"""Is told how many images are decoded, of how many."""


class DecodedBlock(NamedTuple):
    """Some images of a listing."""

    positions: Indices
    """(n,) places in the listing."""
    pixels: Pixels
    """(n, size, size, 3)."""
    digests: list[bytes]
    """BLAKE2b of each image's encoded bytes."""
    num_bytes: int = 0
    """Of the encoded images together."""


Decode = Callable[[Listing, int, Sequence[Indices]], Iterator[DecodedBlock]]
"""Listing, image size and blocks of positions to the same blocks decoded, in any order."""


def decode_block(listing: Listing, image_size: int, positions: Indices) -> DecodedBlock:
    """One block. Raises ConfigError naming the first image that cannot be read."""
    pixels: Pixels = np.empty((len(positions), image_size, image_size, 3), dtype=np.uint8)
    digests, num_bytes = [], 0
    for row, position in enumerate(positions):
        place = listing.places[position]
        try:
            data = listing.encoded.read(place)
            pixels[row] = decode_image(data, image_size)
        except (OSError, UnreadableImageError) as error:
            raise ConfigError(f"data.root: {listing.encoded.named(place)} is no readable image: {error}") from None
        digests.append(hashlib.blake2b(data, digest_size=16).digest())
        num_bytes += len(data)
    return DecodedBlock(positions, pixels, digests, num_bytes)


def decode_in_threads(listing: Listing, image_size: int, blocks: Sequence[Indices]) -> Iterator[DecodedBlock]:
    """On the cores of this machine: Pillow lets other threads run while it decodes."""
    num_threads = os.cpu_count() or 1
    waiting: deque[Future[DecodedBlock]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for positions in blocks:
                waiting.append(pool.submit(decode_block, listing, image_size, positions))
                # No more than these are in memory, however slow the disk is.
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Build:
    """What is to be decoded, and into which cache."""

    cache: Path
    listing: Listing
    signature: str
    name: str
    image_size: int

    @property
    def folder(self) -> Path:
        """Where it grows."""
        return self.cache / "builds" / self.signature

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C) of the images."""
        return (len(self.listing.places), self.image_size, self.image_size, 3)

    def locked(self) -> FileLock:
        """Held by whoever builds."""
        return FileLock(lock_of(self.folder))

    def blocks(self) -> list[Indices]:
        """Positions of the images, in the order in which reading is fastest."""
        num_images, *row = self.shape
        order = self.listing.reading_order
        of_block = max(1, min(_IMAGES_PER_BLOCK, _BYTES_PER_BLOCK // int(np.prod(row))))
        return np.array_split(np.arange(num_images) if order is None else order, -(-num_images // of_block))


def build(what: Build, decode: Decode, progress: Progress | None = None) -> Path:
    """Decodes what is missing and puts the entry into its place; its folder. Whoever calls holds the build's lock.

    Raises ConfigError where an image cannot be read, or the cache is too small or cannot be written.
    """
    with writable(what.cache, num_bytes_of(what.shape)):
        _make_room(what)
        what.folder.mkdir(parents=True, exist_ok=True)
        _log.info(
            "%s: decoding %s images once to %s x %s pixels into %s (%.3g GB)",
            *(what.name, len(what.listing.places), what.image_size, what.image_size, what.cache),
            num_bytes_of(what.shape) / 1e9,
        )
        done = _decode_missing(what, decode, progress)
        fingerprint = _finish(what, done)
        # Before the entry: whoever comes between finds the build still there, and nothing left to decode.
        point(what.cache, what.signature, fingerprint)
        entry = what.cache / fingerprint
        with FileLock(lock_of(entry)):
            if entries.read(entry) is None:
                entries.install(what.folder, entry)
                (entry / JOURNAL).unlink()
            else:
                shutil.rmtree(what.folder)
        return entry


def _decode_missing(what: Build, decode: Decode, progress: Progress | None) -> list[FinishedBlock]:
    """All blocks, in the order of `Build.blocks`."""
    blocks, num_images = what.blocks(), what.shape[0]
    number_of = {int(positions[0]): number for number, positions in enumerate(blocks)}
    with (
        contextlib.closing(Journal(what.folder / JOURNAL)) as journal,
        PixelFile(what.folder / entries.PIXELS, what.shape) as file,
    ):
        intact = {
            number
            for number, finished in journal.blocks.items()
            if np.array_equal(file.checksums(blocks[number]), finished.checksums)
        }
        missing = [number for number in range(len(blocks)) if number not in intact]
        num_done = sum(len(blocks[number]) for number in intact)
        if progress is not None:
            progress(num_done, num_images)
        for block in decode(what.listing, what.image_size, [blocks[number] for number in missing]):
            number = number_of[int(block.positions[0])]
            file.write(block.positions, block.pixels)
            # The journal may only tell of what the disk has.
            file.sync()
            journal.append(FinishedBlock(number, checksums_of(block.pixels), block.digests, block.num_bytes))
            num_done += len(block.positions)
            if progress is not None:
                progress(num_done, num_images)
        return [journal.blocks[number] for number in range(len(blocks))]


def _finish(what: Build, done: Sequence[FinishedBlock]) -> str:
    """Writes what lies beside the pixels; the fingerprint of the whole."""
    listing = what.listing
    positions = np.concatenate(what.blocks())
    checksums = np.empty(len(positions), dtype=np.uint32)
    checksums[positions] = np.concatenate([block.checksums for block in done])
    digest_at = dict(zip(positions.tolist(), [digest for block in done for digest in block.digests], strict=True))
    digests = [digest_at[position] for position in range(len(positions))]
    fingerprint = fingerprint_of(listing, what.image_size, digests)
    description = entries.Description(
        name=what.name,
        synthetic=False,
        shape=what.shape,
        labels=listing.labels,
        classes=listing.classes,
        sources=listing.places,
        digests=digests,
        num_training=listing.num_training,
        roles=listing.roles,
        groups=listing.groups,
        test_lists=listing.test_lists,
        decoder=decoder(),
        encoded_bytes=sum(block.num_bytes for block in done),
    )
    entries.finish(what.folder, description, checksums, fingerprint=fingerprint)
    return fingerprint


def _make_room(what: Build) -> None:
    """Raises ConfigError where the disk is too small, even without what nobody went on with."""
    started = what.folder / entries.PIXELS
    # What an earlier process took of the disk for this build is there already.
    needed = num_bytes_of(what.shape) - (started.stat().st_blocks * 512 if started.exists() else 0)
    for other in sorted(what.folder.parent.iterdir()):
        if needed <= shutil.disk_usage(what.cache).free:
            return
        if other.is_dir() and other != what.folder:
            with contextlib.suppress(Timeout), FileLock(lock_of(other), timeout=0):
                _log.info("removing an unfinished build to make room: %s", other)
                # It may have become an entry a moment ago.
                shutil.rmtree(other, ignore_errors=True)
    require_room(what.cache, needed)

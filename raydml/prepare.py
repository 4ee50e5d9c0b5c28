"""Photographs decoded into the cache, in parallel over a cluster: `python -m raydml.data prepare DATA`.

Ray Data maps blocks of places to blocks of pixels in one step (places, encoded bytes, pixels: nothing but the last
travels) and streams them to this process, which writes them as any other decoder's. What was written stays written: an
interrupted preparation goes on with the blocks that are missing, and a killed worker's block is decoded by another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock

from raydml.capacity import Capacity, Worker
from raydml.config import ConfigError, DataConfig
from raydml.data import entry as entries
from raydml.data.building import DecodedBlock, Progress, decode_block
from raydml.data.cache import ImageSet, lock_of
from raydml.data.decoding import decoder
from raydml.data.listing import Encoded, Listing
from raydml.data.opening import cache_folder, open_images
from raydml.machine_wait import MachineWait, telling
from raydml.session import connected, failure_told, import_ray, numbers_of_retries
from raydml.splits import Indices

_log = logging.getLogger(__name__)

# Decoded blocks in Ray's object store for each CPU: one being made, one waiting to be written, one to spare.
_BLOCKS_PER_CPU = 3
# Times that a block is decoded again because its worker died: machines that go away take a few, images that kill their
# decoder take them all. Without a number Ray Data would try for ever.
_RETRIES = 4
_DIGEST_BYTES = 16


# What a worker makes of a block.
_ANSWER = pa.schema(
    {"pixels": pa.large_binary(), "digests": pa.binary(), "num_bytes": pa.int64(), "problem": pa.string()}
)


class PreparationFailedError(RuntimeError):
    """The workers could not decode the images, for a reason that is not in the images."""


@dataclass(frozen=True)
class Prepared:
    """What is in the cache now."""

    images: ImageSet
    entry: Path
    num_bytes: int
    """Of the entry on disk."""
    num_decoded: int
    """Images decoded by this call; none where all were there."""
    seconds: float
    """From listing to the entry being whole."""
    start_s: float
    """Of these, until the first block came: Ray and its workers start."""
    rate: float
    """Images a second once the first block was there; of everything where there was one block only."""


def prepare(config: DataConfig, *, progress: Progress | None = None, verbose: bool = False) -> Prepared:
    """Decodes what the cache lacks of a configuration's images; Ray starts only where there is any.

    What is there is read once and decoded again where a pixel is not what was written.

    Raises ConfigError for bad data and for an image that cannot be read, PreparationFailedError.
    """
    counted = _Counted()
    with ExitStack() as stack:

        def decode(listing: Listing, image_size: int, blocks: Sequence[Indices]) -> Iterator[DecodedBlock]:
            # An interrupted preparation may have nothing left to decode.
            if blocks:
                capacity = stack.enter_context(connected(verbose=verbose))
                decoded = stack.enter_context(closing(decode_on_cluster(listing, image_size, blocks, capacity)))
                yield from counted(decoded)

        images = open_images(config, with_test=True, decode=decode, progress=progress)
        entry = cache_folder(config) / images.fingerprint
        if not counted.done and _removed_damaged(entry):
            images = open_images(config, with_test=True, decode=decode, progress=progress)
    num_bytes = sum(path.stat().st_size for path in entry.iterdir())
    return Prepared(images, entry, num_bytes, counted.done, *counted.speed())


def _removed_damaged(entry: Path) -> bool:
    if not entries.verify(entry):
        return False
    _log.warning("%s is damaged and is built again", entry)
    with FileLock(lock_of(entry)):
        entries.discard(entry)
    return True


class _Counted:
    """Counts and times the images that pass by."""

    def __init__(self) -> None:
        self.done = 0
        self._began = self._first = time.monotonic()
        self._in_first = 0

    def __call__(self, blocks: Iterator[DecodedBlock]) -> Iterator[DecodedBlock]:
        for block in blocks:
            if not self.done:
                self._first, self._in_first = time.monotonic(), len(block.positions)
            yield block
            self.done += len(block.positions)

    def speed(self) -> tuple[float, float, float]:
        """Seconds until now, seconds until the first block, images a second after it."""
        now = time.monotonic()
        later = self.done - self._in_first
        rate = later / (now - self._first) if later else self.done / (now - self._began)
        return now - self._began, self._first - self._began, rate


def decode_on_cluster(
    listing: Listing, image_size: int, blocks: Sequence[Indices], capacity: Capacity
) -> Generator[DecodedBlock, None, None]:
    """The blocks of a listing, in any order, decoded by one task each on a Ray that is connected.

    Raises ConfigError naming an image that cannot be read, PreparationFailedError where the workers are lost for good.
    """
    ray = import_ray()
    from ray.data import ExecutionResources
    from ray.data.exceptions import SystemException
    from ray.exceptions import RayError

    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A row is a block: Ray Data may cut and join tables, but not rows.
    dataset = ray.data.from_arrow([_asked(listing, number, positions) for number, positions in enumerate(blocks)])
    limit = _BLOCKS_PER_CPU * max(1, int(capacity.cpus)) * max(map(len, blocks)) * image_size * image_size * 3
    dataset.context.execution_options.resource_limits = ExecutionResources(object_store_memory=limit)
    with numbers_of_retries():
        decoded = dataset.map_batches(
            _decode_rows,
            fn_kwargs={"encoded": listing.encoded, "image_size": image_size, "expected": decoder()},
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=1,
            max_retries=_RETRIES,
        )
    tables = decoded.iter_batches(batch_format="pyarrow", batch_size=None)
    try:
        with closing(telling(tables, MachineWait("the decoding", Worker(1.0, 0.0), capacity))) as told:
            for table in told:
                yield from _answered(table, blocks, image_size)
    except (RayError, SystemException) as error:
        raise PreparationFailedError(failure_told(error)) from error


def _asked(listing: Listing, number: int, positions: Indices) -> pa.Table:
    places = [listing.places[position] for position in positions]
    return pa.table({"block": [number], "places": pa.array([places], pa.list_(pa.string()))})


def _decode_rows(table: pa.Table, *, encoded: Encoded, image_size: int, expected: str) -> pa.Table:
    """Rows (block, places) -> (block, pixels, digests, num_bytes, problem), in a worker.

    An unreadable image is an answer, no error: Ray would wrap it in pages, or try again. So is a worker whose decoder
    is not the `expected` one, after which the pixels are named.
    """
    if decoder() != expected:
        problem = f"data: a node decodes with {decoder()}, this one with {expected}: install the same Pillow on all"
        rows = [{"pixels": b"", "digests": b"", "num_bytes": 0, "problem": problem}] * len(table)
        return pa.Table.from_pylist(rows, schema=_ANSWER).append_column("block", table["block"])
    rows = [_decode_places(encoded, places, image_size) for places in table["places"].to_pylist()]
    return pa.Table.from_pylist(rows, schema=_ANSWER).append_column("block", table["block"])


def _decode_places(encoded: Encoded, places: Sequence[str], image_size: int) -> dict[str, object]:
    everything = np.arange(len(places), dtype=np.int64)
    alone = Listing(encoded, tuple(places), everything, (), "")
    try:
        block = decode_block(alone, image_size, everything)
    except ConfigError as error:
        return {"pixels": b"", "digests": b"", "num_bytes": 0, "problem": str(error)}
    digests = b"".join(block.digests)
    return {"pixels": block.pixels.tobytes(), "digests": digests, "num_bytes": block.num_bytes, "problem": ""}


def _answered(table: pa.Table, blocks: Sequence[Indices], image_size: int) -> Iterator[DecodedBlock]:
    for batch in table.to_batches():
        for row in range(batch.num_rows):
            if problem := batch["problem"][row].as_py():
                raise ConfigError(problem)
            positions = blocks[batch["block"][row].as_py()]
            # A view of Ray's shared memory: nothing is copied before it is written.
            pixels = np.frombuffer(batch["pixels"][row].as_buffer(), dtype=np.uint8)
            joined = batch["digests"][row].as_py()
            digests = [joined[at : at + _DIGEST_BYTES] for at in range(0, len(joined), _DIGEST_BYTES)]
            shape = (len(positions), image_size, image_size, 3)
            yield DecodedBlock(positions, pixels.reshape(shape), digests, batch["num_bytes"][row].as_py())

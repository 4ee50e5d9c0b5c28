"""A pool of Ray Data actors that embeds blocks of images: each reads, decodes and computes at the same time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from raydml import checkpoint
from raydml.block_folder import Unreadable
from raydml.capacity import embedding_actors
from raydml.config import ConfigError, Resources
from raydml.data.reading import EncodedImages, SplitImages
from raydml.embedding_files import Rows
from raydml.machine_wait import MachineWait, telling
from raydml.objective import network_input
from raydml.session import connected, failure_told, import_ray, numbers_of_retries
from raydml.splits import Indices

# Calls of an actor at a time: one computes while others read and decode.
_CALLS = 3
# Times that a block is given to another actor because its own died: machines that go away take a few, a block that
# kills its actor takes them all. Without a number Ray Data would try for ever.
_RETRIES = 4

_ANSWER = pa.schema(
    [
        ("block", pa.int64()),
        ("rows", pa.large_binary()),
        ("positions", pa.large_binary()),
        ("unreadable", pa.list_(pa.struct([("position", pa.int64()), ("problem", pa.string())]))),
        ("failure", pa.string()),
    ]
)


class EmbeddingFailedError(RuntimeError):
    """The workers could not embed the images; the message says why."""


@dataclass(frozen=True)
class Effort:
    """How images are embedded."""

    precision: Literal["trained", "float32", "bfloat16"]
    """What backbone and head compute in."""
    batch_size: int
    """Images in an actor's model at a time."""
    resources: Resources
    """Of one actor."""
    verbose: bool
    """Whether what the workers print is shown."""


class Block(NamedTuple):
    """Images to be embedded."""

    number: int
    positions: Indices
    """(n,) among all."""
    places: Sequence[str] = ()
    """(n,) where images are named; empty where the positions say which they are."""


class EmbeddedBlock(NamedTuple):
    """A block as an actor gave it back."""

    number: int
    rows: Rows
    """(n, D)."""
    positions: Indices
    """(n,) rising; fewer than the block has where images are unreadable."""
    unreadable: list[Unreadable]


class _Embedder:
    """An actor of the pool: the model, and the images of the node it lies on."""

    def __init__(
        self,
        model: Callable[[], checkpoint.Packed],
        images: SplitImages | EncodedImages,
        effort: Effort,
        num_threads: int,
        device_kind: str = "cpu",
    ) -> None:
        torch.set_num_threads(num_threads)
        objective, _, shape = checkpoint.load_objective(model())
        device = torch.device(device_kind)
        self._model = objective.model.compute_in(effort.precision).to(device)
        self._image_size, self._batch_size = shape.image_size, effort.batch_size
        self._read = images.opened(device, input_size=shape.image_size, in_channels=shape.in_channels)
        self._turn = threading.Lock()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows (block, positions, places) -> rows of `_ANSWER`: a row is a block, which Ray Data never cuts."""
        return pa.Table.from_pylist([self._answer(**row) for row in table.to_pylist()], schema=_ANSWER)

    def _answer(self, block: int, positions: list[int], places: list[str]) -> dict[str, object]:
        rows, kept, unreadable = [], [], []
        try:
            for start in range(0, len(positions), self._batch_size):
                part = np.array(positions[start : start + self._batch_size], dtype=np.int64)
                found, readable, problems = self._embedded(part, places[start : start + self._batch_size])
                rows.append(found)
                kept.append(part[readable])
                unreadable += [{"position": int(part[row]), "problem": said} for row, said in problems.items()]
        except ConfigError as error:
            # An answer, no error: Ray would wrap it in pages.
            return {"block": block, "rows": b"", "positions": b"", "unreadable": [], "failure": str(error)}
        return {
            "block": block,
            "rows": np.concatenate(rows).tobytes(),
            "positions": np.concatenate(kept).tobytes(),
            "unreadable": unreadable,
            "failure": "",
        }

    @torch.inference_mode()
    def _embedded(self, positions: Indices, places: Sequence[str]) -> tuple[Rows, Indices, dict[int, str]]:
        read = self._read(positions, places)
        if not len(read.readable):
            return np.empty((0, self._model.head.out_features), np.float32), read.readable, read.problems
        # One at a time in the model: memory for one batch, and its threads for one.
        with self._turn:
            pixels = read.source.deliver(read.pixels)
            rows: Rows = self._model(network_input(pixels, None, self._image_size)).float().cpu().numpy()
        return rows, read.readable, read.problems


def embed_blocks(
    folder: Path, images: SplitImages | EncodedImages, blocks: Sequence[Block], effort: Effort
) -> Generator[EmbeddedBlock, None, None]:
    """Embeds blocks by a checkpoint's model on the Ray that is connected, or on one of its own; in any order.

    A block that an actor died with is embedded again by another, a few times; what waits for machines is said. Raises
    EmbeddingFailedError, and ConfigError where the images are not what they were.
    """
    ray = import_ray()
    with connected(verbose=effort.verbose) as capacity:
        from ray.data import ActorPoolStrategy
        from ray.data.exceptions import SystemException
        from ray.exceptions import RayError

        if not effort.verbose:
            logging.getLogger("ray.data").setLevel(logging.ERROR)
        num_actors, worker = embedding_actors(effort.resources, capacity)
        dim = checkpoint.read_config(folder).model.embedding_dim
        pool = ActorPoolStrategy(
            size=min(num_actors, len(blocks)),
            max_concurrent_calls_per_actor=_CALLS,
            enable_true_multi_threading=True,
        )
        try:
            # The folder may be on this machine alone.
            model = ray.put(checkpoint.packed(folder))
            device = "cuda" if worker.gpus > 0 else "cpu"
            with numbers_of_retries():
                answers = ray.data.from_arrow([_asked(block) for block in blocks]).map_batches(
                    _Embedder,
                    fn_constructor_args=(partial(ray.get, model), images, effort, max(1, int(worker.cpus)), device),
                    compute=pool,
                    batch_size=None,
                    batch_format="pyarrow",
                    num_cpus=worker.cpus,
                    num_gpus=worker.gpus,
                    max_task_retries=_RETRIES,
                )
            tables = answers.iter_batches(batch_format="pyarrow", batch_size=None)
            with closing(telling(tables, MachineWait("the embedding", worker, capacity))) as told:
                for table in told:
                    yield from _answered(table, dim)
        except (RayError, SystemException) as error:
            raise EmbeddingFailedError(failure_told(error)) from error


def _asked(block: Block) -> pa.Table:
    places = pa.array([list(block.places)], pa.list_(pa.string()))
    return pa.table({"block": [block.number], "positions": [block.positions], "places": places})


def _answered(table: pa.Table, dim: int) -> Iterator[EmbeddedBlock]:
    """Raises ConfigError where an actor found that the images are not what they were."""
    for batch in table.to_batches():
        for row in range(batch.num_rows):
            if failure := batch["failure"][row].as_py():
                raise ConfigError(failure)
            # Views of Ray's shared memory: nothing is copied before it is written.
            rows = np.frombuffer(batch["rows"][row].as_buffer(), dtype=np.float32).reshape(-1, dim)
            positions = np.frombuffer(batch["positions"][row].as_buffer(), dtype=np.int64)
            unreadable = [Unreadable(**image) for image in batch["unreadable"][row].as_py()]
            yield EmbeddedBlock(batch["block"][row].as_py(), rows, positions, unreadable)

"""What an actor of the cluster does with a shard of the gallery. It knows nothing of Ray, which runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from raydml.counting import Positives, Side, count_negatives, positives_of
from raydml.data.files import Stamp
from raydml.embedding_files import Rows
from raydml.metrics.inputs import exact_products
from raydml.shards import Shard
from raydml.splits import Indices
from raydml.stored import Stored, read_rows


class QueryBlock(NamedTuple):
    """Q queries, in the order of their classes. Arrays, which Ray shares among the actors of a machine."""

    rows: Rows
    """(Q, D)"""
    labels: Indices
    identity: Indices
    """(Q,) rows counted over all files."""
    groups: Indices | None


class Thresholds(NamedTuple):
    """`counting.Positives` in the whole gallery, and the last ranks that matter."""

    similarity: npt.NDArray[np.float32]
    offsets: Indices
    limit: Indices


def rows_of_shard(stored: Stored, shard: Shard) -> Rows:
    """(n, D) in the order of the shard. Raises ConfigError as `read_rows`."""
    order = np.argsort(shard.identity)
    return read_rows(stored, shard.identity[order], order)


class ShardActor:
    """One shard of the gallery, and what is counted in it."""

    def __init__(self, stored: Stored, num_threads: int, device: str = "cpu") -> None:
        torch.set_num_threads(num_threads)
        self._stored = stored
        self._device = torch.device(device)
        self._shard: Side | None = None

    def ready(self, stamps: Mapping[str, Stamp] | None) -> bool:
        """Answers when the process runs: whether it sees the files as whoever found them with these stamps.

        None stands for files that every machine sees.
        """
        return stamps is None or self._stored.files.stamps(self._stored.paths) == stamps

    def hold(self, shard: Shard, rows: Rows | None = None) -> None:
        """Takes a shard instead of the one it held: these rows, or those that it reads."""
        self._shard = None
        rows = rows_of_shard(self._stored, shard) if rows is None else rows
        self._shard = self._side(rows, shard.labels, shard.identity, shard.groups)

    def positives(self, block: QueryBlock) -> tuple[npt.NDArray[np.float32], Indices]:
        """Similarities and offsets of `counting.Positives`."""
        assert self._shard is not None
        with exact_products():
            found = positives_of(self._side(*block), self._shard)
        return found.similarity.cpu().numpy(), found.offsets.cpu().numpy()

    def negatives(self, block: QueryBlock, thresholds: Thresholds) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Counts and ties of `counting.Negatives`."""
        assert self._shard is not None
        similarity, offsets, limit = (self._tensor(array) for array in thresholds)
        with exact_products():
            found = count_negatives(self._side(*block), self._shard, Positives(similarity, offsets), limit)
        return found.at_least.cpu().numpy(), found.tied.cpu().numpy()

    def _side(self, *columns: npt.NDArray[Any] | None) -> Side:
        return Side(*(None if column is None else self._tensor(column) for column in columns))  # type: ignore[arg-type]

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        # What comes through the object store is read-only, which torch does not know of.
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self._device)

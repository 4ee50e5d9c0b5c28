"""The sums of what all shards find, block by block of the queries, until they are the metrics of each query."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raydml.config import Wanted
from raydml.counting import Negatives, Positives, added, merged
from raydml.metrics.counts import limits, values_of
from raydml.metrics.inputs import NO_POSITIVE
from raydml.per_query import QueryMetrics
from raydml.shard_actor import QueryBlock, Thresholds
from raydml.shards import Columns, query_blocks
from raydml.splits import Indices
from raydml.stored import Stored, read_rows
from raydml.waves import Unit

# Blocks of queries that are kept where actors find them.
BLOCKS_AT_HAND = 4

Put = Callable[[object], Any]
"""Lays something where actors find it, and returns what they are given for it."""


class Queries:
    """The queries (Q,), cut into blocks that are read when they are needed."""

    def __init__(self, stored: Stored, columns: Columns, index: Indices, gallery: Indices, put: Put) -> None:
        """`index` (Q,) and `gallery` (M,) are the rows that are either, rising."""
        self._stored, self._put = stored, put
        self.index, self.labels = index, columns.labels[index]
        self._groups = None if columns.groups is None else columns.groups[index]
        self.blocks = list(query_blocks(columns.labels, index, gallery))
        self._given: OrderedDict[int, Any] = OrderedDict()

    def given(self, number: int) -> Any:  # noqa: ANN401
        """A block for actors: laid there once for all, and again where the last ones that were asked for are others."""
        if number not in self._given:
            order = self.order(number)
            index, groups = self.index[order], None if self._groups is None else self._groups[order]
            by_row = np.argsort(index)
            rows = read_rows(self._stored, index[by_row], by_row)
            self._given[number] = self._put(QueryBlock(rows, self.labels[order], index, groups))
            if len(self._given) > BLOCKS_AT_HAND:
                self._given.popitem(last=False)
        self._given.move_to_end(number)
        return self._given[number]

    def order(self, number: int) -> Indices:
        """Which of the Q queries a block holds, in its order: that of their classes."""
        block = self.blocks[number]
        order: Indices = block.start + np.argsort(self.labels[block], kind="stable")
        return order

    def size(self, number: int) -> int:
        """Queries of a block."""
        block = self.blocks[number]
        return int(block.stop - block.start)


class _Begun:
    """A block of which something is counted."""

    def __init__(self) -> None:
        self.positives: Positives | None = None
        self.offsets = torch.zeros(0)
        self.thresholds: Any = None
        self.negatives: Negatives | None = None


class Counts:
    """What the shards have found so far. Each answer must be given once."""

    def __init__(self, queries: Queries, wanted: Wanted, put: Put) -> None:
        self._queries, self._wanted, self._put = queries, wanted, put
        self._begun: dict[int, _Begun] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._usable = torch.zeros(len(queries.index), dtype=torch.bool)

    def thresholds(self, number: int) -> Any:  # noqa: ANN401
        """Those of a block, for actors, once all shards have given its positives."""
        return self._begun[number].thresholds

    def add(self, unit: Unit, answer: Sequence[npt.NDArray[Any]], *, last: bool) -> None:
        """Adds what a shard has found; `last` of its block and pass."""
        begun = self._begun.setdefault(unit.block, _Begun())
        # Arrays of an object store are read-only, and hold their place in it.
        first, second = (torch.from_numpy(array.copy()) for array in answer)
        if unit.kind == "positives":
            found = Positives(first, second)
            begun.positives = found if begun.positives is None else merged([begun.positives, found])
            if last:
                self._give_thresholds(begun, begun.positives)
            return
        part = Negatives(first, second)
        begun.negatives = part if begun.negatives is None else added([begun.negatives, part])
        if last:
            self._keep_values(unit.block, begun.offsets, begun.negatives)
            del self._begun[unit.block]

    def _give_thresholds(self, begun: _Begun, positives: Positives) -> None:
        limit = limits(positives.counts(), self._wanted)
        arrays = (positives.similarity.numpy(), positives.offsets.numpy(), limit.numpy())
        begun.thresholds, begun.offsets, begun.positives = self._put(Thresholds(*arrays)), positives.offsets, None

    def _keep_values(self, number: int, offsets: torch.Tensor, negatives: Negatives) -> None:
        rows = torch.from_numpy(self._queries.order(number))
        self._usable[rows] = offsets.diff() > 0
        for name, values in values_of(offsets, negatives, self._wanted).items():
            self._values.setdefault(name, values.new_zeros(len(self._usable)))[rows] = values

    def metrics(self) -> QueryMetrics:
        """Of each query that has a positive, in the order of the rows. Raises ValueError where none has one."""
        rows = self._usable.nonzero()[:, 0]
        if not len(rows):
            raise ValueError(NO_POSITIVE)
        values = {name: column[rows] for name, column in self._values.items()}
        labels, place = (torch.from_numpy(column)[rows] for column in (self._queries.labels, self._queries.index))
        return QueryMetrics(values, labels, len(self._usable) - len(rows), place=place)

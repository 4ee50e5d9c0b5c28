"""Which part of a count an actor does next: blocks of queries against shards, in two passes. Bookkeeping only.

A block's positives are needed from all shards before its negatives are counted. An actor holds one shard at a time and
changes it only when nothing else is left to do with it: with as many actors as shards each shard is read once, with
fewer twice. What an actor that died was at is done again by another, and every unit counts once.
"""

from __future__ import annotations

import heapq
from typing import Literal, NamedTuple

Pass = Literal["positives", "negatives"]


class Unit(NamedTuple):
    """A block of queries against a shard."""

    kind: Pass
    shard: int
    block: int


class Waves:
    """Units that wait, that are being done and that are done, and which actor holds which shard."""

    def __init__(self, num_shards: int, num_blocks: int, *, window: int) -> None:
        """`window`: blocks whose thresholds are in memory at a time, as long as every shard is held by an actor."""
        self._num_shards, self._num_blocks, self._window = num_shards, num_blocks, window
        # Heaps of blocks, by shard: those whose positives wait, and those whose negatives wait and can be counted.
        self._positives = [list(range(num_blocks)) for _ in range(num_shards)]
        self._negatives: list[list[int]] = [[] for _ in range(num_shards)]
        self._not_given = [2 * num_blocks] * num_shards
        self._left: dict[Pass, list[int]] = {kind: [num_shards] * num_blocks for kind in ("positives", "negatives")}
        self._held: dict[int, int | None] = {}
        self._doing: dict[int, list[Unit]] = {}
        self._finished = 0

    @property
    def finished(self) -> bool:
        """Whether all is done."""
        return self._finished == self._num_blocks

    def joined(self, actor: int) -> None:
        """A new actor asks for work."""
        self._held[actor], self._doing[actor] = None, []

    def idle(self, most: int) -> list[int]:
        """Actors that have fewer units under way."""
        return [actor for actor, units in self._doing.items() if len(units) < most]

    def held(self, actor: int) -> int | None:
        """The shard that an actor has read."""
        return self._held[actor]

    def num_under_way(self, actor: int) -> int:
        """Units that it was given and has not done."""
        return len(self._doing[actor])

    def next_of(self, actor: int) -> Unit | None:
        """Gives an actor a unit; None where it has to wait for others, or where all is given."""
        unit = self._choice(actor)
        if unit is not None:
            heapq.heappop(self._queue(unit))
            self._not_given[unit.shard] -= 1
            self._held[actor] = unit.shard
            self._doing[actor].append(unit)
        return unit

    def done(self, actor: int, unit: Unit) -> bool:
        """Whether this was the block's last of its pass."""
        self._doing[actor].remove(unit)
        self._left[unit.kind][unit.block] -= 1
        last = not self._left[unit.kind][unit.block]
        if last and unit.kind == "positives":
            for waiting in self._negatives:
                heapq.heappush(waiting, unit.block)
        while not self.finished and not self._left["negatives"][self._finished]:
            self._finished += 1
        return last

    def lost(self, actor: int) -> tuple[Unit, ...]:
        """An actor died, perhaps before it joined: what it was at waits again, and is returned."""
        units = tuple(self._doing.pop(actor, ()))
        for unit in units:
            heapq.heappush(self._queue(unit), unit.block)
            self._not_given[unit.shard] += 1
        self._held.pop(actor, None)
        return units

    def _queue(self, unit: Unit) -> list[int]:
        return (self._positives if unit.kind == "positives" else self._negatives)[unit.shard]

    def _choice(self, actor: int) -> Unit | None:
        own = self._held[actor]
        if own is not None:
            # Negatives first: thresholds are soon forgotten.
            unit = self._of("negatives", own) or self._of("positives", own)
            if unit is not None or self._doing[actor]:
                return unit
        # It lets go of what it holds where others wait for positives, or where nothing is left to do with it.
        kinds: tuple[Pass, ...] = (
            ("positives",) if own is not None and self._not_given[own] else ("positives", "negatives")
        )
        free = sorted(set(range(self._num_shards)) - set(self._held.values()))
        return next((unit for kind in kinds for shard in free if (unit := self._of(kind, shard))), None)

    def _of(self, kind: Pass, shard: int) -> Unit | None:
        waiting = (self._positives if kind == "positives" else self._negatives)[shard]
        if not waiting or (kind == "positives" and waiting[0] >= self._finished + self._ahead()):
            return None
        return Unit(kind, shard, waiting[0])

    def _ahead(self) -> int:
        # With fewer actors than shards a pass goes over all blocks before shards are changed: else every few blocks
        # would be read again.
        return self._window if len(self._held) >= self._num_shards else self._num_blocks

"""Every unit is done once, positives before negatives, whoever dies; and shards are changed seldom."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from raydml.waves import Unit, Waves


class Played:
    """A count in which units end, and actors die and come back, in a random order."""

    def __init__(self, num_shards: int, num_blocks: int, num_actors: int, *, seed: int = 0, deaths: int = 0) -> None:
        self.waves = Waves(num_shards, num_blocks, window=3)
        self.done: Counter[Unit] = Counter()
        self.ended: list[Unit] = []
        """The last unit of every block and pass."""
        self.reads: list[int] = []
        self.furthest = 0
        self._rng = random.Random(seed)
        self._deaths = deaths
        self._under_way: dict[int, list[Unit]] = {}
        self._num_blocks, self._num_actors = num_blocks, num_actors

    def run(self) -> Played:
        born = 0
        while not self.waves.finished:
            while len(self._under_way) < self._num_actors:
                self.waves.joined(born)
                self._under_way[born] = []
                born += 1
            for actor in self._under_way:
                self._fill(actor)
            busy = [actor for actor, units in self._under_way.items() if units]
            assert busy, "all wait for each other"
            actor = self._rng.choice(busy)
            if self._deaths and self._rng.random() < 0.2:
                self._deaths -= 1
                # The one that is to replace it may die before it joins.
                assert self.waves.lost(-self._deaths - 1) == ()
                assert list(self.waves.lost(actor)) == self._under_way.pop(actor)
            else:
                self._end(actor, self._under_way[actor].pop(0))
        return self

    def _fill(self, actor: int) -> None:
        while len(self._under_way[actor]) < 2:
            before = self.waves.held(actor)
            unit = self.waves.next_of(actor)
            if unit is None:
                return
            if unit.shard != before:
                assert not self._under_way[actor], "it counts with what it lets go of"
                self.reads.append(unit.shard)
            assert self.waves.held(actor) == unit.shard
            if unit.kind == "negatives":
                shards = {done.shard for done in self.done if done.kind == "positives" and done.block == unit.block}
                assert len(shards) == self.waves._num_shards
            self._under_way[actor].append(unit)
            self.furthest = max(self.furthest, self._unfinished())
            assert self.waves.num_under_way(actor) == len(self._under_way[actor])

    def _unfinished(self) -> int:
        begun = {unit.block for unit in self.done} | {u.block for units in self._under_way.values() for u in units}
        return len(begun - {unit.block for unit in self.ended if unit.kind == "negatives"})

    def _end(self, actor: int, unit: Unit) -> None:
        self.done[unit] += 1
        if self.waves.done(actor, unit):
            self.ended.append(unit)


@pytest.mark.parametrize(("num_shards", "num_actors"), [(1, 1), (2, 2), (3, 2), (7, 2), (7, 3), (2, 4)])
@pytest.mark.parametrize("deaths", [0, 9])
def test_every_unit_is_done_once_and_no_one_waits_for_ever(num_shards: int, num_actors: int, deaths: int) -> None:
    for seed in range(5):
        played = Played(num_shards, 6, num_actors, seed=seed, deaths=deaths).run()
        assert len(played.done) == 2 * num_shards * 6
        assert set(played.done.values()) == {1}
        assert Counter((unit.kind, unit.block) for unit in played.ended) == Counter(
            (kind, block) for kind in ("positives", "negatives") for block in range(6)
        )


@pytest.mark.parametrize(("num_shards", "num_actors"), [(1, 1), (3, 3), (2, 5)])
def test_with_enough_actors_each_shard_is_read_once_and_few_blocks_are_open(num_shards: int, num_actors: int) -> None:
    for seed in range(5):
        played = Played(num_shards, 40, num_actors, seed=seed).run()
        assert sorted(played.reads) == list(range(num_shards))
        assert played.furthest <= 3


@pytest.mark.parametrize(("num_shards", "num_actors"), [(3, 2), (7, 2), (7, 3)])
def test_with_fewer_actors_each_shard_is_read_at_most_twice(num_shards: int, num_actors: int) -> None:
    for seed in range(5):
        assert max(Counter(Played(num_shards, 40, num_actors, seed=seed).run().reads).values()) <= 2


def test_nothing_to_do_is_finished() -> None:
    assert Waves(2, 0, window=3).finished

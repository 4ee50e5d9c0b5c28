"""Exact ranks in a gallery that lies on many machines: shards on actors, queries streamed to them, counts summed.

No lists of neighbours are merged: each actor counts what its shard puts ahead of each positive, and the sums are those
of one process, bit for bit. In memory are, of an actor: its shard (4 D + 16 bytes a row), a block of queries with its
thresholds and counts, a tile; of this process: 17 bytes a row, some blocks, and the values of each query. Only where
there are fewer actors than shards the thresholds of all queries wait in the object store, 4 bytes a positive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count as numbers
from typing import Any, Literal

from raydml.capacity import Worker, counting_actors
from raydml.config import ConfigError, Resources, Wanted
from raydml.data.building import Progress
from raydml.data.listing import GALLERY, QUERY
from raydml.machine_wait import MachineWait
from raydml.per_query import QueryMetrics
from raydml.session import connected, import_ray, reason_of
from raydml.shard_actor import ShardActor, rows_of_shard
from raydml.shard_counts import BLOCKS_AT_HAND, Counts, Queries
from raydml.shards import Columns, Gallery, cut, rows_of
from raydml.stored import Stored
from raydml.waves import Unit, Waves

# An actor has one unit to do and the next at hand.
_AT_HAND = 2
# Times that a unit may lose its actor: machines that go away take a few, a shard too large takes them all. And times
# that each of the actors may be lost before anything is counted: a machine takes all that it holds along at once.
_LIVES = 4
# Machines are looked at this often while nothing is counted.
_LOOK_S = 1.0
# What an actor takes beside its shard: Python with torch and Ray, a block of queries, a tile.
_ACTOR_BYTES = 12 * 10**8


_Errand = Literal["start", "read"]


class CountingFailedError(RuntimeError):
    """The actors could not count; the message says why."""


def count_sharded(
    stored: Stored,
    columns: Columns,
    wanted: Wanted,
    num_shards: int,
    resources: Resources,
    *,
    progress: Progress | None = None,
    verbose: bool = False,
) -> QueryMetrics:
    """Metrics of each query as `query_metrics` finds them in one process; `progress` is told of queries done, of all.

    An actor that dies is replaced, and what it was at is counted again; where actors wait for machines, that is said.
    Raises ConfigError where a shard fits no
    machine or cannot be read, ValueError where no query has a positive, CountingFailedError.
    """
    gallery = cut(columns, rows_of(columns, GALLERY), stored.ends, num_shards)
    with connected(verbose=verbose) as capacity:
        put = import_ray().put
        queries = Queries(stored, columns, rows_of(columns, QUERY), gallery.index, put)
        counts = Counts(queries, wanted, put)
        num_bytes = _ACTOR_BYTES + max(map(gallery.num_rows, range(gallery.num_shards))) * (4 * stored.dim + 16)
        number, worker = counting_actors(resources, capacity, num_bytes, gallery.num_shards)
        wait = MachineWait("the count", worker, capacity, num_bytes)
        crew = _Crew(stored, gallery, queries, counts, lambda: _new_actor(stored, worker, num_bytes), wait)
        from ray.exceptions import RayError

        try:
            crew.run(number, progress)
        except RayError as error:
            raise CountingFailedError(reason_of(error)) from None
        finally:
            crew.dismiss()
    return counts.metrics()


def _new_actor(stored: Stored, worker: Worker, num_bytes: int) -> Any:  # noqa: ANN401
    # One shard on each machine before a second on any.
    options = {"num_cpus": worker.cpus, "num_gpus": worker.gpus, "memory": num_bytes, "scheduling_strategy": "SPREAD"}
    device = "cuda" if worker.gpus > 0 else "cpu"
    return import_ray().remote(ShardActor).options(**options).remote(stored, max(1, int(worker.cpus)), device)


class _Crew:
    """The actors, and what each is asked. One that dies is replaced, and what it was at is given to others."""

    def __init__(
        self,
        stored: Stored,
        gallery: Gallery,
        queries: Queries,
        counts: Counts,
        new_actor: Callable[[], Any],
        wait: MachineWait,
    ) -> None:
        self._stored, self._wait = stored, wait
        self._stamps = stored.files.stamps(stored.paths) if stored.files.is_local else None
        # Actors on machines where the files are not: they are sent their rows.
        self._blind: set[int] = set()
        self._gallery, self._queries, self._counts, self._new_actor = gallery, queries, counts, new_actor
        self._waves = Waves(gallery.num_shards, len(queries.blocks), window=BLOCKS_AT_HAND)
        self._actors: dict[int, Any] = {}
        self._numbers = numbers()
        self._asked: dict[Any, tuple[int, Unit | _Errand]] = {}
        """By reference of the answer: who was asked for what."""
        self._losses: Counter[Unit | None] = Counter()
        """Of the actors that were at a unit; of None since anything was counted."""
        self._pairs = 0
        """Queries that are counted against a shard, over all shards."""

    def run(self, number: int, progress: Progress | None) -> None:
        """Until everything is counted, with so many actors."""
        ray = import_ray()
        from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

        for _ in range(number):
            self._hire()
        while not self._waves.finished:
            reference = self._next_answered()
            actor, what = self._asked.pop(reference)
            try:
                answer = ray.get(reference)
            except (RayActorError, ObjectLostError, OutOfMemoryError) as error:
                self._replace(actor, reason_of(error))
            except RayTaskError as error:
                raise _own(error) from None
            else:
                self._take(actor, what, answer, progress)
            # Also after a loss: who has nothing to do may take over what the lost one was at.
            self._give_all()

    def _next_answered(self) -> Any:  # noqa: ANN401
        while True:
            answered, _ = import_ray().wait(list(self._asked), num_returns=1, timeout=_LOOK_S)
            self._wait.look(sum(what == "start" for _, what in self._asked.values()), of=len(self._actors))
            if answered:
                return answered[0]

    def _take(self, actor: int, what: Unit | _Errand, answer: Any, progress: Progress | None) -> None:  # noqa: ANN401
        if what == "start":
            self._blind |= set() if answer else {actor}
            self._waves.joined(actor)
        elif what != "read":
            self._losses.pop(None, None)
            self._counts.add(what, answer, last=self._waves.done(actor, what))
            if what.kind == "negatives" and progress is not None:
                self._pairs += self._queries.size(what.block)
                progress(self._pairs // self._gallery.num_shards, len(self._queries.index))

    def dismiss(self) -> None:
        """Ends the actors."""
        for actor in self._actors.values():
            import_ray().kill(actor)

    def _hire(self) -> None:
        number, actor = next(self._numbers), self._new_actor()
        self._actors[number] = actor
        self._asked[actor.ready.remote(self._stamps)] = number, "start"

    def _replace(self, number: int, reason: str) -> None:
        import_ray().kill(self._actors.pop(number))  # it may only be out of reach
        self._asked = {answer: asked for answer, asked in self._asked.items() if asked[0] != number}
        self._losses.update([None, *self._waves.lost(number)])
        for unit, losses in self._losses.items():
            if losses >= _LIVES * (1 if unit else len(self._actors) + 1):
                rows = "" if unit is None else f" with shard {unit.shard + 1} of {self._gallery.num_shards}"
                raise CountingFailedError(f"an actor{rows} was lost {losses} times, the last time: {reason}")
        self._hire()

    def _give_all(self) -> None:
        for number in self._waves.idle(_AT_HAND):
            self._give(number)

    def _give(self, number: int) -> None:
        actor, waves = self._actors[number], self._waves
        while waves.num_under_way(number) < _AT_HAND:
            before = waves.held(number)
            unit = waves.next_of(number)
            if unit is None:
                return
            if unit.shard != before:
                shard = self._gallery.shard(unit.shard)
                rows = rows_of_shard(self._stored, shard) if number in self._blind else None
                self._asked[actor.hold.remote(shard, rows)] = number, "read"
            block = self._queries.given(unit.block)
            if unit.kind == "positives":
                reference = actor.positives.remote(block)
            else:
                reference = actor.negatives.remote(block, self._counts.thresholds(unit.block))
            self._asked[reference] = number, unit


def _own(error: Any) -> Exception:  # noqa: ANN401
    """What an actor raised, without Ray's wrapping."""
    return error.cause if isinstance(error.cause, ConfigError) else CountingFailedError(reason_of(error))

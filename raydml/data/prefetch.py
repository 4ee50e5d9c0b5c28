"""Work done ahead by threads, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

# Results that wait or are in the making, for each thread: one to take, one to work on.
_AHEAD = 2


def in_order(make: Callable[[T], U], tasks: Iterable[T], *, threads: int) -> Generator[U]:
    """`make` of every task, in their order, at most two tasks for each thread ahead; without threads, when asked for.

    Raises what `make` raises, where its result would have come. No thread outlives the generator.
    """
    if threads == 0:
        yield from map(make, tasks)
        return
    waiting = iter(tasks)
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        ahead: deque[Future[U]] = deque(pool.submit(make, task) for task in islice(waiting, _AHEAD * threads))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(pool.submit(make, task) for task in islice(waiting, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)

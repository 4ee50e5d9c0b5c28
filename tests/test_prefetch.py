"""Work done ahead by threads: in order, not too far ahead, and over when nobody wants it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from raydml.data.prefetch import in_order

THREADS = [0, 1, 3]
PATIENCE_S = 30.0


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 100])
def test_results_come_in_order(threads: int, count: int) -> None:
    assert list(in_order(lambda task: task * task, range(count), threads=threads)) == [n * n for n in range(count)]


def test_a_late_first_result_keeps_its_place() -> None:
    """The first task waits for the fifth: threads do work at the same time, and order is not that of finishing."""
    fifth = threading.Event()

    def make(task: int) -> int:
        if task == 4:
            fifth.set()
        if task == 0:
            assert fifth.wait(PATIENCE_S)
        return task

    assert list(in_order(make, range(8), threads=3)) == list(range(8))


@pytest.mark.parametrize("threads", [1, 3])
def test_work_is_done_ahead_but_not_too_far(threads: int) -> None:
    begun: list[int] = []
    reached = threading.Event()

    def make(task: int) -> int:
        begun.append(task)
        if len(begun) == 1 + 2 * threads:
            reached.set()
        return task

    results = in_order(make, range(100), threads=threads)
    assert next(results) == 0
    assert reached.wait(PATIENCE_S), "two tasks for each thread are made while the first result is used"
    results.close()
    # Threads are gone, so that nothing is begun any more.
    assert sorted(begun) == list(range(1 + 2 * threads))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_threads_are_not_the_consumers(threads: int) -> None:
    makers = set(in_order(lambda _: threading.get_ident(), range(20), threads=threads))
    assert threading.get_ident() not in makers
    assert len(makers) <= threads


def test_without_threads_each_is_made_when_it_is_needed() -> None:
    begun: list[int] = []
    results = in_order(lambda task: begun.append(task) or threading.get_ident(), range(5), threads=0)  # type: ignore[func-returns-value]
    assert begun == []
    assert next(results) == threading.get_ident()
    assert begun == [0]


@pytest.mark.parametrize("threads", THREADS)
def test_an_error_comes_where_its_result_would_have(threads: int) -> None:
    before = threading.active_count()

    def make(task: int) -> int:
        if task == 3:
            raise KeyError("the third")
        return task

    results = in_order(make, range(50), threads=threads)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="the third"):
        next(results)
    assert list(results) == []
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", THREADS)
def test_an_error_of_the_tasks_comes_too(threads: int) -> None:
    def tasks() -> Iterator[int]:
        yield 0
        raise KeyError("no task")

    before = threading.active_count()
    with pytest.raises(KeyError, match="no task"):
        list(in_order(lambda task: task, tasks(), threads=threads))
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("way", ["closed", "forgotten", "broken off"])
def test_no_thread_outlives_the_generator(threads: int, way: str) -> None:
    before = threading.active_count()
    results = in_order(lambda task: task, range(1000), threads=threads)
    next(results)
    assert threading.active_count() > before
    if way == "closed":
        results.close()
    elif way == "broken off":
        with pytest.raises(RuntimeError):
            results.throw(RuntimeError)
    del results
    gc.collect()
    assert threading.active_count() == before


def test_what_is_never_asked_for_starts_nothing() -> None:
    before = threading.active_count()
    in_order(lambda task: task, range(10), threads=2).close()
    assert threading.active_count() == before

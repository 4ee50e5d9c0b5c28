"""When a group of workers leaves to grow: a table of what is seen when. Real placement groups: test_elastic.py."""

from __future__ import annotations

import time

import pytest

from raydml.capacity import Worker
from raydml.seats import MayGrow, bundle_of, is_seat


@pytest.mark.parametrize(
    ("came", "leaves"),
    [
        # Seconds since it began, of each seat that comes; at which it leaves.
        ([], None),
        ([0.0], 35.0),
        ([30.0], 35.0),
        ([30.5], 40.0),
        ([100.0, 101.0], 110.0),
        # They come one after the other: together they are worth one restart.
        ([100.0, 103.0, 108.0], 115.0),
    ],
)
def test_a_group_leaves_when_what_comes_has_come(
    came: list[float], leaves: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    may_grow = MayGrow(lambda: sum(second <= now for second in came))
    left = None
    while left is None and now < 200:
        left = now if may_grow() else None
        now += 0.5
    assert left == leaves


def test_a_seat_that_is_gone_again_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    now, there = 50.0, [1, 0, 2, 1, 1]
    monkeypatch.setattr(time, "monotonic", lambda: now)
    may_grow = MayGrow(lambda: there.pop(0))
    found = []
    for _ in range(5):
        now += 100
        found.append(may_grow())
    assert found == [False, False, False, False, True]


def test_a_seat_is_as_large_as_a_worker_and_knows_its_kind() -> None:
    assert bundle_of(Worker(2.0, 0.0)) == {"CPU": 2.0}
    assert bundle_of(Worker(2.0, 1.0)) == {"CPU": 2.0, "GPU": 1.0}
    assert is_seat({"name": "raydml-seat-0123-4"})
    assert not is_seat({"name": ""})

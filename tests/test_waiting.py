"""How many trials may wait for machines, and when what is said of them: tables."""

from __future__ import annotations

import pytest

from raydml.capacity import Worker
from raydml.waiting import PATIENCE_S, Reminder, line, may_begin


@pytest.mark.parametrize(
    ("live", "waiting", "present", "possible", "limit", "vain_s", "may"),
    [
        # One machine: a second trial is chosen when the first has its place, none before a place is free.
        (0, 0, 2, 2, 10, 0, True),
        (1, 1, 2, 2, 10, 0, False),
        (1, 0, 2, 2, 10, 0, True),
        (2, 0, 2, 2, 10, 0, False),
        (1, 0, 2, 2, 1, 0, False),  # max_concurrent
        # A cluster that begins empty: all that it will hold wait at once.
        (0, 0, 0, 4, 10, 0, True),
        (3, 3, 0, 4, 10, 0, True),
        (4, 4, 0, 4, 10, 0, False),
        (2, 2, 0, 4, 2, 0, False),
        # Half of it has come.
        (3, 1, 2, 4, 10, 0, True),
        (4, 2, 2, 4, 10, 0, False),
        # Nothing came for long: one waits and asks, the others are chosen when there is room.
        (2, 0, 2, 16, 100, PATIENCE_S, True),
        (3, 1, 2, 16, 100, PATIENCE_S, False),
        (8, 6, 2, 16, 100, PATIENCE_S, False),
        (8, 6, 2, 16, 100, PATIENCE_S - 1, True),
        # Machines that vanished: what runs goes on, what waits goes on waiting, one more than fits never begins.
        (4, 2, 2, 2, 10, 0, False),
        (0, 0, 0, 0, 10, 0, True),
        (1, 1, 0, 0, 10, 0, False),
    ],
)
def test_trials_are_handed_out_as_machines_come(
    live: int, waiting: int, present: int, possible: int, limit: int, vain_s: float, may: bool
) -> None:
    found = may_begin(live=live, waiting=waiting, present=present, possible=possible, limit=limit, vain_s=vain_s)
    assert found is may


@pytest.mark.parametrize("possible", [0, 1, 3, 16])
@pytest.mark.parametrize("present", [0, 1, 2, 5])
@pytest.mark.parametrize("vain_s", [0.0, PATIENCE_S])
def test_never_more_than_the_machines_may_hold_and_always_one(present: int, possible: int, vain_s: float) -> None:
    live = waiting = 0
    while may_begin(live=live, waiting=waiting, present=present, possible=possible, limit=100, vain_s=vain_s):
        live += 1
        waiting = max(0, live - present)  # what there is room for begins at once
    patient = max(1, present, possible)
    assert live == (patient if vain_s == 0 else min(patient, present + 1))


@pytest.mark.parametrize(
    ("names", "workers", "troubles", "expected"),
    [
        (["0012"], "1", (), "0012 waits for 1 x (4 CPUs, 0.25 GPUs); machines: none"),
        (["a", "b"], "1 to 2", (), "a, b wait, each for 1 to 2 x (4 CPUs, 0.25 GPUs); machines: none"),
        (
            ["a", "b", "c", "d", "e"],
            "1",
            ("no quota",),
            "a, b, c and 2 more wait, each for 1 x (4 CPUs, 0.25 GPUs); machines: none; no quota",
        ),
    ],
)
def test_what_waits_is_one_line(names: list[str], workers: str, troubles: tuple[str, ...], expected: str) -> None:
    assert line(names, Worker(4, 0.25), workers, "machines: none", troubles) == expected


def test_a_wait_is_told_after_a_moment_then_rarely_and_again_where_something_new_is_wrong() -> None:
    reminder, told = Reminder(), []
    for second in range(1500):
        anyone = not 700 <= second < 702
        troubles = ("quota",) if 300 <= second < 400 else ()
        if reminder.due(float(second), anyone=anyone, troubles=troubles):
            told.append(second)
        # A wait that is over was told until then.
        assert reminder.told == (5 <= second < 700 or second >= 707)
    assert told == [5, 300, 707, 1307]


def test_a_short_wait_is_not_told() -> None:
    reminder = Reminder()
    for second in range(40):
        assert not reminder.due(float(second), anyone=second % 5 != 0)


def test_where_there_is_room_a_start_may_take_a_minute() -> None:
    reminder = Reminder()
    told = [second for second in range(70) if reminder.due(float(second), anyone=True, room=second < 65)]
    assert told == [60]
    reminder = Reminder()
    assert [second for second in range(70) if reminder.due(float(second), anyone=True, room=second < 20)] == [20]

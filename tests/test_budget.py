"""When time is up, what becomes of the trials then, and a clock that no kill turns back."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydml.budget import Clock, End, closing_lines, end_of, out_of_time
from raydml.config import ConfigError

# epoch, num_epochs, failed, out of time: end
ENDS = [
    (4, 4, False, False, End.COMPLETE),
    (4, 4, False, True, End.COMPLETE),  # its last epoch came in time
    (2, 4, False, False, End.PRUNED),
    (2, 4, False, True, End.PAUSED),
    (0, 4, False, True, End.PAUSED),
    (2, 4, True, False, End.FAILED),
    (2, 4, True, True, End.FAILED),  # it would fail again
    (4, 4, True, False, End.FAILED),
]


@pytest.mark.parametrize(("epoch", "num_epochs", "failed", "late", "end"), ENDS)
def test_why_a_trial_ends(epoch: int, num_epochs: int, failed: bool, late: bool, end: End) -> None:
    assert end_of(epoch=epoch, num_epochs=num_epochs, failed=failed, out_of_time=late) == end


@pytest.mark.parametrize(
    ("seconds", "max_hours", "late"),
    [(0.0, None, False), (1e9, None, False), (7199.9, 2.0, False), (7200.0, 2.0, True), (9000.0, 2.0, True)],
)
def test_when_time_is_up(seconds: float, max_hours: float | None, late: bool) -> None:
    assert out_of_time(seconds, max_hours) == late


# seconds, max_hours, ended trials of 12, paused ones: lines
CLOSINGS: list[tuple[float, float | None, int, int, tuple[str, ...]]] = [
    (9000.0, None, 5, 1, ()),
    (3600.0, 2.0, 12, 0, ()),
    (9000.0, 2.0, 12, 0, ()),  # the search was done when time was up
    (3600.0, 2.0, 5, 1, ()),  # interrupted before
    (
        7236.0,
        2.0,
        5,
        0,
        ("time is up: 2.01 of 2 hours, 5 of 12 trials ended", "  go on: the same command with search.max_hours=4.01"),
    ),
    (
        7236.0,
        2.0,
        12,
        1,
        (
            "time is up: 2.01 of 2 hours, 12 of 12 trials ended, 1 waits at the last epoch",
            "  go on: the same command with search.max_hours=4.01",
        ),
    ),
    (
        36.0,
        0.005,
        0,
        2,
        (
            "time is up: 0.01 of 0.005 hours, 0 of 12 trials ended, 2 wait at the last epoch",
            "  go on: the same command with search.max_hours=0.015",
        ),
    ),
]


@pytest.mark.parametrize(("seconds", "max_hours", "ended", "paused", "lines"), CLOSINGS)
def test_the_end_says_what_was_reached_and_how_to_go_on(
    seconds: float, max_hours: float | None, ended: int, paused: int, lines: tuple[str, ...]
) -> None:
    assert closing_lines(seconds=seconds, max_hours=max_hours, ended=ended, num_trials=12, paused=paused) == lines


class Hand:
    """The hand of a clock, moved by hand; where it stands at first means nothing."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_a_clock_runs_while_it_is_entered(tmp_path: Path) -> None:
    hand = Hand()
    clock = Clock(tmp_path / "clock.json", now=hand)
    hand.at += 50
    assert clock.seconds() == 0.0
    with clock:
        hand.at += 7
        assert clock.seconds() == 7.0
    hand.at += 50
    assert clock.seconds() == 7.0


def test_time_of_earlier_invocations_counts(tmp_path: Path) -> None:
    for expected in (7.0, 14.0, 21.0):
        hand = Hand()
        with Clock(tmp_path / "clock.json", now=hand) as clock:
            hand.at += 7
        assert clock.seconds() == expected


def test_time_counts_however_an_invocation_ends(tmp_path: Path) -> None:
    hand = Hand()

    def interrupted() -> None:
        with Clock(tmp_path / "clock.json", now=hand):
            hand.at += 7
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Clock(tmp_path / "clock.json").seconds() == 7.0


def test_a_kill_loses_what_came_after_the_last_epoch(tmp_path: Path) -> None:
    hand = Hand()
    clock = Clock(tmp_path / "clock.json", now=hand)
    clock.__enter__()
    hand.at += 7
    clock.save()
    hand.at += 2
    assert Clock(tmp_path / "clock.json").seconds() == 7.0


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"seconds": "many"}', '{"seconds": null}'])
def test_an_unreadable_clock_is_named(tmp_path: Path, content: str) -> None:
    """Zero would give a search its hours again."""
    (tmp_path / "clock.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"clock\.json: cannot be read"):
        Clock(tmp_path / "clock.json")

"""The bar of a decoding and its plain lines, and the table of counts."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from raydml.config import FolderConfig
from raydml.data.checking import Checked, Overview
from raydml.data.findings import Finding
from raydml.data_display import EXAMPLES, Images, amount, overview_lines, print_checked

OVERVIEW = Overview(
    num_images=52_712,
    num_classes=7_982,
    training=(25_882, 3_997),
    roles=(14_218, 12_612),
    per_class=(1, 6.5, 40),
    split="as published",
    cache_bytes=10_363_600_896,
    cached=False,
    free_bytes=72_000_000_000,
    encoded_bytes=300_000_000,
)
CONFIG = FolderConfig(kind="folder", root="/data/[old] clothes")


def console_of(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, markup=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_a_bar_that_is_gone_at_the_end() -> None:
    console = console_of(terminal=True)
    with Images(console, "decoded") as progress:
        progress(0, 2000)
        progress(500, 2000)
        assert progress._bar is not None
        progress._bar.refresh()
        shown = written(console)
        progress(2000, 2000)
        at_the_end = written(console)
        console.print("epoch 1")
    assert "decoded" in shown
    assert "500/2000" in shown
    # The bar is cleared before anything else is written, and does not come back.
    assert at_the_end.endswith("\x1b[2K")
    assert "/2000" not in written(console)[len(at_the_end) :]


def test_a_bar_that_is_never_told_anything_is_not_seen() -> None:
    for terminal in (True, False):
        console = console_of(terminal=terminal)
        with Images(console, "decoded"):
            pass
        assert written(console) == ""


def test_an_early_end_takes_the_bar_away() -> None:
    console = console_of(terminal=True)
    bar = Images(console, "decoded")
    with bar:
        bar(1, 2000)
    assert bar._bar is not None
    assert not bar._bar.finished
    assert not bar._bar.live.is_started


def test_a_log_has_a_line_now_and_then() -> None:
    console = console_of(terminal=False)
    with Images(console, "decoded", every_s=0.0) as progress:
        for done in (0, 500, 1500):
            progress(done, 2000)
    first, line = written(console).splitlines()
    assert first == "decoded 500 of 2,000 images"
    assert re.fullmatch(r"decoded 1,500 of 2,000 images, [\d,]+ images/s, [\d,]+ s left", line)
    quiet = console_of(terminal=False)
    with Images(quiet, "decoded", every_s=1000.0) as progress:
        progress(0, 2000)
        progress(2000, 2000)
    assert written(quiet) == ""


def test_the_speed_is_of_what_this_process_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted decoding begins with what is there already; what starts first takes its time."""
    clock = iter([100.0, 190.0, 200.0])
    monkeypatch.setattr("raydml.data_display.time.monotonic", lambda: next(clock))
    console = console_of(terminal=False)
    with Images(console, "decoded") as progress:
        for done in (1000, 1200, 1400):
            progress(done, 2000)
    assert written(console).splitlines() == [
        "decoded 1,200 of 2,000 images",
        "decoded 1,400 of 2,000 images, 20 images/s, 30 s left",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_other_images_are_counted_from_their_beginning(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    """Several models are evaluated one after the other."""
    clock = iter([100.0, 110.0, 200.0, 210.0, 220.0])
    if not terminal:
        monkeypatch.setattr("raydml.data_display.time.monotonic", lambda: next(clock))
    console = console_of(terminal=terminal)
    with Images(console, "embedded") as progress:
        for done in (0, 2000, 0, 50, 100):
            progress(done, 2000)
        if terminal:
            assert progress._bar is not None
            assert progress._bar.live.is_started
            assert progress._bar.tasks[0].completed == 100
    if not terminal:
        assert written(console).splitlines()[-1] == "embedded 100 of 2,000 images, 5 images/s, 380 s left"


def test_the_counts_of_a_data_set() -> None:
    assert overview_lines(CONFIG, OVERVIEW) == {
        "kind": "folder",
        "images": "52,712",
        "classes": "7,982",
        "training": "25,882 images of 3,997 classes",
        "test": "26,830 images of 3,985 classes (14,218 queries, 12,612 in the gallery)",
        "split": "as published",
        "images of a class": "1 to 40, median 6.5",
        "as they are": "300.0 MB",
        "decoded": "10.4 GB at 256 x 256 pixels, 72.0 GB free",
    }


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(40_000, "0.0 MB"), (157_100_000, "157.1 MB"), (10**9, "1.0 GB"), (3 * 10**12, "3,000.0 GB")],
)
def test_amounts(num_bytes: int, text: str) -> None:
    assert amount(num_bytes) == text


def test_findings_are_printed_with_ten_examples_as_they_are() -> None:
    examples = tuple(f"[bold]{number}.jpg" for number in range(13))
    worst = Finding("error", "unreadable", "13 images are unreadable", "copy them again", 13, examples)
    note = Finding("info", "other-files", "1 file is no image by name: left out", "", 1, ("[a].txt",))
    console = console_of(terminal=False)
    print_checked(Checked(CONFIG, OVERVIEW, (worst, note)), console)
    lines = written(console).splitlines()
    begin = lines.index("error: 13 images are unreadable")
    assert lines[begin + 1 :] == [
        *(f"    {example}" for example in examples[:EXAMPLES]),
        "    ... and 3 more (out=FILE.json lists all)",
        "  mend: copy them again",
        "info: 1 file is no image by name: left out",
        "    [a].txt",
        "1 error, 0 warnings, 1 note",
    ]
    assert "/data/[old] clothes" in lines[0]
    bare = console_of(terminal=False)
    print_checked(Checked(CONFIG, None, ()), bare)
    assert written(bare) == "0 errors, 0 warnings, 0 notes\n"

"""What a person sees of a check and of a preparation: a bar while it runs, tables and plain sentences after it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from raydml.config import Photos
from raydml.data.checking import Checked, Overview
from raydml.data.findings import LEVELS, Finding

EXAMPLES = 10
_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}
# Where nobody looks on, seconds between two lines.
_EVERY_S = 10.0


class Images:
    """A bar of images done, images a second and the time that remains; a few plain lines where no terminal is."""

    def __init__(self, console: Console, verb: str, *, every_s: float = _EVERY_S) -> None:
        """`verb`: what is done to the images; `every_s`: seconds between two plain lines."""
        self._console, self._verb, self._every_s = console, verb, every_s
        self._began = self._told = math.nan
        self._before = self._done = 0
        self._waiting = True
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._bar.add_task(verb, total=None, visible=False) if self._bar else None

    def __enter__(self) -> Images:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` images are done; fewer than before are others, and are counted from here."""
        now = time.monotonic()
        if math.isnan(self._began) or done < self._done:
            # What an earlier process did says nothing of the speed of this one.
            self._began = self._told = now
            self._before = self._done = done
            self._waiting = True
            if self._bar is not None and self._task is not None:
                self._bar.reset(self._task)
                self._bar.start()
        if self._waiting and done > self._done:
            # Nor does what it takes until the first are there.
            self._began, self._before, self._waiting = now, done, False
        self._done = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, visible=True)
            if done >= total:
                # What follows is another matter: a training runs on below.
                self._bar.stop()
        elif done and now - self._told >= self._every_s:
            self._told = now
            line = f"{self._verb} {done:,} of {total:,} images{self._speed(now, total)}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _speed(self, now: float, total: int) -> str:
        if self._done == self._before:
            return ""
        speed = (self._done - self._before) / max(1e-9, now - self._began)
        return f", {speed:,.0f} images/s, {(total - self._done) / speed:,.0f} s left"


class _Speed(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} images/s")


def print_checked(checked: Checked, console: Console) -> None:
    """The counts, then every finding with its remedy and at most ten examples."""
    config, overview = checked.config, checked.overview
    assert isinstance(config, Photos)
    if overview is not None:
        console.print(_overview_table(config, overview))
    for finding in checked.findings:
        _print_finding(finding, console)
    counts = {level: len(checked.of_level(level)) for level in LEVELS}
    words = {"error": "error", "warning": "warning", "info": "note"}
    told = [f"{count} {words[level]}{'' if count == 1 else 's'}" for level, count in counts.items()]
    console.print(Text(", ".join(told)))


def _overview_table(config: Photos, overview: Overview) -> Table:
    table = Table(title=Text(config.root), show_header=False, min_width=60)
    table.add_column("what")
    table.add_column("value", overflow="fold")
    for name, value in overview_lines(config, overview).items():
        table.add_row(Text(name), Text(value))
    return table


def overview_lines(config: Photos, overview: Overview) -> Mapping[str, str]:
    """Name and value of every line of the table of counts."""
    images, classes = overview.training
    fewest, median, most = overview.per_class
    test = f"{overview.num_images - images:,} images of {overview.num_classes - classes:,} classes"
    if overview.roles is not None:
        test += f" ({overview.roles[0]:,} queries, {overview.roles[1]:,} in the gallery)"
    lines = {
        "kind": str(getattr(config, "kind", "")),
        "images": f"{overview.num_images:,}",
        "classes": f"{overview.num_classes:,}",
        "training": f"{images:,} images of {classes:,} classes",
        "test": test,
        "split": overview.split,
        "images of a class": f"{fewest:,} to {most:,}, median {median:,g}",
    }
    if overview.encoded_bytes is not None:
        lines["as they are"] = amount(overview.encoded_bytes)
    if overview.cache_bytes:
        size = f"{config.image_size} x {config.image_size} pixels"
        where = "in the cache" if overview.cached else f"{amount(overview.free_bytes)} free"
        lines["decoded"] = f"{amount(overview.cache_bytes)} at {size}, {where}"
    return lines


def amount(num_bytes: int) -> str:
    """`0.4 MB`, `157.1 MB`, `33.2 GB`."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _print_finding(finding: Finding, console: Console) -> None:
    head = Text(f"{finding.level}: ", style=_COLOURS[finding.level])
    console.print(head.append(finding.text, style="default"), soft_wrap=True)
    for example in finding.examples[:EXAMPLES]:
        console.print(Text(f"    {example}"), soft_wrap=True)
    if len(finding.examples) > EXAMPLES:
        console.print(Text(f"    ... and {len(finding.examples) - EXAMPLES:,} more (out=FILE.json lists all)"))
    if finding.mend:
        console.print(Text(f"  mend: {finding.mend}"), soft_wrap=True)

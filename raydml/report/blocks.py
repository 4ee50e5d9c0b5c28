"""The parts of a page, free of any format: headings, paragraphs, tables, pictures; and how numbers are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

NOTHING = "-"


@dataclass(frozen=True)
class Heading:
    """The title of the page (level 1), of a part (2) or of a section (3)."""

    text: str
    level: Literal[1, 2, 3]


@dataclass(frozen=True)
class Paragraph:
    """Plain words."""

    text: str
    warning: bool = False
    """To be read before any number is quoted."""


@dataclass(frozen=True)
class Table:
    """Cells as they are shown."""

    caption: str
    header: tuple[str, ...]
    """Empty words where the columns need no names."""
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...]
    """Columns that hold words, not numbers."""


@dataclass(frozen=True)
class Picture:
    """An SVG element that raydml drew; other formats than a page leave it out."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Photograph:
    """An image of pixels; other formats than a page leave it out."""

    webp: str
    """WebP in base64."""
    caption: str


Block = Heading | Paragraph | Table | Picture | Photograph


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> Table:
    """A table of rows that have as many cells as the header."""
    assert all(len(row) == len(header) for row in rows)
    return Table(caption, tuple(header), tuple(tuple(row) for row in rows), tuple(words))


def metric(value: float | None) -> str:
    """A number between 0 and 1 with four digits."""
    return NOTHING if value is None else f"{value:.4f}"


def plus_minus(mean: float, half_width: float | None) -> str:
    """`0.4123 +- 0.0210`; the mean alone where it has no interval."""
    return f"{mean:.4f}" if half_width is None else f"{mean:.4f} +- {half_width:.4f}"


def interval(low: float | None, high: float | None) -> str:
    """`0.3912 to 0.4334`."""
    return NOTHING if low is None or high is None else f"{low:.4f} to {high:.4f}"


def probability(value: float | None) -> str:
    """A p-value with four digits."""
    if value is None:
        return NOTHING
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def shown(value: JsonValue) -> str:
    """A setting: a number with four significant digits, a list in brackets, anything else as it is."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "none"
        case list():
            return f"[{', '.join(shown(item) for item in value)}]"
        case dict():
            return ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) or "none"
        case float():
            return f"{value:.4g}"
        case _:
            return str(value)


def duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s`, `12.3 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"

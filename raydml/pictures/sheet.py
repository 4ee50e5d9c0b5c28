"""Sheets of queries and what was found for each, drawn pixel by pixel: small images stay sharp, and so does the text.

Right and wrong differ in colour and in a symbol. Colours are those of Okabe and Ito, darkened until text in them is
readable on white.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raydml.data.decoding import Pixels

# Side of an image on a sheet, in pixels; its frame with the white line within it, which keeps an orange flower apart
# from an orange frame; and what lies between two.
TILE, _FRAME, EDGE, _GAP = 96, 4, 6, 8
_CELL = TILE + 2 * EDGE
_LINE = 15
_MARGIN, _HEADING = 14, 44
# The query stands apart, and its name may be longer.
_QUERY_WIDTH = 150
# Cells of one row: what is more continues below.
_PER_ROW = 10

_PAGE, _INK, _FAINT, _EMPTY = "#ffffff", "#1c2024", "#667079", "#eef0f2"
_NEUTRAL = "#4a5560"
RIGHT, WRONG = "#007a58", "#c04a00"
_CHECK, _CROSS, _ELLIPSIS = "\N{HEAVY CHECK MARK}", "\N{HEAVY BALLOT X}", "\N{HORIZONTAL ELLIPSIS}"


class Cell(NamedTuple):
    """An image and what stands below it."""

    pixels: Pixels | None
    """(H, W, C), C one or three; None where the image cannot be read."""
    lines: tuple[str, ...]
    """At most two, each cut to the width."""
    right: bool | None = None
    """Whether it was to be found; None where nobody knows."""


class Line(NamedTuple):
    """A query and what was found for it, the nearest first."""

    query: Cell
    hits: tuple[Cell, ...]


def draw(heading: str, note: str, lines: Sequence[Line]) -> Image.Image:
    """One query below the other, its hits beside it, ten in a row; `note` explains in small letters."""
    columns = min(_PER_ROW, max((len(line.hits) for line in lines), default=0))
    # Wide enough for the note also where hits are few.
    width = max(_hit_left(columns) + _MARGIN - _GAP, 2 * _MARGIN + int(_font(12).getlength(_plain(note))))
    height = _HEADING + sum(map(_height, lines)) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAGE)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 6), _cut(heading, _font(15, "-Bold"), width - 2 * _MARGIN), _INK, _font(15, "-Bold"))
    pen.text((_MARGIN, 26), _plain(note), _FAINT, _font(12))
    top = _HEADING
    for line in lines:
        _draw_cell(sheet, line.query, _MARGIN, top, _QUERY_WIDTH, "-Bold")
        for place, hit in enumerate(line.hits):
            row, column = divmod(place, _PER_ROW)
            _draw_cell(sheet, hit, _hit_left(column), top + row * _row_height(), _CELL, "")
        top += _height(line)
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other."""
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), _PAGE)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def legend(of_what: str, *, judged: bool) -> str:
    """What stands below the hits; `judged` is whether any is right or wrong."""
    symbols = f", {_CHECK} of its class, {_CROSS} of the class that is named" if judged else ""
    return f"left the query, beside it {of_what}: cosine{symbols}"


def _hit_left(column: int) -> int:
    return _MARGIN + _QUERY_WIDTH + _GAP + column * (_CELL + _GAP)


def _row_height() -> int:
    return _CELL + 2 * _LINE + _GAP


def _height(line: Line) -> int:
    return max(1, -(-len(line.hits) // _PER_ROW)) * _row_height()


def _draw_cell(sheet: Image.Image, cell: Cell, left: int, top: int, width: int, face: Literal["", "-Bold"]) -> None:
    pen = ImageDraw.Draw(sheet)
    colour = {True: RIGHT, False: WRONG, None: _NEUTRAL}[cell.right]
    pen.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), _PAGE, colour, _FRAME)
    if cell.pixels is None:
        pen.rectangle((left + EDGE, top + EDGE, left + EDGE + TILE - 1, top + EDGE + TILE - 1), _EMPTY)
        pen.text((left + _CELL / 2, top + _CELL / 2), "no image", _FAINT, _font(12), anchor="mm")
    else:
        tile = _tile(cell.pixels)
        sheet.paste(tile, (left + (_CELL - tile.width) // 2, top + (_CELL - tile.height) // 2))
    symbol = {True: f"{_CHECK} ", False: f"{_CROSS} ", None: ""}[cell.right]
    for place, text in enumerate(cell.lines):
        font, first = _font(12, face if place == 0 else ""), place == 0
        words = _cut(f"{symbol}{text}" if first else text, font, width)
        ink = (_INK if cell.right is None else colour) if first else _FAINT
        pen.text((left, top + _CELL + 1 + place * _LINE), words, ink, font)


def _tile(pixels: Pixels) -> Image.Image:
    """At most TILE on a side. Small images grow by whole numbers, so that every pixel stays a square."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)).convert("RGB")
    side = max(image.size)
    if 2 * side <= TILE:
        times = TILE // side
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    size = tuple(max(1, round(length * TILE / side)) for length in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


@cache
def _font(size: int, face: Literal["", "-Bold"] = "") -> ImageFont.FreeTypeFont:
    # matplotlib brings it: Pillow's own has neither the symbols nor most alphabets.
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{face}.ttf"
    return ImageFont.truetype(str(path), size)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of it as fits, with an ellipsis for the rest."""
    words = _plain(text)
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + _ELLIPSIS) > width:
        words = words[:-1]
    return words.rstrip() + _ELLIPSIS


def _plain(text: str) -> str:
    """On one line: what a user calls something may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in text)

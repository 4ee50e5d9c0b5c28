"""What a sheet shows, pixel by pixel: frames, images, words that fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from raydml.pictures.sheet import EDGE, RIGHT, TILE, WRONG, Cell, Line, draw, legend, stacked

RED, BLUE = (200, 30, 40), (20, 60, 220)
LEFT, TOP, STEP = 172, 44, TILE + 2 * EDGE + 8
"""Where the first hit begins, and how far on the next one does."""


def plain(colour: tuple[int, int, int], side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), colour, dtype=np.uint8)


def line(*rights: bool | None, side: int = 8) -> Line:
    hits = tuple(Cell(plain(BLUE, side), ("0.900",), right) for right in rights)
    return Line(Cell(plain(RED, side), ("heron", "average precision 0.50")), hits)


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def frame_of(sheet: Image.Image, place: int, row: int = 0) -> object:
    return sheet.getpixel((LEFT + place * STEP + 1, TOP + row * (STEP + 30) + 50))


def inside(sheet: Image.Image, left: int, top: int) -> np.ndarray:
    return np.asarray(sheet)[top + EDGE : top + EDGE + TILE, left + EDGE : left + EDGE + TILE]


def test_right_wrong_and_unknown_have_frames_of_their_own() -> None:
    sheet = draw("Best", "note", [line(True, False, None)])
    assert frame_of(sheet, 0) == rgb(RIGHT)
    assert frame_of(sheet, 1) == rgb(WRONG)
    assert frame_of(sheet, 2) not in (rgb(RIGHT), rgb(WRONG), (255, 255, 255))


def test_right_and_wrong_differ_without_colour() -> None:
    right, wrong = (np.asarray(draw("", "", [line(flag)]).convert("L")) for flag in (True, False))
    words = slice(TOP + TILE + 2 * EDGE, None), slice(LEFT, None)
    assert ((right[words] < 200) != (wrong[words] < 200)).sum() > 20, "a check mark and a cross"


@pytest.mark.parametrize("side", [8, 32, 40, 96, 256])
def test_images_of_any_size_fill_their_place(side: int) -> None:
    sheet = draw("Best", "note", [line(True, side=side)])
    assert (inside(sheet, 14, TOP)[10:-10, 10:-10] == RED).all()
    assert (inside(sheet, LEFT, TOP)[10:-10, 10:-10] == BLUE).all()


def test_pixels_of_small_images_stay_squares() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 1), dtype=np.uint8)
    sheet = draw("", "", [Line(Cell(pixels, ()), ())])
    expected = np.kron(pixels[..., 0], np.ones((3, 3), dtype=np.uint8))
    assert np.array_equal(inside(sheet, 14, TOP), np.stack([expected] * 3, axis=-1))


def test_images_keep_their_shape() -> None:
    wide = np.zeros((50, 100, 3), dtype=np.uint8)
    shown = inside(draw("", "", [Line(Cell(wide, ()), ())]), 14, TOP)
    black = (shown == 0).all(-1)
    assert (black.any(0).sum(), black.any(1).sum()) == (TILE, TILE // 2)


def test_what_cannot_be_read_leaves_an_empty_place() -> None:
    sheet = draw("", "", [Line(Cell(None, ("gone.jpg",)), (Cell(None, ("0.1",), True),))])
    colours = {tuple(colour) for colour in inside(sheet, LEFT, TOP).reshape(-1, 3).tolist()}
    assert (0xEE, 0xF0, 0xF2) in colours
    assert len(colours) > 1, "words say so"
    assert frame_of(sheet, 0) == rgb(RIGHT)


def test_the_eleventh_hit_is_below_the_first() -> None:
    ten, more = (draw("", "", [line(*[True] * count), line(False)]) for count in (10, 11))
    assert more.size == (ten.width, ten.height + STEP + 30)
    assert frame_of(more, 0, row=1) == rgb(RIGHT)
    assert frame_of(more, 0, row=2) == rgb(WRONG), "the next query is below both rows"


def test_long_names_are_cut_and_odd_ones_change_nothing_else() -> None:
    def below(name: str) -> np.ndarray:
        cell = Cell(plain(BLUE), ("0.5", name), False)
        return np.asarray(draw("", "", [Line(cell, (cell, cell))]))

    assert np.array_equal(below("w" * 50), below("w" * 500))
    assert not np.array_equal(below("w" * 50), below("w" * 3))
    assert np.array_equal(below("a\nb"), below("a?b")), "one line"
    gap = below("w" * 50)[TOP + 50 :, LEFT + TILE + 2 * EDGE + 1 : LEFT + STEP - 1]
    assert (gap == 255).all(), "nothing runs into its neighbour"


def test_the_explanation_fits_a_sheet_with_one_hit() -> None:
    long = np.asarray(draw("Worst", legend("the nearest of its gallery", judged=True), [line(True)]))
    assert (long[:, -14:] == 255).all()
    assert not np.array_equal(
        long, np.asarray(draw("Best", legend("the nearest of its gallery", judged=True), [line(True)]))
    )


def test_sheets_are_stacked_and_drawn_alike_every_time() -> None:
    first, second = draw("a", "b", [line(True)]), draw("c", "d", [line(*[False] * 9)])
    whole = stacked([first, second])
    assert whole.size == (max(first.width, second.width), first.height + second.height)
    assert np.array_equal(np.asarray(whole)[first.height :, : second.width], np.asarray(second))
    assert np.array_equal(np.asarray(first), np.asarray(draw("a", "b", [line(True)])))

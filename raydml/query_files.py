"""The files of a query: neighbors.parquet, a row for each match, and pages of pictures."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raydml import atomic
from raydml.data.listing import Encoded
from raydml.neighbor_pictures import png
from raydml.pictures.encoded import read_pixels
from raydml.pictures.sheet import Cell, Line, draw, legend
from raydml.query_answers import Answer, Match
from raydml.query_galleries import Gallery

TABLE = "neighbors.parquet"
# A page that a person can look through, and as many as anyone will.
_PER_PAGE, _MOST_PAGES = 20, 5


def write_answers(directory: Path, answers: tuple[Answer, ...], encoded: Encoded, gallery: Gallery) -> int:
    """Writes the table, and pages of the first queries: neighbors.png, neighbors-2.png ...; earlier ones go.

    `encoded` reads the queries. Returns how many are drawn.
    """
    with atomic.replaced_file(directory / TABLE) as beside:
        pq.write_table(_table(answers), beside)
    for old in (*directory.glob("neighbors.png"), *directory.glob("neighbors-*.png")):
        old.unlink()
    drawn = answers[: _PER_PAGE * _MOST_PAGES]
    note = legend("the nearest of the gallery", judged=any(answer.class_name is not None for answer in drawn))
    pages = [drawn[start : start + _PER_PAGE] for start in range(0, len(drawn), _PER_PAGE)]
    for page, shown in enumerate(pages, start=1):
        lines = [_line(answer, encoded, gallery) for answer in shown]
        sheet = draw(f"Queries, page {page} of {len(pages)}", note, lines)
        with atomic.replaced_file(directory / ("neighbors.png" if page == 1 else f"neighbors-{page}.png")) as beside:
            beside.write_bytes(png(sheet))
    return len(drawn)


def _table(answers: tuple[Answer, ...]) -> pa.Table:
    found = [(answer.path, rank, match) for answer in answers for rank, match in enumerate(answer.matches, start=1)]
    columns = {
        "query": pa.array([path for path, _, _ in found], pa.string()),
        "rank": pa.array([rank for _, rank, _ in found], pa.int32()),
        "gallery": pa.array([match.path for _, _, match in found], pa.string()),
        "index": pa.array([match.place for _, _, match in found], pa.int64()),
        "similarity": pa.array([match.similarity for _, _, match in found], pa.float32()),
        "class": pa.array([match.class_name for _, _, match in found], pa.string()),
    }
    return pa.table(columns)


def _line(answer: Answer, encoded: Encoded, gallery: Gallery) -> Line:
    words = (_name(answer.path), *((answer.class_name,) if answer.class_name else ()))
    query = Cell(read_pixels(encoded, answer.path), words)
    return Line(query, tuple(_cell(match, answer, gallery) for match in answer.matches))


def _cell(match: Match, answer: Answer, gallery: Gallery) -> Cell:
    right = None if answer.class_name is None else match.class_name == answer.class_name
    words = match.class_name or _name(match.path)
    return Cell(gallery.pixels(match.place), (f"{match.similarity:.3f}", words), right)


def _name(path: str) -> str:
    return path.rpartition("/")[2]

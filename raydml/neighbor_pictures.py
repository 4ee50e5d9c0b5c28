"""The pictures of an evaluation: neighbors.png, and neighbors.json with the same in numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from raydml import atomic
from raydml.config import EvaluateOptions
from raydml.data.decoding import Pixels
from raydml.embedding_files import Rows
from raydml.per_query import QueryMetrics
from raydml.pictures.choice import Kind
from raydml.pictures.encoded import encoded_of, read_pixels
from raydml.pictures.found import Hit, Query, Shown, shown_queries
from raydml.pictures.sheet import Cell, Line, draw, legend, stacked
from raydml.retrieval import RetrievalProtocol
from raydml.splits import Indices
from raydml.stored import Stored, stream
from raydml.subjects import Subject

PNG, JSON = "neighbors.png", "neighbors.json"
# Words read at a time.
_WORDS = 2**16

_HEADINGS: Mapping[Kind, str] = {
    "best": "Best queries: the highest average precision (MAP@R)",
    "typical": "Typical queries: average precision around the median",
    "worst": "Worst queries: the lowest average precision",
}


@dataclass(frozen=True)
class Depicted:
    """The images of a split as pictures show them; all by position in the split."""

    pixels: Callable[[int], Pixels | None]
    """(H, W, C) uint8; None where an image cannot be read."""
    class_of: Callable[[int], str]
    """The name of its class."""
    source_of: Callable[[int], str]
    """Where it comes from."""
    index_of: Callable[[int], int]
    """What embeddings.parquet calls it."""


def images_of(subject: Subject) -> Depicted:
    """Those that a model was evaluated on."""
    images, subset = subject.images, subject.subset
    return Depicted(
        lambda position: images.images[int(subset.index[position])],
        lambda position: images.classes[subset.classes[subset.labels[position]]],
        lambda position: images.sources[subset.index[position]],
        lambda position: int(subset.index[position]),
    )


def images_of_stored(stored: Stored, labels: Indices) -> Depicted | None:
    """Those that embeddings with labels (N,) name in a column `path`; None where they name none."""
    paths = _words(stored, "path")
    if paths is None:
        return None
    encoded, classes = encoded_of(stored.files), _words(stored, "class")
    return Depicted(
        lambda position: read_pixels(encoded, paths[position]),
        lambda position: str(labels[position]) if classes is None else classes[position],
        lambda position: paths[position],
        lambda position: position,
    )


def write_pictures(
    directory: Path,
    images: Depicted | None,
    protocol: RetrievalProtocol,
    rows: Rows | None,
    labels: Indices,
    queries: QueryMetrics,
    options: EvaluateOptions,
) -> dict[str, bytes]:
    """Writes both files and returns the picture of each kind as PNG, by the name of the kind.

    Nothing where none are wanted, or no image can be read.

    `rows` (N, D) are unit embeddings with `labels` (N,), `queries` their metrics by the protocol. Only images that are
    shown are read. Pictures of an earlier evaluation, which show what is no longer so, are gone in any case.
    """
    for name in (PNG, JSON):
        (directory / name).unlink(missing_ok=True)
    if not options.pictures or images is None or rows is None:
        return {}
    shown = shown_queries(protocol, rows, labels, queries, count=options.pictures, k=options.neighbors)
    return write_shown(directory, shown, images)


def write_shown(directory: Path, shown: Shown, images: Depicted) -> dict[str, bytes]:
    """As `write_pictures`, of queries that were chosen."""
    kinds = {kind: queries for kind, queries in shown.items() if queries}
    lines = {kind: [_line(query, images) for query in queries] for kind, queries in kinds.items()}
    if all(cell.pixels is None for of_kind in lines.values() for line in of_kind for cell in (line.query, *line.hits)):
        return {}
    note = legend("the nearest of its gallery", judged=True)
    sheets = {kind: draw(_HEADINGS[kind], note, of_kind) for kind, of_kind in lines.items()}
    atomic.write_json(directory / JSON, _numbers(shown, images))
    with atomic.replaced_file(directory / PNG) as beside:
        beside.write_bytes(png(stacked(list(sheets.values()))))
    return {kind: png(sheet) for kind, sheet in sheets.items()}


def png(image: Image.Image) -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _line(query: Query, images: Depicted) -> Line:
    words = (images.class_of(query.position), f"average precision {query.average_precision:.2f}")
    return Line(Cell(images.pixels(query.position), words), tuple(_cell(hit, images) for hit in query.hits))


def _cell(hit: Hit, images: Depicted) -> Cell:
    of_class = () if hit.right else (images.class_of(hit.position),)
    return Cell(images.pixels(hit.position), (f"{hit.similarity:.3f}", *of_class), hit.right)


def _numbers(shown: Shown, images: Depicted) -> dict[str, object]:
    def named(position: int) -> dict[str, object]:
        where = {"index": images.index_of(position), "image": images.source_of(position)}
        return {**where, "class": images.class_of(position)}

    return {
        kind: [
            {
                **named(query.position),
                "map@r": query.average_precision,
                "hits": [{**named(h.position), "similarity": h.similarity, "right": h.right} for h in query.hits],
            }
            for query in queries
        ]
        for kind, queries in shown.items()
    }


def _words(stored: Stored, column: str) -> list[str] | None:
    """(N,) a column of words; None where it has none, or not for every row."""
    if column not in stored.names:
        return None
    parts = stream(stored, [column], 0, stored.num_rows, batch_size=_WORDS)
    words = [word for part in parts for word in part.columns[0].to_pylist()]
    return words if all(isinstance(word, str) for word in words) else None

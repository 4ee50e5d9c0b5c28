"""`python -m raydml.evaluate RUN --query IMAGES [--among GALLERY]`, from words to an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raydml.config import ConfigError, EvaluateOptions
from raydml.data_display import Images
from raydml.embedding import EmbeddingFailedError
from raydml.query import Answers, find_nearest
from raydml.query_answers import Match

_DONE, _FAILED = 0, 1
_SHOWN_QUERIES, _SHOWN_MATCHES = 10, 3


def query(
    runs: Sequence[str], images: str, among: str | None, options: EvaluateOptions, console: Console, *, verbose: bool
) -> int:
    """Finds the nearest images and draws them. Raises ConfigError for bad input."""
    if len(runs) > 1:
        raise ConfigError(f"--query takes one run, but got {', '.join(runs)}")
    try:
        with Images(console, "embedded") as progress:
            found = find_nearest(runs[0], images, among, options, verbose=verbose, progress=progress)
    except EmbeddingFailedError as error:
        print(f"error: the images could not be embedded: {error}", file=sys.stderr)
        return _FAILED
    console.print(_table(found))
    left = len(found.answers) - _SHOWN_QUERIES
    if left > 0:
        console.print(f"and {left:,} more queries", highlight=False)
    if found.num_drawn < len(found.answers):
        console.print(f"drawn: the first {found.num_drawn:,} queries", highlight=False)
    console.print(f"written: {found.directory}", highlight=False, soft_wrap=True)
    return _DONE


def _table(found: Answers) -> Table:
    depth = min(_SHOWN_MATCHES, max(len(answer.matches) for answer in found.answers))
    table = Table(title=Text(f"nearest among {found.gallery}"), title_justify="left")
    for heading in ("query", *(f"{place}." for place in range(1, depth + 1))):
        table.add_column(heading, overflow="fold")
    for answer in found.answers[:_SHOWN_QUERIES]:
        table.add_row(Text(answer.path), *(Text(_words(match)) for match in answer.matches[:depth]))
    return table


def _words(match: Match) -> str:
    return f"{match.similarity:.3f} {match.path}{f' ({match.class_name})' if match.class_name else ''}"

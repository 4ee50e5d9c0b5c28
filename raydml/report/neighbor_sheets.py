"""The nearest neighbours that evaluations have drawn, in a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from raydml.config import ConfigError
from raydml.report.blocks import Block, Heading, Photograph

_NAME = "neighbors.png"
# A page is to open at once and to be sent by mail. In base64 it is a third more.
_MOST_BYTES = 700_000
_QUALITY = 80


def sheets_of(directory: Path, runs: Sequence[str] = (".",)) -> tuple[str, ...]:
    """Pictures of the evaluations of runs below a folder, as paths within it; those of folds where a run has no
    others.
    """
    found = []
    for run in runs:
        whole = sorted((directory / run).glob(f"evaluation/*/{_NAME}"))
        found += whole or sorted((directory / run).glob(f"fold*/evaluation/*/{_NAME}"))
    return tuple(path.relative_to(directory).as_posix() for path in found)


def neighbor_blocks(directory: str, sheets: Sequence[str]) -> Iterator[Block]:
    """The pictures that are still there. Raises ConfigError for one that cannot be read."""
    there = [sheet for sheet in sheets if (Path(directory) / sheet).exists()]
    if not there:
        return
    yield Heading("Nearest neighbours", 3)
    for sheet in there:
        yield Photograph(_as_webp(Path(directory) / sheet), f"{_whose(sheet)}: queries and what is nearest to them")


def _whose(sheet: str) -> str:
    """`final/winner-seed0, test classes`."""
    run, _, rest = f"/{sheet}".rpartition("/evaluation/")
    return ", ".join(filter(None, (run.strip("/"), f"{rest.partition('/')[0]} classes")))


def _as_webp(path: Path) -> str:
    """In base64; halved until it is small enough."""
    try:
        with Image.open(path, formats=("PNG",)) as found:
            image = found.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: no readable picture: {error}; evaluate again") from None
    while len(content := _encoded(image)) > _MOST_BYTES:
        image = image.reduce(2)
    return base64.b64encode(content).decode()


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY)
    return buffer.getvalue()

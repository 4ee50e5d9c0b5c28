"""A folder of Parquet files that grows block by block, so that a killed process goes on with the blocks it lacks.

`part-000000.parquet ...` are the blocks, in the order of the images. `embeddings.json` says what they are embeddings
of, and whether all are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydml.config import ConfigError
from raydml.data.output import Output
from raydml.splits import Indices

ABOUT = "embeddings.json"
PART = "part-{:06d}.parquet"
_DIGESTS = {"checkpoint": "by another model", "version": "of images, or with labels, that have changed since"}
_PROBLEMS = b"raydml.unreadable"

# What a kill may cost, and what a file of a huge set holds.
_MOST_BLOCKS, _LARGEST_BLOCK = 1000, 16384
# Footers that are asked for at the same time.
_REQUESTS = 16


class Unreadable(NamedTuple):
    """An image that could not be embedded."""

    position: int
    problem: str
    """Where it is, and what it is instead."""


class BlockFolder:
    """The blocks of one set of images."""

    def __init__(self, output: Output, about: Mapping[str, object], *, batch_size: int, anew: bool = False) -> None:
        """Goes on with what lies there; begins where nothing does.

        `about` is JSON: what the embeddings follow from, `num_images` among it. Blocks of one that goes on have the
        size they had. Raises ConfigError where blocks of something else lie there; with `anew` they are removed.
        A description without a block is nothing to lose.
        """
        self._output, self._about = output, dict(about)
        count = about["num_images"]
        assert isinstance(count, int)
        found = self._found()
        differing = [name for name, value in about.items() if found is not None and found.get(name) != value]
        if differing and not anew and self._holds_parquet():
            raise ConfigError(_refused(output, differing[0], found or {}, about))
        if found is None and not anew and self._holds_parquet():
            raise ConfigError(
                f"{output.field}: {output.named()} holds Parquet files of something else: give {output.field}=... "
                "another folder"
            )
        if found is None or differing:
            if anew:
                output.remove()
            self._size, self._complete = min(_LARGEST_BLOCK, max(1, batch_size, -(-count // _MOST_BLOCKS))), False
            self._describe({})
        else:
            self._size, self._complete = int(str(found["images_per_block"])), found["complete"] is True
        self.num_images = count
        """N."""
        self._done = self._intact()

    @property
    def missing(self) -> list[int]:
        """Numbers of the blocks that are still to be embedded."""
        return [number for number in range(-(-self.num_images // self._size)) if number not in self._done]

    @property
    def num_done(self) -> int:
        """Images of the finished blocks."""
        return sum(len(self.positions(number)) for number in self._done)

    @property
    def complete(self) -> bool:
        """Whether all was finished before."""
        return self._complete and not self.missing

    def positions(self, number: int) -> Indices:
        """(n,) places of a block's images among all."""
        return np.arange(number * self._size, min((number + 1) * self._size, self.num_images))

    def write(self, number: int, table: pa.Table, unreadable: list[Unreadable]) -> None:
        """Keeps the rows of a block, in their order, and what is missing among them. Raises ConfigError."""
        sink = pa.BufferOutputStream()
        said = json.dumps([list(image) for image in unreadable]).encode()
        pq.write_table(table.replace_schema_metadata({_PROBLEMS: said}), sink)
        self._output.write(PART.format(number), sink.getvalue())
        self._done[number] = unreadable

    def finish(self, more: Mapping[str, object]) -> None:
        """Says that every block is there, and more about them."""
        assert not self.missing
        self._complete = True
        self._describe(more)

    @property
    def unreadable(self) -> list[Unreadable]:
        """Images of the finished blocks that could not be embedded, in order."""
        return [image for number in sorted(self._done) for image in self._done[number]]

    def tables(self) -> Iterator[pa.Table]:
        """The blocks in order."""
        assert not self.missing
        for number in sorted(self._done):
            with self._output.opened(PART.format(number)) as file:
                yield pq.read_table(file)

    def _holds_parquet(self) -> bool:
        return any(name.endswith(".parquet") for name in self._output.names())

    def _describe(self, more: Mapping[str, object]) -> None:
        text = {**self._about, **more, "images_per_block": self._size, "complete": self._complete}
        self._output.write(ABOUT, (json.dumps(text, indent=1, sort_keys=True) + "\n").encode())

    def _found(self) -> dict[str, object] | None:
        content = self._output.read(ABOUT)
        if content is None:
            return None
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not {"images_per_block", "complete"} <= found.keys():
            raise ConfigError(f"{self._output.named(ABOUT)}: is no description of embeddings: remove it")
        return found

    def _intact(self) -> dict[int, list[Unreadable]]:
        names = set(self._output.names())
        wanted = [number for number in range(-(-self.num_images // self._size)) if PART.format(number) in names]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            found = zip(wanted, pool.map(self._problems, wanted), strict=True)
            return {number: problems for number, problems in found if problems is not None}

    def _problems(self, number: int) -> list[Unreadable] | None:
        """What is unreadable in a block; None where its file is damaged."""
        try:
            with self._output.opened(PART.format(number)) as file:
                footer = pq.read_metadata(file)
            problems = [Unreadable(*image) for image in json.loads(footer.metadata[_PROBLEMS])]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return problems if footer.num_rows + len(problems) == len(self.positions(number)) else None


def _refused(output: Output, name: str, found: Mapping[str, object], about: Mapping[str, object]) -> str:
    now = about[name]
    # A digest says nothing to a person.
    values = "" if name in _DIGESTS else f": {found.get(name)}, and now it is {now}"
    what = _DIGESTS.get(name, f"with another {name}")
    return (
        f"{output.field}: {output.named()} holds embeddings {what}{values}; remove that folder, or embed into another "
        "one: python -m raydml.embed takes out=FOLDER"
    )

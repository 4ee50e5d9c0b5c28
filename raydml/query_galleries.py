"""What queries are found in: the images of a split, or embeddings that `raydml.embed` wrote, read block by block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raydml import checkpoint
from raydml.block_folder import ABOUT
from raydml.config import ConfigError, DigitsConfig, GlyphsConfig
from raydml.config.places import refused_credentials
from raydml.data.catalog import list_photos
from raydml.data.decoding import Pixels
from raydml.data.files import Files
from raydml.data.listing import Encoded
from raydml.embedding_files import Rows, as_matrix
from raydml.pictures.encoded import encoded_of, read_pixels
from raydml.retrieval import QueryGallery, sides_of
from raydml.runs import TrainedModel
from raydml.splits import Indices
from raydml.subjects import Subject

_ROWS = 16384


class Named(NamedTuple):
    """An image of a gallery."""

    path: str
    """As the gallery has it."""
    file: str
    """Where it lies, whoever asks."""
    class_name: str | None


class Gallery(Protocol):
    """Images with their embeddings, in an order."""

    @property
    def count(self) -> int:
        """M."""
        ...

    def blocks(self) -> Iterator[Tensor]:
        """Embeddings (M, D), some rows at a time."""
        ...

    def named(self, index: Indices) -> dict[int, Named]:
        """Some of the images, by place in the order."""
        ...

    def classes(self) -> set[str]:
        """Of all images."""
        ...

    def pixels(self, index: int) -> Pixels | None:
        """(H, W, C) of an image; None where it cannot be read."""
        ...


def searched(subject: Subject) -> Indices:
    """(M,) positions of the images of a split that may be found: one that is a query only is not among them."""
    if isinstance(subject.protocol, QueryGallery):
        gallery: Indices = sides_of(subject.protocol)[1].numpy()
        return gallery
    return np.arange(len(subject.subset.index))


class SplitGallery:
    """The images that a model is evaluated on, but for those that are queries only."""

    def __init__(self, subject: Subject, rows: Rows) -> None:
        """`rows` (N, D) of all images of the split."""
        self._subject, self._images, subset = subject, subject.images, subject.subset
        position = searched(subject)
        self._rows = rows if len(position) == len(rows) else rows[position]
        self._index, self._labels = subset.index[position], subset.labels[position]

    @property
    def count(self) -> int:
        """M."""
        return len(self._rows)

    def blocks(self) -> Iterator[Tensor]:
        """As one."""
        yield torch.from_numpy(self._rows)

    def named(self, index: Indices) -> dict[int, Named]:
        """By the names of their sources."""
        names = {int(i): self._images.sources[self._index[i]] for i in index}
        return {i: Named(name, self._located(name), self._class_of(i)) for i, name in names.items()}

    def classes(self) -> set[str]:
        """Those of the gallery."""
        return {self._images.classes[self._subject.subset.classes[label]] for label in np.unique(self._labels)}

    def pixels(self, index: int) -> Pixels | None:
        """As the model sees it."""
        pixels: Pixels = self._images.images[int(self._index[index])]
        return pixels

    def _class_of(self, index: int) -> str:
        return self._images.classes[int(self._subject.subset.classes[self._labels[index]])]

    def _located(self, name: str) -> str:
        return name if self._encoded is None else self._encoded.named(name)

    @cached_property
    def _encoded(self) -> Encoded | None:
        if isinstance(self._subject.data, GlyphsConfig | DigitsConfig):
            return None
        try:
            return list_photos(self._subject.data).encoded
        except ConfigError:
            # Decoded before, and gone since.
            return None


class EmbeddedGallery:
    """A folder that `raydml.embed` wrote."""

    def __init__(self, place: str, model: TrainedModel) -> None:
        """Raises ConfigError where it is none, not finished, or of another model."""
        self._files = Files(place, field="among")
        self.name = name = self._files.named()
        about = _about(self._files)
        if about.get("complete") is not True:
            raise ConfigError(f"among: {name} is not all there yet: the same raydml.embed goes on with it")
        if about.get("checkpoint") != checkpoint.digest(model.checkpoint):
            raise ConfigError(
                f"among: {name} holds embeddings by another model than {model.checkpoint}: they cannot be compared; "
                f"embed those images again with python -m raydml.embed {model.directory}"
            )
        self.count = int(str(about["count"]))
        self._parts = [path for path in self._files.listed() if path.endswith(".parquet")]
        self._paths: dict[int, str] = {}

    def blocks(self) -> Iterator[Tensor]:
        """A part of a file at a time."""
        for batch in self._batches(["embedding"]):
            yield torch.from_numpy(as_matrix(pa.chunked_array([batch["embedding"]])))

    def named(self, index: Indices) -> dict[int, Named]:
        """One pass over the names of all, keeping these."""
        wanted, found, start = np.unique(index), {}, 0
        for batch in self._batches(["path", "class"]):
            here = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
            for place, row in zip(here.tolist(), batch.take(pa.array(here - start)).to_pylist(), strict=True):
                self._paths[place] = row["path"]
                found[place] = Named(row["path"], self._located(row["path"]), row.get("class"))
            start += batch.num_rows
        return found

    def classes(self) -> set[str]:
        """Empty where no image has one."""
        batches = (batch for batch in self._batches(["class"]) if "class" in batch.schema.names)
        return {name for batch in batches for name in pc.unique(batch["class"]).to_pylist() if name is not None}

    def pixels(self, index: int) -> Pixels | None:
        """Of one that was named before."""
        return read_pixels(self._encoded, self._paths[index])

    def _located(self, path: str) -> str:
        return path if self._encoded is None else self._encoded.named(path)

    @cached_property
    def _encoded(self) -> Encoded | None:
        return encoded_of(self._files)

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for path in self._parts:
            try:
                with self._files.opened(path) as file, pq.ParquetFile(file) as parquet:
                    known = [name for name in columns if name in parquet.schema_arrow.names]
                    yield from parquet.iter_batches(_ROWS, columns=known)
            except (OSError, pa.ArrowException) as error:
                raise ConfigError(f"among: {self._files.named(path)} cannot be read: {error}") from None


def holds_embeddings(place: str) -> bool:
    """Whether it is a folder that `raydml.embed` wrote, rather than images.

    Raises ConfigError for a file of embeddings alone: nobody knows which model made it.
    """
    if (refused := refused_credentials(place)) is not None:
        raise ConfigError(f"among: {refused}")
    files = Files(place, field="among")
    match files.kind():
        case "folder":
            return files.kind(ABOUT) == "file"
        case "file" if place.endswith(".parquet") and "embedding" in _columns(files):
            raise ConfigError(
                f"among: {files.named()} does not say which model made its embeddings: give a folder that "
                "python -m raydml.embed wrote, or the images"
            )
    return False


def _columns(files: Files) -> list[str]:
    try:
        with files.opened("") as file:
            names: list[str] = pq.read_schema(file).names
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"among: {files.named()}: no readable Parquet file: {error}") from None
    return names


def _about(files: Files) -> dict[str, object]:
    try:
        found = json.loads(files.read(ABOUT))
    except (OSError, ValueError) as error:
        raise ConfigError(f"among: {files.named(ABOUT)} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"among: {files.named(ABOUT)} is no description of embeddings")
    return found

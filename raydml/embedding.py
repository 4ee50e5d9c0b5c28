"""Embeddings of images by a trained model, block by block: those of a split for its evaluation, or of any gallery.

No image is padding and none counts twice. A process that was killed goes on with the blocks that are missing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from raydml import checkpoint
from raydml.block_folder import BlockFolder, Unreadable
from raydml.config import ConfigError, EmbedOptions, EvaluateOptions
from raydml.data.building import Progress
from raydml.data.files import Files
from raydml.data.found_images import UNKNOWN, FoundImages
from raydml.data.output import Output
from raydml.data.reading import EncodedImages, SplitImages
from raydml.embedding_files import Rows, as_column, as_matrix, role_column
from raydml.embedding_pool import Block, Effort, EmbeddedBlock, EmbeddingFailedError, embed_blocks
from raydml.runs import TrainedModel
from raydml.storage import below
from raydml.subjects import Subject

__all__ = ["EmbeddedImages", "EmbeddingFailedError", "embed_images", "embed_subset"]

UNREADABLE = "unreadable.csv"
_SHOWN = 3


@dataclass(frozen=True)
class EmbeddedImages:
    """Embeddings of a gallery, on disk or in a bucket."""

    place: str
    """The folder or URI of the Parquet files, for `raydml.stored`."""
    num_images: int
    """Embedded ones."""
    embedding_dim: int
    """D."""
    num_kept: int
    """Those of them that an earlier process had embedded."""
    unreadable: tuple[Unreadable, ...]


def embed_images(
    model: TrainedModel,
    images: FoundImages,
    options: EmbedOptions,
    *,
    place: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
) -> EmbeddedImages:
    """Embeds images that somebody found, as an evaluation would see them, into Parquet at `options.out`.

    Without it below the folder of the model, or `place`, its URI where the folder is a copy.

    `part-000000.parquet ...` with the columns index, path, label and class and role where any image has one, embedding;
    `embeddings.json` says of what; unreadable.csv what was left out. Raises ConfigError for an image that cannot be
    read, unless they are skipped, and where embeddings of something else lie there; EmbeddingFailedError.
    """
    config = checkpoint.read_config(model.checkpoint)
    place = place or str(model.directory)
    output = Output(options.out or below(place, f"embeddings/{quote(images.name) if '://' in place else images.name}"))
    about = {
        "checkpoint": checkpoint.digest(model.checkpoint),
        "images": images.encoded.named(images.places[0]),
        "version": images.version,
        "num_images": len(images.places),
        "embedding_dim": config.model.embedding_dim,
        "precision": options.precision,
    }
    folder = BlockFolder(output, about, batch_size=options.batch_size)
    kept = folder.num_done - len(folder.unreadable)
    if folder.unreadable and options.unreadable == "error":
        raise ConfigError(_about_unreadable(folder.unreadable))
    source = EncodedImages(images.encoded, config.data.image_size)
    blocks = [
        Block(number, at, [images.places[position] for position in at])
        for number, at in ((number, folder.positions(number)) for number in folder.missing)
    ]
    effort = Effort(options.precision, options.batch_size, options.resources, verbose)

    def table_of(block: EmbeddedBlock) -> pa.Table:
        if block.unreadable and options.unreadable == "error":
            raise ConfigError(_about_unreadable(block.unreadable))
        return _table(images, block)

    _fill(folder, embed_blocks(model.checkpoint, source, blocks, effort), table_of, progress)
    found = folder.unreadable
    if found:
        output.write(UNREADABLE, _as_csv(images, found))
    count = len(images.places) - len(found)
    if not folder.complete:
        folder.finish({"run": Files(place).named(), "count": count, "source": list(images.source)})
    return EmbeddedImages(output.place, count, config.model.embedding_dim, kept, tuple(found))


def embed_subset(
    subject: Subject,
    parts: Path,
    options: EvaluateOptions,
    *,
    verbose: bool = False,
    progress: Progress | None = None,
) -> Rows:
    """Embeddings (N, D) of the images a model is evaluated on, in the order of their subset.

    Every actor makes the same split of the data. Blocks grow in the folder `parts`, which is for the caller to remove.
    Raises EmbeddingFailedError, and ConfigError where the images are not what they were.
    """
    model = subject.model
    meta = checkpoint.read_meta(model.checkpoint)
    about = {
        "checkpoint": checkpoint.digest(model.checkpoint),
        "fingerprint": meta["fingerprint"],
        "data": subject.data.model_dump(mode="json"),
        "split": subject.split,
        "num_images": len(subject.subset.index),
        "precision": options.precision,
    }
    folder = BlockFolder(Output(str(parts), field="evaluation"), about, batch_size=options.batch_size, anew=True)
    source = SplitImages(subject.data, subject.split, meta["fingerprint"], meta["fold"])
    blocks = [Block(number, folder.positions(number)) for number in folder.missing]
    effort = Effort(options.precision, options.batch_size, options.resources, verbose)
    embedded = embed_blocks(model.checkpoint, source, blocks, effort)
    _fill(folder, embedded, lambda block: pa.table({"embedding": as_column(block.rows)}), progress)
    return np.concatenate([as_matrix(table["embedding"]) for table in folder.tables()])


def _fill(
    folder: BlockFolder,
    embedded: Generator[EmbeddedBlock, None, None],
    table_of: Callable[[EmbeddedBlock], pa.Table],
    progress: Progress | None,
) -> None:
    """Writes blocks as they come."""
    if not folder.missing:
        # Without a start of Ray for nothing.
        return
    if progress is not None:
        progress(folder.num_done, folder.num_images)
    # Whoever keeps the error of a block that cannot be written would keep the actors too.
    with closing(embedded):
        for block in embedded:
            folder.write(block.number, table_of(block), block.unreadable)
            if progress is not None:
                progress(folder.num_done, folder.num_images)


def _table(images: FoundImages, block: EmbeddedBlock) -> pa.Table:
    at = block.positions
    columns: dict[str, object] = {"index": at, "path": pa.array([images.places[i] for i in at], pa.string())}
    if images.labels is not None:
        labels = images.labels[at]
        columns["label"] = pa.array(labels, pa.int64(), mask=labels == UNKNOWN)
        names = [None if label == UNKNOWN else images.classes[label] for label in labels.tolist()]
        columns["class"] = pa.array(names, pa.string())
    if images.roles is not None:
        columns["role"] = role_column(images.roles[at])
    if images.groups is not None:
        columns["group"] = images.groups[at]
    return pa.table({**columns, "embedding": as_column(block.rows)})


def _about_unreadable(found: Sequence[Unreadable]) -> str:
    named = "; ".join(image.problem for image in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"images: {named}{more}; mend or remove them: raydml.embed leaves them out with unreadable=skip"


def _as_csv(images: FoundImages, found: Sequence[Unreadable]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["index", "path", "problem"])
    table.writerows([image.position, images.places[image.position], image.problem] for image in found)
    return text.getvalue().encode()

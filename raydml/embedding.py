"""Embeddings of a split by a trained model, through a Ray Data actor pool: no padding, so no image counts twice."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raydml import checkpoint
from raydml.capacity import embedding_actors
from raydml.config import DataConfig, Resources
from raydml.data.batches import sequential_batches
from raydml.data.opening import open_images
from raydml.data.pixels import PixelSource
from raydml.data.subsets import Split, split_subset
from raydml.embedding_files import Rows, as_column, as_matrix
from raydml.epoch import embed
from raydml.session import connected, import_ray, reason_of
from raydml.splits import Indices

# Blocks per actor: the last one of an uneven cut must not keep all others waiting.
_BLOCKS_PER_ACTOR = 4


class EmbeddingFailedError(RuntimeError):
    """The workers could not embed the images; the message says why."""


class _Embedder:
    """An actor of the pool: the model and the images of the node it lies on."""

    def __init__(self, folder: str, data: DataConfig, split: Split, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        objective, _, shape = checkpoint.load_objective(Path(folder))
        device = torch.device("cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") and torch.cuda.is_available() else "cpu")
        meta = checkpoint.read_meta(Path(folder))
        images = open_images(data, with_test=split == "test", known=meta["fingerprint"])
        subset = split_subset(images, data, split, meta["fold"])
        self._model = objective.model.to(device)
        self._image_size = shape.image_size
        self._labels = subset.labels
        self._source = PixelSource(images.images, subset.index, device=device, input_size=shape.image_size)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> pa.Table:
        positions: Indices = np.array(batch["id"], dtype=np.int64)
        batches = sequential_batches(self._source, self._labels, positions, batch_size=len(positions))
        rows = embed(self._model, batches, image_size=self._image_size).embeddings
        return pa.table({"id": positions, "embedding": as_column(rows.float().cpu().numpy())})


def embed_subset(
    folder: Path,
    data: DataConfig,
    num_images: int,
    split: Split,
    batch_size: int,
    resources: Resources,
    *,
    verbose: bool = False,
) -> Rows:
    """Embeddings (N, D) of a split by a checkpoint's model, in the split's order.

    `data` is the checkpoint's, but for the test list that is asked for: every actor makes the same split of it.
    Blocks come back in any order and once more where an actor died; each row goes to its own place, so no image counts
    twice and none is padded. Raises EmbeddingFailedError.
    """
    ray = import_ray()
    with connected(verbose=verbose) as capacity:
        from ray.data import ActorPoolStrategy
        from ray.data.exceptions import SystemException
        from ray.exceptions import RayError

        if not verbose:
            logging.getLogger("ray.data").setLevel(logging.ERROR)
        num_actors, worker = embedding_actors(resources, capacity)
        num_blocks = max(1, min(num_actors * _BLOCKS_PER_ACTOR, -(-num_images // batch_size)))
        tables = (
            ray.data.range(num_images, override_num_blocks=num_blocks)
            .map_batches(
                _Embedder,
                fn_constructor_args=(str(folder), data, split, max(1, int(worker.cpus))),
                compute=ActorPoolStrategy(size=min(num_actors, num_blocks)),
                batch_size=batch_size,
                batch_format="numpy",
                num_cpus=worker.cpus,
                num_gpus=worker.gpus,
            )
            .iter_batches(batch_format="pyarrow", batch_size=None)
        )
        try:
            return _scattered(tables, num_images)
        except (RayError, SystemException) as error:
            raise EmbeddingFailedError(reason_of(error)) from error


def _scattered(tables: Any, num_images: int) -> Rows:  # noqa: ANN401
    rows: Rows | None = None
    seen = np.zeros(num_images, dtype=bool)
    for table in tables:
        part = as_matrix(table["embedding"])
        rows = np.empty((num_images, part.shape[1]), dtype=np.float32) if rows is None else rows
        positions = table["id"].to_numpy()
        rows[positions], seen[positions] = part, True
    assert rows is not None
    assert seen.all(), "every image is embedded"
    return rows

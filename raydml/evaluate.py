"""Embedding with Ray Data and exact retrieval metrics: `python -m raydml.evaluate RUN`.

RUN is a trained model (checkpoint, run, study) or a Parquet file of embeddings that anything made, with the columns
`label` and `embedding`. Metrics are computed from embeddings, never from loaders.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports: bad input and --check need neither torch nor Ray. And not behind them: what is defined in
    # __main__ would travel to workers by value, as other classes than those of the importable module.
    import sys

    from raydml.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from raydml import atomic, checkpoint
from raydml.baseline import raw_pixel_metrics
from raydml.capacity import embedding_actors
from raydml.config import ConfigError, DataConfig, Resources
from raydml.data.batches import PixelSource, sequential_batches
from raydml.data.cache import ImageSet
from raydml.data.catalog import Subset, fold_subsets, open_images, test_subset, trainval_subset
from raydml.epoch import embed
from raydml.metrics import retrieval_metrics
from raydml.runs import TrainedModel, resolve
from raydml.session import connected, import_ray
from raydml.splits import Indices

Split = Literal["auto", "train", "val", "test"]
Engine = Literal["rank", "faiss"]
Rows = npt.NDArray[np.float32]

# Blocks per actor: the last one of an uneven cut must not keep all others waiting.
_BLOCKS_PER_ACTOR = 4
_DEFAULT_RANKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model or embedding file on one split."""

    directory: Path
    """Where metrics.json and embeddings.parquet lie."""
    split: str
    """train, val, test, or `file` for embeddings."""
    metrics: dict[str, float]
    baseline: dict[str, float] | None
    """Metrics of raw pixels on the same images; none for a file."""
    synthetic: bool


def evaluate(
    run_or_embeddings: str | Path,
    *,
    split: Split = "auto",
    fold: int | None = None,
    engine: Engine = "rank",
    recall_at: Sequence[int] | None = None,
    batch_size: int = 256,
    resources: Resources | None = None,
    storage: str = "runs",
    verbose: bool = False,
) -> dict[str, float]:
    """Retrieval metrics of a trained model or of a Parquet file; also written beside the run, with the embeddings.

    Raises ConfigError where nothing usable lies there.
    """
    evaluation = run_evaluation(
        run_or_embeddings,
        split=split,
        fold=fold,
        engine=engine,
        recall_at=recall_at,
        batch_size=batch_size,
        resources=resources or Resources(),
        storage=storage,
        verbose=verbose,
    )
    return evaluation.metrics


def run_evaluation(
    run_or_embeddings: str | Path,
    *,
    split: Split,
    fold: int | None,
    engine: Engine,
    recall_at: Sequence[int] | None,
    batch_size: int,
    resources: Resources,
    storage: str,
    verbose: bool,
) -> Evaluation:
    """As `evaluate`, with everything there is to say about the result."""
    path = Path(run_or_embeddings).expanduser()
    if path.suffix == ".parquet":
        return _evaluate_file(path, engine, recall_at or _DEFAULT_RANKS, storage)
    model = resolve(path, fold=fold)
    chosen = model.default_split if split == "auto" else split
    return _evaluate_model(model, chosen, engine, recall_at, batch_size, resources, verbose=verbose)


def _evaluate_model(
    model: TrainedModel,
    split: Literal["train", "val", "test"],
    engine: Engine,
    recall_at: Sequence[int] | None,
    batch_size: int,
    resources: Resources,
    *,
    verbose: bool,
) -> Evaluation:
    config = checkpoint.load_objective(model.checkpoint)[1]
    images = open_images(config.data, with_test=split == "test")
    fingerprint = checkpoint.read_meta(model.checkpoint)["fingerprint"]
    if images.fingerprint != fingerprint:
        raise ConfigError(
            f"{model.checkpoint}: trained on other data (fingerprint {fingerprint}, now {images.fingerprint})"
        )
    subset = _subset(images, config.data, split, model.fold)
    rows = embed_subset(model.checkpoint, len(subset.index), split, batch_size, resources, verbose=verbose)
    ranks = recall_at or config.evaluation.recall_at
    metrics = retrieval_metrics(rows, subset.labels, recall_at=ranks, engine=engine)
    directory = model.directory / "evaluation" / split
    write_embeddings(directory / "embeddings.parquet", rows, images.labels[subset.index], subset.index)
    atomic.write_json(directory / "metrics.json", metrics)
    if split == "test":
        _note_test_look(model, metrics)
    baseline = raw_pixel_metrics(images, subset, recall_at=ranks)
    return Evaluation(directory, split, metrics, baseline, images.synthetic)


def _subset(images: ImageSet, config: DataConfig, split: str, fold: int | None) -> Subset:
    if split == "test":
        return test_subset(images, config)
    if fold is None:
        if split == "val":
            raise ConfigError("split=val: this model was trained on all training classes: nothing was left to validate")
        return trainval_subset(images, config)
    train, val = fold_subsets(images, config, fold)
    return val if split == "val" else train


class _Embedder:
    """An actor of the pool: the model and the images of the node it lies on."""

    def __init__(self, folder: str, split: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        objective, config, shape = checkpoint.load_objective(Path(folder))
        device = torch.device("cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") and torch.cuda.is_available() else "cpu")
        images = open_images(config.data, with_test=split == "test")
        subset = _subset(images, config.data, split, checkpoint.read_meta(Path(folder))["fold"])
        self._model = objective.model.to(device)
        self._image_size = shape.image_size
        self._labels = subset.labels
        self._source = PixelSource(images.images, subset.index, device=device)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> pa.Table:
        positions: Indices = np.array(batch["id"], dtype=np.int64)
        batches = sequential_batches(self._source, self._labels, positions, batch_size=len(positions))
        rows = embed(self._model, batches, image_size=self._image_size).embeddings
        return pa.table({"id": positions, "embedding": _fixed_size_lists(rows.float().cpu().numpy())})


def embed_subset(
    folder: Path, num_images: int, split: str, batch_size: int, resources: Resources, *, verbose: bool = False
) -> Rows:
    """Embeddings (N, D) of a split by a checkpoint's model, in the split's order, through a Ray Data actor pool.

    Blocks come back in any order and once more where an actor died; each row goes to its own place, so no image counts
    twice and none is padded.
    """
    ray = import_ray()
    with connected(verbose=verbose) as capacity:
        from ray.data import ActorPoolStrategy

        if not verbose:
            logging.getLogger("ray.data").setLevel(logging.ERROR)
        num_actors, worker = embedding_actors(resources, capacity)
        num_blocks = max(1, min(num_actors * _BLOCKS_PER_ACTOR, -(-num_images // batch_size)))
        tables = (
            ray.data.range(num_images, override_num_blocks=num_blocks)
            .map_batches(
                _Embedder,
                fn_constructor_args=(str(folder), split, max(1, int(worker.cpus))),
                compute=ActorPoolStrategy(size=min(num_actors, num_blocks)),
                batch_size=batch_size,
                batch_format="numpy",
                num_cpus=worker.cpus,
                num_gpus=worker.gpus,
            )
            .iter_batches(batch_format="pyarrow", batch_size=None)
        )
        return _scattered(tables, num_images)


def _scattered(tables: Any, num_images: int) -> Rows:  # noqa: ANN401
    rows: Rows | None = None
    seen = np.zeros(num_images, dtype=bool)
    for table in tables:
        part = _matrix(table["embedding"])
        rows = np.empty((num_images, part.shape[1]), dtype=np.float32) if rows is None else rows
        positions = table["id"].to_numpy()
        rows[positions], seen[positions] = part, True
    assert rows is not None
    assert seen.all(), "every image is embedded"
    return rows


def _evaluate_file(path: Path, engine: Engine, recall_at: Sequence[int], storage: str) -> Evaluation:
    rows, labels = read_embeddings(path)
    # Others may not have scaled theirs: neighbours are by cosine.
    unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
    metrics = retrieval_metrics(unit, labels, recall_at=recall_at, engine=engine)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=4).hexdigest()
    directory = Path(storage).expanduser().resolve() / "evaluations" / f"{path.stem}-{digest}"
    atomic.write_json(directory / "metrics.json", metrics)
    return Evaluation(directory, "file", metrics, None, synthetic=False)


def write_embeddings(path: Path, rows: Rows, labels: Indices, index: Indices) -> None:
    """Parquet that anything reads: index int64, label int64, embedding fixed_size_list<float32>."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    table = pa.table({"index": index, "label": labels, "embedding": _fixed_size_lists(rows)})
    pq.write_table(table, beside)
    beside.replace(path)


def read_embeddings(path: Path) -> tuple[Rows, Indices]:
    """Embeddings (N, D) and labels (N,) of a Parquet file. Raises ConfigError where the columns are not there."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: no readable Parquet file: {error}") from None
    missing = {"label", "embedding"} - set(table.column_names)
    if missing:
        raise ConfigError(f"{path}: needs the columns label and embedding, but has {', '.join(table.column_names)}")
    if not pa.types.is_integer(table.schema.field("label").type):
        raise ConfigError(f"{path}: label must be integers, but is {table.schema.field('label').type}")
    lengths = pc.unique(pc.list_value_length(table["embedding"])).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        raise ConfigError(f"{path}: embeddings must all have the same length, but have {sorted(map(str, lengths))}")
    return _matrix(table["embedding"]), table["label"].to_numpy().astype(np.int64)


def _fixed_size_lists(rows: Rows) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _matrix(column: pa.ChunkedArray) -> Rows:
    array = column.combine_chunks()
    flat = array.flatten().to_numpy(zero_copy_only=False)
    matrix: Rows = flat.reshape(len(array), -1).astype(np.float32)
    return matrix


def _note_test_look(model: TrainedModel, metrics: Mapping[str, float]) -> None:
    """Every look at test classes is written down: a number looked at often is a number tuned."""
    folder = model.study or model.directory
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "checkpoint": str(model.checkpoint), "metrics": dict(metrics)}
    with (folder / "test_looks.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")

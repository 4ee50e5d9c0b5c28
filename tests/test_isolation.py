"""A training cannot depend on the test classes: whatever their pixels and labels are, it is the same to the bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydml.baseline import raw_pixel_metrics
from raydml.config import ExperimentConfig, replace_at
from raydml.data.entry import sealed
from raydml.data.opening import fingerprint, open_images
from raydml.data.subsets import fold_subsets, trainval_subset
from raydml.training import RunSpec, require_trainable
from tests.training_cases import train


def garble(config: ExperimentConfig) -> None:
    """Overwrites pixels and labels of the test classes in the cache."""
    images = open_images(config.data, with_test=True)
    first = len(trainval_subset(images, config.data).index)
    rng = np.random.default_rng(0)
    entry = Path(str(config.data.cache)) / fingerprint(config.data)
    content = (entry / "images.arrow").read_bytes()
    pixels = images.images[first:].tobytes()
    assert content.count(pixels) == 1
    (entry / "images.arrow").write_bytes(content.replace(pixels, rng.bytes(len(pixels))))
    table = pq.read_table(entry / "index.parquet")
    labels = table["label"].to_numpy().copy()
    # Among them those of training classes: a search that trusted labels would train on garbage.
    labels[first:] = rng.integers(0, len(images.classes), len(labels) - first)
    pq.write_table(table.set_column(0, "label", pa.array(labels)), entry / "index.parquet")
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    index = (entry / "index.parquet").read_bytes()
    meta["bytes"]["index.parquet"] = len(index)
    meta["index_digest"] = hashlib.blake2b(index, digest_size=16).hexdigest()
    (entry / "meta.json").write_text(json.dumps(sealed(meta)), encoding="utf-8")


def everything(config: ExperimentConfig, folder: Path) -> list[object]:
    """What a search and a training compute from images: models, curves, the raw pixels beside them."""
    found: list[object] = []
    for name, split, folds in (("folds", "train", (0, 3)), ("all", "trainval", ())):
        rows: list[dict[str, float]] = []
        spec = RunSpec(config, folder / name, split, folds)  # type: ignore[arg-type]
        train(spec, device=torch.device("cpu"), report=rows.append)
        found += [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        found += [(path / "model.safetensors").read_bytes() for path in spec.checkpoints()]
    images = require_trainable(config)
    return [*found, raw_pixel_metrics(images, fold_subsets(images, config.data, 1)[1])]


@pytest.fixture
def own(tiny: ExperimentConfig, tmp_path: Path) -> ExperimentConfig:
    """With a cache of its own, which may be spoilt."""
    return replace_at(tiny, "data.cache", str(tmp_path / "cache"))


def test_garbage_in_the_test_classes_changes_nothing(own: ExperimentConfig, tmp_path: Path) -> None:
    before = open_images(own.data, with_test=True)
    labels, pixels = before.labels.copy(), before.images.copy()
    undisturbed = everything(own, tmp_path / "undisturbed")
    garble(own)
    after = open_images(own.data, with_test=True)
    assert not np.array_equal(after.labels, labels), "the garbage is really there"
    assert not np.array_equal(after.images, pixels)
    assert everything(own, tmp_path / "garbled") == undisturbed

"""Images decoded once per node: a content-addressed, memory-mapped uint8 cache that everything on the node shares.

A cache entry is a folder `<cache>/<fingerprint>/` of images.arrow (one fixed-size binary per image, N x H x W x C
uint8, readable by any Arrow), index.parquet (label, class, source) and meta.json. It is built beside its place under a
file lock and renamed, so concurrent builders wait for the first and nobody sees a part of it.

Images lie in the order of their labels: those of the first classes are the first rows, and can be opened alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from raydml import atomic
from raydml.data.decoding import Pixels
from raydml.data.listing import Mask, Roles
from raydml.splits import Indices

_log = logging.getLogger(__name__)

_FILES = ("images.arrow", "index.parquet")


class Decoded(NamedTuple):
    """What a builder brings: pixels (N, H, W, C), labels (N,), class names and where each image comes from."""

    images: Pixels
    labels: Indices
    classes: tuple[str, ...]
    sources: list[str]


@dataclass(frozen=True)
class ImageSet:
    """Decoded images of a data set with their labels; pixels are a read-only view of the memory map."""

    name: str
    images: Pixels
    """(N, H, W, C) uint8."""
    labels: Indices
    """(N,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names; also of classes whose images were left out."""
    sources: tuple[str, ...]
    sizes: tuple[int, ...]
    """Images of each class, the first ones of `classes`; shorter than `classes` where images were left out."""
    fingerprint: str
    synthetic: bool
    """Rendered rather than photographed: said wherever results appear."""
    num_training: int | None = None
    """Classes, the first ones, that train; None where the configuration decides."""
    roles: Roles | None = None
    """(N,) `raydml.data.listing`: whether an image is a query, of the gallery, or either; None where all are either."""
    test_lists: Mapping[str, Mask] = field(default_factory=dict)
    """Named parts of the test images, (N,) each, where a data set has several."""

    def of_first(self, num_classes: int) -> ImageSet:
        """The images of the first classes alone. Which they are is read from `sizes`, not from any label."""
        sizes = self.sizes[:num_classes]
        count = sum(sizes)
        # Labels are copied: a view would lead back to those left out.
        labels = self.labels[:count].copy()
        return replace(
            self,
            images=self.images[:count],
            labels=labels,
            sources=self.sources[:count],
            sizes=sizes,
            roles=None if self.roles is None else self.roles[:count].copy(),
            test_lists={name: mask[:count].copy() for name, mask in self.test_lists.items()},
        )


def default_cache() -> Path:
    """The folder of decoded images below the user's cache folder."""
    return platformdirs.user_cache_path("raydml") / "images"


def open_or_build(
    cache: Path,
    fingerprint: str,
    *,
    name: str,
    synthetic: bool,
    build: Callable[[], Decoded],
) -> ImageSet:
    """The cached images of a fingerprint; decodes them first where they are missing or damaged."""
    entry = cache / fingerprint
    if not _is_whole(entry):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{fingerprint}.lock"):
            if not _is_whole(entry):
                _log.info("%s: decoding images once into %s", name, entry)
                with atomic.replaced_directory(entry) as scratch:
                    decoded = _by_label(build())
                    _write(scratch, decoded, fingerprint=fingerprint, name=name, synthetic=synthetic)
    return _open(entry)


def _by_label(decoded: Decoded) -> Decoded:
    """In the order of labels, images of a class as they came. Sources larger than memory bring them so."""
    images, labels, classes, sources = decoded
    if bool((labels[1:] >= labels[:-1]).all()):
        return decoded
    order = np.argsort(labels, kind="stable")
    return Decoded(images[order], labels[order], classes, [sources[position] for position in order])


def _write(folder: Path, decoded: Decoded, *, fingerprint: str, name: str, synthetic: bool) -> None:
    num_images, *shape = decoded.images.shape
    width = int(np.prod(shape))
    rows = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), num_images, [None, pa.py_buffer(np.ascontiguousarray(decoded.images))]
    )
    # One record batch: all pixels are one contiguous buffer of the file, hence one NumPy view.
    batch = pa.record_batch([rows], names=["image"])
    with pa.OSFile(str(folder / "images.arrow"), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    index = {
        "label": pa.array(decoded.labels),
        "class": pa.array([decoded.classes[label] for label in decoded.labels]),
        "source": pa.array(decoded.sources),
    }
    pq.write_table(pa.table(index), folder / "index.parquet")
    meta = {
        "name": name,
        "fingerprint": fingerprint,
        "synthetic": synthetic,
        "shape": [num_images, *shape],
        "num_decoded": num_images,
        "classes": list(decoded.classes),
        "sizes": np.bincount(decoded.labels, minlength=len(decoded.classes)).tolist(),
        "bytes": {name: (folder / name).stat().st_size for name in _FILES},
    }
    atomic.write_json(folder / "meta.json", meta)


def _is_whole(entry: Path) -> bool:
    """Whether an entry exists and its pixels have the size they were written with."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        sizes_agree = sum(meta["sizes"]) == meta["num_decoded"]
        return sizes_agree and all((entry / name).stat().st_size == meta["bytes"][name] for name in _FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _open(entry: Path) -> ImageSet:
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    column = pa.ipc.open_file(pa.memory_map(str(entry / "images.arrow"))).get_batch(0).column(0)
    images = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=int(np.prod(meta["shape"])))
    index = pq.read_table(entry / "index.parquet", columns=["label", "source"])
    return ImageSet(
        name=meta["name"],
        images=images.reshape(meta["shape"]),
        labels=index["label"].to_numpy().astype(np.int64),
        classes=tuple(meta["classes"]),
        sources=tuple(index["source"].to_pylist()),
        sizes=tuple(meta["sizes"]),
        fingerprint=meta["fingerprint"],
        synthetic=meta["synthetic"],
    )

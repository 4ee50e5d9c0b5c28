"""An entry of the cache on the disk: pixels, an index and what is known of them; whole, or taken for absent.

`images.arrow` is one fixed-size binary per image (readable by any Arrow), `index.parquet` says what each image is,
`meta.json` how large and how intact all of it must be. An entry is made beside its place and renamed into it.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydml import atomic
from raydml.data.decoding import Pixels
from raydml.data.listing import Mask, Roles
from raydml.data.pixel_file import Checksums, block_checksums, layout_of, read_checksums
from raydml.splits import Indices

PIXELS, INDEX, META = "images.arrow", "index.parquet", "meta.json"
FILES = (PIXELS, INDEX)

# Images whose checksums are one number of meta.json.
_IMAGES_PER_BLOCK = 256
_LIST = "list/"


@dataclass(frozen=True)
class Description:
    """What an entry says of its images beside their pixels."""

    name: str
    synthetic: bool
    shape: tuple[int, ...]
    """(N, H, W, C)."""
    labels: Indices
    """(N,) rising."""
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    digests: list[bytes] | None = None
    """Of the encoded images; None where they were rendered."""
    num_training: int | None = None
    roles: Roles | None = None
    groups: Indices | None = None
    test_lists: Mapping[str, Mask] = field(default_factory=dict)
    decoder: str | None = None
    encoded_bytes: int | None = None
    """Of all encoded images together."""


class Contents(NamedTuple):
    """What lies in a whole entry."""

    meta: dict[str, Any]
    index: pa.Table
    images: Pixels
    """(N, H, W, C), a read-only view of the mapped file."""


def finish(folder: Path, description: Description, checksums: Checksums, *, fingerprint: str) -> None:
    """Writes what an entry has beside the pixels that already lie in its folder; meta.json last. Raises OSError."""
    pq.write_table(_index_of(description), folder / INDEX)
    index = (folder / INDEX).read_bytes()
    for name in FILES:
        atomic.sync(folder / name)
    meta = {
        "name": description.name,
        "fingerprint": fingerprint,
        "synthetic": description.synthetic,
        "shape": list(description.shape),
        "num_decoded": description.shape[0],
        "classes": list(description.classes),
        "sizes": np.bincount(description.labels, minlength=len(description.classes)).tolist(),
        "num_training": description.num_training,
        "decoder": description.decoder,
        "image_size": description.shape[1],
        "encoded_bytes": description.encoded_bytes,
        "bytes": {name: (folder / name).stat().st_size for name in FILES},
        "index_digest": _digest(index),
        "start": layout_of(description.shape).start,
        "images_per_block": _IMAGES_PER_BLOCK,
        "blocks": block_checksums(checksums, _IMAGES_PER_BLOCK),
    }
    atomic.write_json(folder / META, sealed(meta))
    atomic.sync(folder)


def sealed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """With a digest of all of it, under `seal`: a class or a split that changed on the disk is noticed."""
    open_ones = {name: value for name, value in meta.items() if name != "seal"}
    return {**open_ones, "seal": _digest(json.dumps(open_ones, sort_keys=True).encode())}


def _index_of(description: Description) -> pa.Table:
    classes = pa.DictionaryArray.from_arrays(pa.array(description.labels), pa.array(description.classes))
    columns = {
        "label": pa.array(description.labels),
        "class": classes.cast(pa.string()),
        "source": pa.array(description.sources, type=pa.string()),
    }
    if description.digests is not None:
        columns["digest"] = pa.array(description.digests, type=pa.binary())
    if description.roles is not None:
        columns["role"] = pa.array(description.roles)
    if description.groups is not None:
        columns["group"] = pa.array(description.groups)
    columns |= {f"{_LIST}{name}": pa.array(mask) for name, mask in description.test_lists.items()}
    return pa.table(columns)


def read(entry: Path) -> Contents | None:
    """What lies in an entry; None where it is absent, cut, or its index is not what was written.

    Pixels are not read: `verify` does that.
    """
    try:
        meta = json.loads((entry / META).read_text(encoding="utf-8"))
        if meta != sealed(meta):
            return None
        shape = tuple(meta["shape"])
        agree = all((entry / name).stat().st_size == meta["bytes"][name] for name in FILES)
        if not agree:
            return None
        index = (entry / INDEX).read_bytes()
        if _digest(index) != meta["index_digest"]:
            return None
        with (entry / PIXELS).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        images = np.frombuffer(mapped, np.uint8, math.prod(shape), meta["start"]).reshape(shape)
        # In this thread: a process that ends soon after pyarrow's threads have read a buffer is aborted now and then.
        return Contents(meta, pq.ParquetFile(pa.BufferReader(index)).read(use_threads=False), images)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException):
        return None


def test_lists_of(contents: Contents) -> dict[str, Mask]:
    """Named parts of the test images, (N,) each."""
    names = [name for name in contents.index.column_names if name.startswith(_LIST)]
    return {name.removeprefix(_LIST): contents.index[name].to_numpy() for name in names}


def verify(entry: Path) -> list[int]:
    """Numbers of the blocks of images whose pixels are not those that were decoded; reads all of them.

    Block b has the images b * n ... (b + 1) * n - 1 of the entry, with n = `images_per_block` of meta.json. Raises
    ValueError where there is no entry to verify.
    """
    try:
        meta = json.loads((entry / META).read_text(encoding="utf-8"))
        found = block_checksums(
            read_checksums(entry / PIXELS, tuple(meta["shape"]), start=meta["start"]), meta["images_per_block"]
        )
        wanted = list(meta["blocks"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{entry}: no whole entry of the cache: {error}") from None
    return [number for number, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]]


def install(folder: Path, entry: Path) -> None:
    """A finished folder takes the place of a missing or damaged entry. Whoever calls holds the entry's lock."""
    discard(entry)
    folder.rename(entry)
    atomic.sync(entry.parent)


def discard(entry: Path) -> None:
    """Removes an entry at once: whoever has it open keeps what he sees. Raises OSError."""
    aside = entry.with_name(f"{entry.name}.previous")
    shutil.rmtree(aside, ignore_errors=True)
    if entry.exists():
        entry.rename(aside)
        shutil.rmtree(aside)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()

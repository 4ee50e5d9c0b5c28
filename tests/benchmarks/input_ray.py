"""A pass over a gallery by Ray Data beside torch's DataLoader: part of tests/benchmarks/input.py.

Ways that all bring (n, 224, 224, 3) uint8 to the driver: paths decoded in one fused map, the cache read in a map, and
`ray.data.read_images` with a map behind it. Their cost is a difference of two sizes, so that starting processes does
not count; photographs repeat where there are fewer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch.utils.data import Subset

from raydml.config import FolderConfig
from raydml.data.building import decode_block
from raydml.data.decoding import Pixels
from raydml.data.folder import list_folder
from raydml.data.host_crops import centre_rows
from raydml.data.listing import Listing
from raydml.data.opening import open_images
from raydml.session import connected, import_ray
from tests.benchmarks.input_cases import BATCH, CACHED, SIZE, Gallery, centres, config_of, loader, tree_seconds

_SIZES = (500, 2000)
Columns = dict[str, Any]


def decoded(columns: Columns, listing: Listing) -> Columns:
    """The fused map."""
    places = columns["id"] % len(listing.places)
    return {"image": centres(decode_block(listing, CACHED, places).pixels)}


@cache
def opened(config: FolderConfig) -> Pixels:
    """The cache of the node, once in a process: an actor's CPU time would be gone with it when it is counted."""
    return open_images(config, with_test=True).images


def cached_rows(columns: Columns, config: FolderConfig) -> Columns:
    """A map over the cache."""
    images = opened(config)
    return {"image": centre_rows(images, columns["id"] % len(images), SIZE)}


def resized(columns: Columns) -> Columns:
    """The map behind `read_images`."""
    images = (Image.fromarray(image) for image in columns["image"])
    fitted = [np.asarray(ImageOps.fit(image, (CACHED, CACHED), Image.Resampling.BILINEAR)) for image in images]
    return {"image": centres(np.stack(fitted))}


def consumed(dataset: Any, count: int) -> None:  # noqa: ANN401
    """All of it, on the driver."""
    seen = 0
    for batch in dataset.iter_batches(batch_size=BATCH, batch_format="numpy"):
        assert batch["image"].shape[1:] == (SIZE, SIZE, 3)
        seen += len(batch["image"])
    assert seen == count


def ways(root: Path, cache_folder: Path) -> dict[str, Callable[[int], None]]:
    """Passes over so many images."""
    import ray.data

    cores = os.cpu_count() or 1
    config, paths = config_of(root, cache_folder), sorted(map(str, root.rglob("*.jpg")))
    listing = list_folder(config)
    open_images(config)

    def by_torch(count: int) -> None:
        for batch in loader(Subset(Gallery(listing), [n % len(paths) for n in range(count)]), cores):
            assert batch.shape[1:] == (SIZE, SIZE, 3)

    def fused(count: int) -> None:
        rows = ray.data.range(count, override_num_blocks=4 * cores)
        consumed(rows.map_batches(partial(decoded, listing=listing), batch_size=BATCH), count)

    def cached(count: int) -> None:
        rows = ray.data.range(count, override_num_blocks=4 * cores)
        consumed(rows.map_batches(partial(cached_rows, config=config), batch_size=BATCH), count)

    def read_images(count: int) -> None:
        files = [paths[n % len(paths)] for n in range(count)]
        consumed(ray.data.read_images(files, mode="RGB").map_batches(resized, batch_size=BATCH), count)

    return {"DataLoader": by_torch, "fused": fused, "cached": cached, "read_images": read_images}


def marginal_ms(run: Callable[[int], None]) -> float:
    """CPU milliseconds of all processes for one more image."""
    seconds = []
    for count in _SIZES:
        start = tree_seconds()
        run(count)
        seconds.append(tree_seconds() - start)
    return 1e3 * (seconds[1] - seconds[0]) / (_SIZES[1] - _SIZES[0])


def passes(root: Path, cache_folder: Path, rounds: int) -> Iterator[tuple[str, str, str, str, str]]:
    """R1, row by row."""
    import_ray()
    with connected(verbose=False):
        runs = ways(root, cache_folder)
        for run in runs.values():
            run(_SIZES[0])
        times = [{name: marginal_ms(run) for name, run in runs.items()} for _ in range(rounds)]
    cost = {name: median(of_round[name] for of_round in times) for name in runs}
    torchs, fused = cost["DataLoader"], cost["fused"]
    anchor = f"{torchs:.2f} DataLoader"
    yield ("R1 Ray Data, one map, CPU ms an image", f"{fused:.2f}", anchor, f"{fused / torchs:.2f}", "<= 1.4")
    yield (
        "   from the cache",
        f"{cost['cached']:.2f}",
        f"{fused:.2f} one map",
        f"{fused / cost['cached']:.1f}",
        ">= 5",
    )
    yield ("   ray.data.read_images", f"{cost['read_images']:.2f}", anchor, f"{cost['read_images'] / torchs:.2f}", "")

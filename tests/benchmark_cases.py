"""The benchmarks in every layout, for tests of all of them: how a copy is made, and a configuration that takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from raydml.config import parse
from raydml.data.catalog import list_photos
from raydml.data.copies import BenchmarkConfig
from raydml.data.listing import Listing
from tests import image_trees
from tests.image_trees import Drawn


class Make(Protocol):
    """Makes a tree below a folder and says what it drew."""

    def __call__(self, root: Path, /) -> dict[str, Drawn]: ...


class Layout(NamedTuple):
    """One way in which a benchmark circulates."""

    kind: str
    make: Make
    train: tuple[int, ...]
    """Class ids that train, in the miniature tree."""
    test: tuple[int, ...]


_CUB = (tuple(range(1, 9)), tuple(range(101, 107)))
_CARS = (tuple(range(1, 9)), tuple(range(99, 105)))
_INSHOP = (tuple(image_trees.INSHOP_TRAIN), tuple(image_trees.INSHOP_TEST))
LAYOUTS: Mapping[str, Layout] = {
    "cub200": Layout("cub200", image_trees.make_cub200, *_CUB),
    "cub200, folders": Layout("cub200", lambda root: image_trees.make_cub200(root, lists=False), *_CUB),
    "cars196 A": Layout("cars196", lambda root: image_trees.make_cars196(root, "A"), *_CARS),
    "cars196 B": Layout("cars196", lambda root: image_trees.make_cars196(root, "B"), *_CARS),
    "cars196 C": Layout("cars196", lambda root: image_trees.make_cars196(root, "C"), *_CARS),
    "sop": Layout("sop", image_trees.make_sop, (*range(1, 9), 11317, 11318), tuple(range(11319, 11325))),
    "inshop": Layout("inshop", lambda root: image_trees.make_inshop(root, img_folder="img"), *_INSHOP),
    "inshop, Img": Layout("inshop", lambda root: image_trees.make_inshop(root, img_folder="Img/img"), *_INSHOP),
    "vehicleid": Layout("vehicleid", image_trees.make_vehicleid, tuple(range(2, 20, 2)), (1, 3, 5, 7, 9, 11, 13)),
}


def benchmark_config(kind: str, root: Path | str, **fields: object) -> BenchmarkConfig:
    """Small images, two folds, a part of the published set."""
    raw = {"kind": kind, "root": str(root), "counts": "any", "image_size": 32, "input_size": 32, "num_folds": 2}
    data = parse({"data": raw | fields}).data
    assert isinstance(data, BenchmarkConfig)
    return data


def listed(kind: str, root: Path | str, **fields: object) -> Listing:
    """The listing of `benchmark_config`."""
    return list_photos(benchmark_config(kind, root, **fields))

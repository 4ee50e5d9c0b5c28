"""Indexes of faiss beside exact counting: time to build and to evaluate, what they find, and what they take.

    python -m tests.benchmarks.indexes [60502x512 200000x128 ...] [--engines ivf hnsw]

Rows are those of `tests.benchmarks.metrics`, cut to D. Each engine measures recall@{1, 10, 100}, MAP@R and R-precision
of every image among all others, in a process of its own, one after the other. `extra` is the peak resident size of that
process over the size before: the index, and the lists of a block of queries. `found` is the share of the ten true
neighbours that are in the first ten, on 1,000 queries; MAP@R stands beside that of `rank`, which is exact.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from raydml.config import Wanted
from raydml.metrics import Engine, query_metrics
from raydml.neighbors import Kind, build_index, found_shares
from tests.benchmarks.metrics_cases import of_size

ENGINES = ("rank", "flat", "ivf", "ivf_pq", "hnsw")
_WANTED = Wanted(recall_at=(1, 10, 100))
_SHAPES = ("60502x512", "200000x128")
_SAMPLE = 1000


class Cost(NamedTuple):
    """Of one engine."""

    engine: str
    build_s: float
    search_s: float
    found: float
    map_at_r: float
    extra_bytes: int


def rows_of(num_images: int, dim: int) -> tuple[Tensor, Tensor]:
    """Unit rows and labels."""
    rows, labels, *_ = of_size(num_images)
    return torch.nn.functional.normalize(rows[:, :dim].clone(), dim=1), labels


def cost_of(engine: str, folder: Path) -> Cost:
    """Runs one engine in this process, on rows that another one made: what that took is not in the peak."""
    rows, labels = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("rows", "labels"))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here
    before = _resident_bytes("VmRSS")
    start = time.perf_counter()
    index = None if engine == "rank" else build_index(rows, cast("Kind", engine))
    built = time.perf_counter()
    metrics = query_metrics(rows, labels, wanted=_WANTED, engine=index or cast("Engine", engine)).means()
    done, peak = time.perf_counter(), _resident_bytes("VmHWM")
    sample = torch.arange(0, len(rows), -(-len(rows) // _SAMPLE))
    found = 1.0 if index is None else float(found_shares(index, rows[sample], [10], exclude=sample)[10].mean())
    name = engine if index is None else index.plan.described()
    return Cost(name, built - start, done - built, found, metrics["map@r"], peak - before)


def _resident_bytes(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition(f"{name}:")[2].split()[0])


def table_of(num_images: int, dim: int, costs: Sequence[Cost]) -> Table:
    """A row for each engine."""
    table = Table(title=f"{num_images:,} x {dim}, {torch.get_num_threads()} threads, wall time")
    for heading in ("engine", "build s", "evaluate s", "found", "MAP@R", "extra MB"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for cost in costs:
        times = (f"{cost.build_s:.1f}", f"{cost.search_s:.1f}")
        table.add_row(cost.engine, *times, f"{cost.found:.3f}", f"{cost.map_at_r:.4f}", f"{cost.extra_bytes / 1e6:.0f}")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=_SHAPES)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    options = parser.parse_args(argv)
    for shape in options.shapes:
        num_images, dim = map(int, shape.split("x"))
        with TemporaryDirectory() as folder:
            for name, array in zip(("rows", "labels"), rows_of(num_images, dim), strict=True):
                np.save(Path(folder) / f"{name}.npy", array.numpy())
            costs = [_alone(engine, Path(folder)) for engine in options.engines]
        Console().print(table_of(num_images, dim, costs))


def _alone(engine: str, folder: Path) -> Cost:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(cost_of, engine, folder).result()


if __name__ == "__main__":
    main()

"""A large gallery counted in shards: `python -m tests.benchmarks.shards [--gallery 1000000] [--queries 10000]`.

Rows of 128 numbers, ten of a class, are written to Parquet block by block and counted by actors of one CPU each.
Nothing is told unless one process finds the same numbers, to the last bit. Peak memory is what the kernel noted of each
actor (VmHWM: all its pages, those of shared libraries and of the object store too); CPU time is the actors' own.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from raydml.config import Resources, Wanted
from raydml.embedding_files import Rows, as_column
from raydml.per_query import QueryMetrics
from raydml.retrieval import protocol_metrics, protocol_of_roles
from raydml.session import connected
from raydml.sharded import count_sharded
from raydml.shards import read_columns
from raydml.splits import Indices
from raydml.stored import open_stored, read_rows

_DIM, _PER_CLASS = 128, 10
_FILE_ROWS, _GROUP_ROWS = 100_000, 25_000
_WANTED = Wanted(recall_at=(1, 10, 100, 1000))
# What is extrapolated to: rows, and machines' cores that hold a part of them each.
_LARGE_ROWS, _LARGE_ACTORS = 100_000_000, 128
_STORE_BYTES_PER_S = 50e6


def write_gallery(folder: Path, num_gallery: int, num_queries: int) -> None:
    """Files of at most 100,000 rows: the queries, then the gallery. Centres of classes, and noise."""
    rng = np.random.default_rng(0)
    num_classes = max(1, num_gallery // _PER_CLASS)
    centres = rng.standard_normal((num_classes, _DIM), dtype=np.float32)
    number = 0
    for role, total in (("query", num_queries), ("gallery", num_gallery)):
        for start in range(0, total, _FILE_ROWS):
            count = min(_FILE_ROWS, total - start)
            labels = rng.integers(num_classes, size=count)
            rows = centres[labels] + 1.6 * rng.standard_normal((count, _DIM), dtype=np.float32)
            write_block(folder / f"part-{number:06d}.parquet", rows, labels, role)
            number += 1


def write_block(path: Path, rows: Rows, labels: Indices, role: str) -> None:
    """One file of `raydml.embed`'s kind."""
    columns = {"label": labels, "embedding": as_column(rows), "role": pa.array([role] * len(rows))}
    pq.write_table(pa.table(columns), path, row_group_size=_GROUP_ROWS, use_dictionary=["role"])


@dataclass
class Seen:
    """What was seen of the actors, by process."""

    peak_bytes: dict[int, int] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        """At every actor that is alive."""
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):
                if "ShardActor" in " ".join(child.cmdline()):
                    status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
                    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
                    times = child.cpu_times()
                    self.peak_bytes[child.pid] = 1024 * int(line.split()[1])
                    self.cpu_s[child.pid] = times.user + times.system


@contextmanager
def watched() -> Iterator[Seen]:
    """Looks at the actors four times a second."""
    seen, over = Seen(), threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            seen.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def product_rate() -> float:
    """Products of two numbers a second of one core: tiles of one block of queries and some of the gallery."""
    a, b = torch.randn(512, _DIM), torch.randn(8160, _DIM)
    out = torch.empty(512, 8160)
    torch.mm(a, b.T, out=out)
    start, rounds = time.process_time(), 0
    while time.process_time() - start < 2.0:
        torch.mm(a, b.T, out=out)
        rounds += 1
    return rounds * 512 * 8160 * _DIM / (time.process_time() - start)


class Result(NamedTuple):
    """One count in shards."""

    found: QueryMetrics
    wall_s: float
    seen: Seen


def in_shards(folder: Path, num_shards: int) -> Result:
    """From the first look at the files to the metrics, the start of Ray left out."""
    with connected(), watched() as seen:
        start = time.monotonic()
        stored = open_stored(folder)
        resources = Resources(cpus_per_worker=1.0, gpus_per_worker=0)
        found = count_sharded(stored, read_columns(stored), _WANTED, num_shards, resources)
        return Result(found, time.monotonic() - start, seen)


def in_one_process(folder: Path) -> tuple[QueryMetrics, float]:
    """The same by what `raydml.evaluate` does without shards, and its CPU seconds."""
    start = time.process_time()
    stored = open_stored(folder)
    columns = read_columns(stored)
    rows = read_rows(stored, np.arange(stored.num_rows))
    found = protocol_metrics(protocol_of_roles(columns.roles, "rows"), rows, columns.labels, wanted=_WANTED)
    return found, time.process_time() - start


def require_equal(found: QueryMetrics, expected: QueryMetrics) -> None:
    """Raises ValueError where a query has another number."""
    for name, values in expected.values.items():
        if not torch.equal(found.values[name], values):
            raise ValueError(
                f"{name}: shards find another value for {int((found.values[name] != values).sum())} queries"
            )


def table_of(result: Result, num_gallery: int, num_queries: int, rate: float, one_process_s: float) -> Table:
    """What was measured."""
    product_s = num_gallery * num_queries * _DIM / rate
    table = Table(title=f"{num_queries:,} queries in {num_gallery:,} x {_DIM}, float32", show_header=False)
    cpu_s = sum(result.seen.cpu_s.values())
    rows = {
        "wall seconds": f"{result.wall_s:.1f}",
        "CPU seconds of the actors": f"{cpu_s:.1f} ({', '.join(f'{s:.1f}' for s in result.seen.cpu_s.values())})",
        "CPU seconds of one process": f"{one_process_s:.1f}",
        "CPU seconds of the bare product": f"{product_s:.1f} ({rate / 1e9:.1f} billion products a second and core)",
        "actors / bare product": f"{cpu_s / product_s:.2f}",
        "peak memory of an actor": ", ".join(f"{b / 1e9:.2f} GB" for b in result.seen.peak_bytes.values()),
        **{name: f"{value:.4f}" for name, value in result.found.means().items() if value <= 1},
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def extrapolation(result: Result, num_gallery: int, num_queries: int) -> Iterator[str]:
    """Lines: 100 million rows on 128 cores, each with its shard, by what an actor did here."""
    shard = _LARGE_ROWS // _LARGE_ACTORS
    actor_rate = num_gallery * num_queries * _DIM / sum(result.seen.cpu_s.values())
    products = _LARGE_ROWS * num_queries * _DIM
    row_bytes = 4 * _DIM + 16
    fixed = max(result.seen.peak_bytes.values()) - row_bytes * num_gallery / len(result.seen.peak_bytes)
    counting_s, reading_s = products / actor_rate / _LARGE_ACTORS, 4 * _DIM * shard / _STORE_BYTES_PER_S
    yield f"{_LARGE_ROWS:,} x {_DIM} on {_LARGE_ACTORS} actors of one core, {num_queries:,} queries:"
    yield f"  bytes     {_LARGE_ROWS:,} x {4 * _DIM} = {4 * _DIM * _LARGE_ROWS / 1e9:.1f} GB of rows"
    yield (
        f"  an actor  {shard:,} rows x {row_bytes} B + {fixed / 1e9:.2f} GB (measured here) "
        f"= {(shard * row_bytes + fixed) / 1e9:.2f} GB"
    )
    yield f"  products  {_LARGE_ROWS:,} x {num_queries:,} x {_DIM} = {products:.2e}"
    yield (
        f"  counting  {products:.2e} / ({_LARGE_ACTORS} x {actor_rate / 1e9:.1f} billion a second, all costs of an "
        f"actor here) = {counting_s:.0f} s"
    )
    yield (
        f"  reading   {4 * _DIM * shard / 1e9:.2f} GB / {_STORE_BYTES_PER_S / 1e6:.0f} MB a second (assumed) "
        f"= {reading_s:.0f} s"
    )
    yield f"  queries   {num_queries * 4 * _DIM / 1e6:.1f} MB to each machine, 12 bytes a positive back"
    yield f"  together  {counting_s + reading_s:.0f} s, and the start of the actors"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and the extrapolation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        write_gallery(Path(folder), options.gallery, options.queries)
        rate = product_rate()
        result = in_shards(Path(folder), options.shards)
        expected, one_process_s = in_one_process(Path(folder))
    require_equal(result.found, expected)
    console.print(table_of(result, options.gallery, options.queries, rate, one_process_s))
    for line in extrapolation(result, options.gallery, options.queries):
        console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()

"""Time and memory of retrieval metrics as ratios, side by side in one run: `python -m tests.benchmarks.metrics`.

    python -m tests.benchmarks.metrics [SHAPE ...] [--rounds 5]     time; shapes: 10k 20k sop cub inshop
    python -m tests.benchmarks.metrics --memory sop                 memory: one process a method
    python -m tests.benchmarks.metrics --growth 5000 10000 ...      time against N, ours beside the product

Rules: one thread, process CPU time, competitors interleaved after a warm-up, the median of the rounds, and a ratio to
an anchor of the same run. Equality first: nothing is timed unless all agree on the numbers. Memory is the peak resident
size over that of a process that only makes the data; the peak of making them hides a part of what comes after.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tests.benchmarks.measuring import in_turns
from tests.benchmarks.metrics_cases import COMPETITORS, NOTHING, OURS, PRODUCT, SHAPES, Data, Metrics, of_size

_TOLERANCE = 1e-6
_MEBIBYTE = 2**20


def require_agreement(results: dict[str, Metrics]) -> None:
    """Raises ValueError where a competitor's number is not ours."""
    for name, metrics in results.items():
        for metric, value in metrics.items():
            if abs(value - results[OURS][metric]) > _TOLERANCE:
                raise ValueError(f"{metric}: {name} finds {value}, but raydml {results[OURS][metric]}")


def cpu_seconds(data: Data, names: Sequence[str], *, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, interleaved."""
    require_agreement({name: COMPETITORS[name](data) for name in names})
    actions = [partial(COMPETITORS[name], data) for name in names]
    return dict(zip(names, in_turns(actions, rounds), strict=True))


def table_of(data: Data, seconds: dict[str, float], *, rounds: int) -> Table:
    """A row for each competitor: over the product, and over ours."""
    sizes = " x ".join(f"{len(rows):,}" for rows in (data.query, data.gallery))
    classes = f"D = {data.query.shape[1]}, {data.num_classes:,} classes"
    table = Table(title=f"{sizes}, {classes}, one thread, CPU time, median of {rounds}")
    for heading in ("", "seconds", "/ bare product", "/ raydml"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, measured in seconds.items():
        ratios = (measured / seconds[PRODUCT], measured / seconds[OURS])
        table.add_row(name, f"{measured:.2f}", *(f"{ratio:.2f}" for ratio in ratios))
    return table


def peak_mebibytes(shape: str, name: str) -> float:
    """Peak resident size of a process that makes the data and then does one thing."""
    command = [sys.executable, "-m", "tests.benchmarks.metrics", shape, "--alone", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory_table(shape: str) -> Table:
    """Extra memory of each method."""
    before = peak_mebibytes(shape, NOTHING)
    table = Table(title=f"{shape}: peak resident size over {before:,.0f} MiB, which making the data takes")
    table.add_column("")
    table.add_column("MiB", justify="right")
    for name in COMPETITORS:
        table.add_row(name, f"{peak_mebibytes(shape, name) - before:,.0f}")
    return table


def growth_table(sizes: Sequence[int], *, rounds: int) -> Table:
    """Cost against N."""
    table = Table(title=f"cost against N, D = 512, one thread, CPU time, median of {rounds}")
    for heading in ("N", "bare product s", "raydml s", "ratio", "raydml ns a pair"):
        table.add_column(heading, justify="right")
    for size in sizes:
        seconds = cpu_seconds(of_size(size), (PRODUCT, OURS), rounds=rounds)
        product, ours = seconds[PRODUCT], seconds[OURS]
        cells = (f"{product:.2f}", f"{ours:.2f}", f"{ours / product:.2f}", f"{ours / size**2 * 1e9:.2f}")
        table.add_row(f"{size:,}", *cells)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", default=["10k", "20k"], help=", ".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(COMPETITORS), default=list(COMPETITORS))
    parser.add_argument("--memory", choices=list(SHAPES))
    parser.add_argument("--growth", nargs="+", type=int)
    parser.add_argument("--alone", choices=[NOTHING, *COMPETITORS], help="one method, once; prints its peak")
    options = parser.parse_args(argv)
    if unknown := set(options.shapes) - set(SHAPES):
        parser.error(f"shapes must be of {', '.join(SHAPES)}, but got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if options.alone:
            data = SHAPES[options.shapes[0]]()
            if options.alone != NOTHING:
                COMPETITORS[options.alone](data)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MEBIBYTE)
        elif options.memory:
            Console(width=120).print(memory_table(options.memory))
        elif options.growth:
            Console(width=120).print(growth_table(options.growth, rounds=options.rounds))
        else:
            names = [name for name in COMPETITORS if name in {PRODUCT, OURS, *options.only}]
            for shape in options.shapes:
                data = SHAPES[shape]()
                seconds = cpu_seconds(data, names, rounds=options.rounds)
                Console(width=120).print(table_of(data, seconds, rounds=options.rounds))


if __name__ == "__main__":
    main()

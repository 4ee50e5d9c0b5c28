"""Two workers against one on two cores, same global batch: images a second, and the share of time in communication.

    python -m tests.benchmarks.communication [--rounds 3]

Four ways to train the same batches take turns: one worker with one thread, one with two, two workers with one thread
each (gloo), and two strangers: two processes that train half a batch each, at the same time, and exchange nothing.

Two shares of a step of two workers:
- lost: by how much it is longer than the strangers' step. Waiting for each other and the loss of the whole batch, which
  every worker computes, are in it; what is sent while the backward pass goes on is not.
- on the way: time in which at least one collective is under way, as torch.profiler records gloo's, waiting for the
  other worker included. It is an upper bound: a part of it hides behind the backward pass.

Wall time: a quiet machine only.
"""

from __future__ import annotations

import argparse
import multiprocessing.synchronize
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from raydml.config import parse
from raydml.data.batches import Batch
from raydml.distributed import rank, share, world_size
from raydml.epoch import TrainingState, new_state, train_epoch
from raydml.objective import DataShape

_CPU = torch.device("cpu")
_SIZES = tuple(4 ** np.arange(8, 14))
"""Bytes of an all-reduce: 64 kB to 64 MB."""
_OTHERS = ("resnet18", "resnet34", "vit_small_patch16_224", "resnet50", "vit_base_patch16_224")


@dataclass(frozen=True)
class Case:
    """One model, and how many images of what size train it."""

    backbone: str
    batch_norm: str
    image_size: int
    batch_size: int
    steps: int
    """Of a round."""

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.backbone}, {self.batch_size} x {self.image_size}^2, BatchNorm {self.batch_norm}"


CASES = (
    Case("test_resnet", "synchronised", 32, 128, 12),
    Case("test_resnet", "frozen", 32, 128, 12),
    Case("resnet50", "frozen", 64, 32, 3),
)


@dataclass(frozen=True)
class Times:
    """Seconds of a step in each round, and what is sent."""

    one_thread: Sequence[float]
    two_threads: Sequence[float]
    two_workers: Sequence[float]
    strangers: Sequence[float]
    on_the_way: float
    """Share of a step of two workers."""
    gradient_bytes: int


def make_state(case: Case) -> TrainingState:
    """Before its first step; data-parallel where there is a process group."""
    config = parse(
        {
            "model": {"backbone": case.backbone, "embedding_dim": 64, "batch_norm": case.batch_norm},
            "data": {"kind": "glyphs", "batch_size": case.batch_size, "samples_per_class": 4},
            "training": {"num_epochs": 1000},
        }
    )
    shape = DataShape(num_classes=50, in_channels=3, image_size=case.image_size, mean=(0.5,) * 3, std=(0.25,) * 3)
    return new_state(config, shape, steps_per_epoch=case.steps, device=_CPU)


def batches_of(case: Case, rows: slice, num_global: int) -> list[Batch]:
    """The same global batches for everybody: these rows of them."""
    generator = torch.Generator().manual_seed(0)
    pixels = (case.batch_size, 3, case.image_size, case.image_size)
    found = []
    for step in range(case.steps):
        images = torch.randint(0, 256, pixels, generator=generator, dtype=torch.uint8)
        labels = (torch.arange(case.batch_size) // 4 + step) % 50
        mine = torch.arange(case.batch_size)[rows]
        found.append(Batch(images[rows], labels[rows], mine, num_global=num_global))
    return found


def step_seconds(state: TrainingState, batches: Sequence[Batch]) -> float:
    """Wall time of one step of several."""
    started = time.perf_counter()
    train_epoch(state, batches, device=_CPU)
    return (time.perf_counter() - started) / len(batches)


def union_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what the spans (start, end) cover together."""
    covered, reached = 0.0, -np.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return float(covered)


def _on_the_way(state: TrainingState, batches: Sequence[Batch]) -> float:
    """Share of the time in which a collective is under way, of one profiled round."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        started = time.perf_counter()
        train_epoch(state, batches, device=_CPU)
        seconds = time.perf_counter() - started
    events = recorded.events() or ()
    spans = [(e.time_range.start, e.time_range.end) for e in events if e.name.startswith("gloo:")]
    assert spans, "gloo's collectives have other names now"
    return union_seconds(spans) * 1e-6 / seconds


class _Rank:
    """One of the two processes: knows what it does in each of the four ways."""

    def __init__(self, place: int, case: Case, folder: Path, together: Callable[[], object]) -> None:
        self._place, self._case, self._folder, self._together = place, case, folder, together
        self._state = make_state(case)
        self._groups = 0
        everything = slice(0, case.batch_size)
        self._whole = batches_of(case, everything, case.batch_size)
        mine = share(case.batch_size, place, 2)
        self._half, self._shared = (batches_of(case, mine, n) for n in (case.batch_size // 2, case.batch_size))

    def alone(self, threads: int) -> float:
        """The first process trains, the second waits."""
        if self._place > 0:
            self._together()
            return 0.0
        torch.set_num_threads(threads)
        seconds = step_seconds(self._state, self._whole)
        torch.set_num_threads(1)
        self._together()
        return seconds

    def strangers(self) -> float:
        """Both train, neither knows."""
        self._together()
        seconds = step_seconds(self._state, self._half)
        self._together()
        return seconds

    def workers(self, *, profiled: bool = False) -> float:
        """Both train, data-parallel; the first steps warm up."""
        self._groups += 1
        store = f"file://{self._folder / f'{self._case.name}-{self._groups}'.replace(' ', '')}"
        dist.init_process_group("gloo", init_method=store, rank=self._place, world_size=2)
        assert (rank(), world_size()) == (self._place, 2)
        state = make_state(self._case)
        train_epoch(state, self._shared[:2], device=_CPU)
        dist.barrier()
        found = _on_the_way(state, self._shared) if profiled else step_seconds(state, self._shared)
        del state
        dist.destroy_process_group()
        self._together()
        return found

    def times(self, rounds: int) -> Times:
        """In turns, so that a change of the machine's speed meets all; the first round warms up."""
        rows = [(self.alone(1), self.alone(2), self.workers(), self.strangers()) for _ in range(rounds + 1)]
        one, two, workers, strangers = zip(*rows[1:], strict=True)
        size = sum(p.numel() * p.element_size() for p in self._state.objective.parameters() if p.requires_grad)
        return Times(one, two, workers, strangers, self.workers(profiled=True), size)


def all_reduce_seconds(place: int, folder: Path) -> list[float]:
    """Median seconds of an all-reduce of each size over two processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'sizes'}", rank=place, world_size=2)
    found = []
    for size in _SIZES:
        values, times = torch.ones(int(size) // 4), []
        for _ in range(9):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(values)
            times.append(time.perf_counter() - started)
        found.append(median(times))
    dist.destroy_process_group()
    return found


def _serve(
    place: int, cases: Sequence[Case], rounds: int, folder: Path, barrier: multiprocessing.synchronize.Barrier
) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes lines of every start and stop
    times = [_Rank(place, case, folder, barrier.wait).times(rounds) for case in cases]
    reduced = all_reduce_seconds(place, folder)
    torch.save({"times": [vars(t) for t in times], "reduced": reduced}, folder / f"{place}.pt")


def measure(cases: Sequence[Case], rounds: int) -> tuple[list[list[Times]], list[float]]:
    """Times of every case on both processes, and seconds of an all-reduce by size."""
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        arguments = (cases, rounds, Path(name), context.Barrier(2))
        torch.multiprocessing.spawn(_serve, args=arguments, nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
        found = [torch.load(Path(name) / f"{place}.pt") for place in range(2)]
    return [[Times(**t) for t in of_one["times"]] for of_one in found], found[0]["reduced"]


def throughput_table(cases: Sequence[Case], times: Sequence[Sequence[Times]], rounds: int) -> Table:
    """One line a case; medians of rounds."""
    table = Table(title=f"two workers against one, same global batch, medians of {rounds} rounds", width=150)
    table.add_column("model")
    for heading in ("1 worker\n1 thread\nimages/s", "1 worker\n2 threads\nimages/s", "2 workers\n1 thread\nimages/s"):
        table.add_column(heading, justify="right")
    for heading in ("over\n1 thread", "over\n2 threads", "gradients\nMB", "lost", "on the way"):
        table.add_column(heading, justify="right")
    for case, first, second in zip(cases, *times, strict=True):
        one, two, workers = (median(x) for x in (first.one_thread, first.two_threads, first.two_workers))
        strangers = median(max(x) for x in zip(first.strangers, second.strangers, strict=True))
        table.add_row(
            case.name,
            *(f"{case.batch_size / x:.1f}" for x in (one, two, workers)),
            f"{one / workers:.2f}",
            f"{two / workers:.2f}",
            f"{first.gradient_bytes / 1e6:.2f}",
            f"{1 - strangers / workers:.0%}",
            f"{(first.on_the_way + second.on_the_way) / 2:.0%}",
        )
    return table


@cache
def num_parameters(backbone: str) -> int:
    """Of a network as timm has it, without its classifier."""
    import timm

    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(backbone, num_classes=0).parameters())


def model_sizes_table(reduced: Sequence[float]) -> Table:
    """What an all-reduce of a network's gradients takes, and how long a step must be to bear it."""
    table = Table(title="all-reduce of all gradients over gloo, two processes on this machine", width=150)
    for heading in ("network", "parameters M", "MB", "ms", "GB/s", "share of a step of 0.1 s", "of 1 s", "of 10 s"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for backbone in _OTHERS:
        size = 4 * num_parameters(backbone)
        # Beyond the largest one measured, in proportion.
        seconds = float(np.interp(size, _SIZES, reduced)) * max(1.0, size / float(_SIZES[-1]))
        shares = (f"{seconds / (seconds + compute):.1%}" for compute in (0.1, 1.0, 10.0))
        speed = size / seconds / 1e9
        table.add_row(
            backbone, f"{size / 4e6:.1f}", f"{size / 1e6:.0f}", f"{1000 * seconds:.0f}", f"{speed:.2f}", *shares
        )
    return table


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    times, reduced = measure(CASES, rounds)
    console = Console(width=160)
    console.print(throughput_table(CASES, times, rounds))
    console.print(model_sizes_table(reduced))
    for size, seconds in zip(_SIZES, reduced, strict=True):
        print(f"  all-reduce of {size / 1e6:8.3f} MB: {1000 * seconds:8.2f} ms, {size / seconds / 1e9:.2f} GB/s")


if __name__ == "__main__":
    main()

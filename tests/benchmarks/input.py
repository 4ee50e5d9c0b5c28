"""What images cost on their way to the network: goals D1, D2 and R1 of specs/performance.md, and waiting for data.

    python -m tests.benchmarks.input [--images 600] [--rounds 5] [--without-ray]

Synthetic JPEGs of 500 x 375, the file cache warm. In turns, medians. D1: process CPU time, one thread. D2: wall time of
whole epochs in batches of 64, torch's DataLoader with a worker for each core beside our threads; both end at uint8.
R1: CPU time of the whole process tree for a pass over a gallery (tests/benchmarks/input_ray.py). Waiting: share of a
training epoch, at 64 pixels on one torch thread, that its loop spends in asking for the next batch. Asserts nothing
about time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from raydml.config import parse
from raydml.data.batches import Batch, class_balanced_batches, num_steps, training_batches
from raydml.data.opening import open_images
from raydml.data.pixels import PixelSource
from raydml.data.subsets import trainval_subset
from raydml.epoch import new_state, train_epoch
from raydml.model_training import data_shape, input_size
from tests.benchmarks.input_cases import (
    BATCH,
    SIZE,
    Files,
    Ours,
    config_of,
    loader,
    tree_seconds,
    write_photos,
)
from tests.benchmarks.measuring import Action, in_turns

Row = tuple[str, str, str, str, str]


def wall_and_cpu(action: Action) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of all processes."""
    cpu, start = tree_seconds(), time.perf_counter()
    action()
    return time.perf_counter() - start, tree_seconds() - cpu


def one_image(root: Path, cache: Path, rounds: int) -> Row:
    """D1: a batch of ours beside as many images by PIL; CPU time of one thread."""
    paths = sorted(root.rglob("*.jpg"))
    files, ours = Files(paths), Ours(config_of(root, cache), threads=0)

    def by_pil() -> None:
        for place in range(len(paths)):
            files[place].numpy()

    theirs, mine = in_turns([by_pil, ours.run], rounds)
    rate, anchor = ours.count / mine, len(paths) / theirs
    return ("D1 training image, img/s/core", f"{rate:.0f}", f"{anchor:.0f} PIL", f"{rate / anchor:.1f}", ">= 8")


def whole_loader(root: Path, cache: Path, rounds: int) -> list[Row]:
    """D2: epochs of the whole loader by the clock, and what they take of all cores."""
    cores = os.cpu_count() or 1
    ours = Ours(config_of(root, cache), threads=cores)
    torchs = loader(Files(sorted(root.rglob("*.jpg"))), cores)

    def epoch_of_torch() -> None:
        for _ in torchs:
            pass

    for action in (ours.run, epoch_of_torch):
        action()
    times = [(wall_and_cpu(epoch_of_torch), wall_and_cpu(ours.run)) for _ in range(rounds)]
    wall = [ours.count / median(side[which][0] for side in times) for which in (0, 1)]
    cpu = [1e3 / ours.count * median(side[which][1] for side in times) for which in (0, 1)]
    name = f"DataLoader, {cores} workers"
    return [
        ("D2 loader, img/s, wall", f"{wall[1]:.0f}", f"{wall[0]:.0f} {name}", f"{wall[1] / wall[0]:.1f}", ">= 5"),
        ("   CPU s per 1000 images", f"{cpu[1]:.2f}", f"{cpu[0]:.2f} {name}", f"{cpu[0] / cpu[1]:.1f}", ""),
    ]


@dataclass
class Waited:
    """Batches, and the time that their consumer waited for them."""

    batches: Iterable[Batch]
    seconds: float = 0.0

    def __iter__(self) -> Iterator[Batch]:
        source = iter(self.batches)
        while True:
            start = time.perf_counter()
            batch = next(source, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def waiting(root: Path, cache: Path, backbone: str, threads: int, epochs: int = 2) -> Row:
    """Share of training that is spent in asking for the next batch; the first epoch warms up."""
    data = config_of(root, cache, size=64).model_copy(update={"batch_size": BATCH, "prefetch_threads": threads})
    config = parse({"data": data.model_dump(), "model": {"backbone": backbone, "embedding_dim": 64}})
    images = open_images(config.data)
    train = trainval_subset(images, config.data)
    device = torch.device("cpu")
    steps = num_steps(len(train.index), BATCH)
    state = new_state(config, data_shape(config, images, train), steps_per_epoch=steps, device=device)
    source = PixelSource(images.images, train.index, device=device, input_size=input_size(config, images))
    shares = []
    for epoch in range(epochs + 1):
        rows = class_balanced_batches(
            train.labels, batch_size=BATCH, samples_per_class=4, num_steps=steps, seed=0, epoch=epoch
        )
        options = {"augment": config.data.augment, "seed": 0, "epoch": epoch, "rank": 0, "world_size": 1}
        waited = Waited(training_batches(source, train.labels, rows, threads=threads, **options))  # type: ignore[arg-type]
        start = time.perf_counter()
        train_epoch(state, waited, device=device)
        shares.append(100 * waited.seconds / (time.perf_counter() - start))
    goal = "<= 5 %" if threads else ""
    return (f"waiting, {backbone} at 64 px", f"{median(shares[1:]):.1f} %", f"prefetch_threads={threads}", "", goal)


def opening(root: Path, cache: Path) -> Row:
    """The first open decodes, the second must not."""
    config = config_of(root, cache, size=192)
    first, second = (wall_and_cpu(partial(open_images, config))[0] for _ in range(2))
    return ("second open, s, wall", f"{second:.3f}", f"{first:.2f} first", f"{first / second:.0f}", "< 1 s")


def measured(root: Path, cache: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Row after row."""
    yield opening(root, cache)
    yield one_image(root, cache, options.rounds)
    yield from whole_loader(root, cache, options.rounds)
    for backbone in ("test_resnet", "resnet10t"):
        for threads in (0, 1):
            yield waiting(root, cache, backbone, threads)
    if not options.without_ray:
        from tests.benchmarks.input_ray import passes

        yield from passes(root, cache, options.rounds)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-ray", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root, cache = Path(name) / "photos", Path(name) / "cache"
        kilobytes = write_photos(root, options.images)
        title = f"{options.images} JPEGs of 500 x 375, {kilobytes:.0f} KB mean; crops of {SIZE}; {os.cpu_count()} cores"
        table = Table(title=title)
        for heading in ("what", "ours", "beside", "ratio", "goal"):
            table.add_column(heading, justify="left" if heading in ("what", "beside") else "right")
        for row in measured(root, cache, options):
            table.add_row(*row)
        Console(width=120).print(table)


if __name__ == "__main__":
    main()

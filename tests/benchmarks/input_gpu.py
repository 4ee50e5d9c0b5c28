"""Whether a GPU waits for images: goal G1 of specs/performance.md.

    python -m tests.benchmarks.input_gpu [--steps 30]

ResNet-50 at 224 pixels, bfloat16, batches of 256: whole training steps from batches that are drawn, taken from the
resident cache and cropped on the device, beside steps on one batch that is there already, cropped. Times of device
events, in turns, medians. Prints "no GPU" where there is none; asserts nothing about time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import repeat
from statistics import median

import numpy as np
import torch
from rich.console import Console

from raydml.config import AugmentConfig, parse
from raydml.data.batches import Batch, class_balanced_batches, training_batches
from raydml.data.pixels import PixelSource
from raydml.epoch import TrainingState, new_state, train_epoch
from raydml.objective import DataShape, network_input

_IMAGES, _CLASSES, _CACHED, _SIZE, _BATCH = 4096, 128, 256, 224, 256
_ROUNDS = 5
_AUGMENT = AugmentConfig(smallest_crop=0.16, flip=0.5)


def images_a_second(state: TrainingState, batches: Iterable[Batch], steps: int, device: torch.device) -> float:
    """Of an epoch of so many steps, by the clock of the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    train_epoch(state, batches, device=device)
    end.record()
    torch.cuda.synchronize(device)
    rate: float = 1e3 * steps * _BATCH / start.elapsed_time(end)
    return rate


def real_batches(source: PixelSource, epoch: int, steps: int, threads: int) -> Iterator[Batch]:
    """As a training draws and takes them."""
    labels = np.repeat(np.arange(_CLASSES, dtype=np.int64), _IMAGES // _CLASSES)
    rows = class_balanced_batches(labels, batch_size=_BATCH, samples_per_class=4, num_steps=steps, seed=0, epoch=epoch)
    return training_batches(
        source, labels, rows, augment=_AUGMENT, seed=0, epoch=epoch, rank=0, world_size=1, threads=threads
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    console = Console(width=120)
    if not torch.cuda.is_available():
        console.print("no GPU")
        return
    device = torch.device("cuda")
    config = parse(
        {
            "data": {"kind": "glyphs", "batch_size": _BATCH, "samples_per_class": 4},
            "model": {"backbone": "resnet50", "embedding_dim": 128},
            "training": {"precision": "bfloat16"},
        }
    )
    shape = DataShape(_CLASSES, 3, _SIZE, (0.5,) * 3, (0.25,) * 3)
    state = new_state(config, shape, steps_per_epoch=steps, device=device)
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, _CACHED, _CACHED, 3), dtype=np.uint8)
    source = PixelSource(pixels, np.arange(_IMAGES), device=device, input_size=_SIZE)
    drawn = next(iter(real_batches(source, 0, 1, 0)))
    fixed = Batch(network_input(drawn.images, drawn.crops, _SIZE), drawn.labels, drawn.index)
    rates: list[tuple[float, float]] = []
    for number in range(_ROUNDS + 1):
        real = images_a_second(state, real_batches(source, number, steps, 1), steps, device)
        rates.append((real, images_a_second(state, repeat(fixed, steps), steps, device)))
    real, anchor = (median(column) for column in zip(*rates[1:], strict=True))
    console.print(f"G1 ResNet-50 at {_SIZE}, batch {_BATCH}: {real:.0f} img/s, fixed batch {anchor:.0f} img/s")
    console.print(f"   ratio {real / anchor:.3f} (goal: >= .95), {torch.cuda.get_device_name(device)}")


if __name__ == "__main__":
    main()

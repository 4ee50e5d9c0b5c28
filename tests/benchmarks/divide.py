"""What dividing costs: `python -m tests.benchmarks.divide`.

1. k-means on rows of one machine beside faiss on the same rows, both from one thread: CPU time and inertia.
2. The share of a training's time that clustering anew takes, at ResNet-50's proportions: seconds of an image forward,
   of an image of a training step, and of k-means on features of a data set's shape, measured one by one, then put
   together for a period of `recluster_epochs` epochs. Convolutions and k-means have different costs on a GPU; the
   arithmetic is printed so that others can put in their own numbers.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable
from statistics import fmean

import faiss
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from raydml.config import DivideConfig, parse
from raydml.kmeans import Shard, kmeans
from raydml.objective import DataShape, StepContext, build_objective
from tests.benchmarks.measuring import cpu_seconds

_SHAPES = ((20_000, 512, 4), (20_000, 512, 8), (20_000, 512, 16), (10_000, 2048, 8))
_SEEDS = 5
# Stanford Online Products: training images, features of ResNet-50, learners of the publication.
_NUM_IMAGES, _NUM_FEATURES, _NUM_LEARNERS = 59_551, 2048, 8
_PROBE_IMAGES = 8


def features(num_rows: int, num_features: int, *, seed: int) -> Tensor:
    """Unit rows around forty centres that overlap, as those of classes do."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(40, num_features, generator=generator)
    which = torch.randint(40, (num_rows,), generator=generator)
    rows = centres[which] + 1.5 * torch.randn(num_rows, num_features, generator=generator)
    return nn.functional.normalize(rows, dim=1)


def of_faiss(rows: Tensor, num_clusters: int, *, seed: int) -> float:
    """Inertia after as many iterations as ours may take, without faiss's sampling of rows."""
    found = faiss.Kmeans(rows.shape[1], num_clusters, niter=100, max_points_per_centroid=len(rows), seed=seed)
    found.train(rows.numpy())
    squared, _ = found.index.search(rows.numpy(), 1)
    return float(squared.sum(dtype="float64"))


def ours(rows: Tensor, num_clusters: int, *, seed: int) -> float:
    """Inertia."""
    return kmeans(Shard.whole(rows), num_clusters, seed=seed).inertia


def measured(function: Callable[..., float], shape: tuple[int, int, int]) -> tuple[float, float]:
    """CPU seconds and inertia, means over data sets and seeds."""
    num_rows, num_features, num_clusters = shape
    seconds, inertia = [], []
    for seed in range(_SEEDS):
        rows = features(num_rows, num_features, seed=seed)
        start = time.process_time()
        inertia.append(function(rows, num_clusters, seed=seed))
        seconds.append(time.process_time() - start)
    return fmean(seconds), fmean(inertia)


def compare(console: Console) -> None:
    """Ours beside faiss."""
    table = Table(title=f"k-means, means over {_SEEDS} data sets and seeds, one thread")
    for heading in ("rows", "features", "clusters", "ours s", "faiss s", "time ratio", "inertia ratio"):
        table.add_column(heading, justify="right")
    for shape in _SHAPES:
        (our_s, our_inertia), (faiss_s, faiss_inertia) = measured(ours, shape), measured(of_faiss, shape)
        cells = (f"{our_s:.2f}", f"{faiss_s:.2f}", f"{our_s / faiss_s:.2f}", f"{our_inertia / faiss_inertia:.4f}")
        table.add_row(*map(str, shape), *cells)
    console.print(table)


def seconds_per_image() -> tuple[float, float]:
    """One image of 224 pixels through ResNet-50: forward alone, and a whole training step."""
    config = parse({"model": {"backbone": "resnet50", "embedding_dim": 128, "batch_norm": "frozen"}})
    shape = DataShape(num_classes=100, in_channels=3, image_size=224, mean=(0.5,) * 3, std=(0.25,) * 3)
    objective = build_objective(config, shape)
    images, labels = torch.rand(_PROBE_IMAGES, 3, 224, 224), torch.arange(_PROBE_IMAGES) // 2
    context = StepContext(seed=0, epoch=0, step=0)

    @torch.no_grad()
    def forward() -> None:
        objective.model.unit_features(images)

    def step() -> None:
        objective(images, labels, context=context).value.backward()

    for action in (forward, step):
        action()
    return cpu_seconds(forward, 3) / _PROBE_IMAGES, cpu_seconds(step, 3) / _PROBE_IMAGES


def share_of_training(console: Console) -> None:
    """Time of clustering anew over the time of training in its period, with the shipped settings."""
    forward, step = seconds_per_image()
    rows = features(_NUM_IMAGES // 4, _NUM_FEATURES, seed=0)
    clustering = 4 * cpu_seconds(lambda: kmeans(Shard.whole(rows), _NUM_LEARNERS, seed=0))
    period = DivideConfig().recluster_epochs
    table = Table(title=f"ResNet-50 at 224 pixels, {_NUM_IMAGES} images, {_NUM_LEARNERS} learners, one thread")
    table.add_column("part")
    table.add_column("seconds", justify="right")
    embedding, training = forward * _NUM_IMAGES, step * _NUM_IMAGES
    for part, seconds in (
        (f"features of {_NUM_IMAGES} images ({forward:.4f} s each)", embedding),
        (f"k-means on {_NUM_IMAGES} x {_NUM_FEATURES}, four times a quarter of the rows", clustering),
        (f"training on {_NUM_IMAGES} images ({step:.4f} s each)", training),
    ):
        table.add_row(part, f"{seconds:.1f}")
    console.print(table)
    for epochs in (period, 2 * period, 4 * period):
        share = (embedding + clustering) / (epochs * training)
        console.print(
            f"every {epochs} epochs: ({embedding:.0f} + {clustering:.0f}) / ({epochs} x {training:.0f}) = {share:.1%} "
            f"of the training; k-means alone {clustering / (epochs * training):.2%}",
            highlight=False,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    compare(Console(width=140))
    share_of_training(Console(width=140))

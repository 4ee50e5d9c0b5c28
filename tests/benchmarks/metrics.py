"""Time of retrieval metrics as ratios, side by side in one run: `python -m tests.benchmarks.metrics [N ...]`.

Rules: one thread, process CPU time, competitors interleaved after a warm-up, the median of the rounds, and a ratio to
an anchor of the same run. Equality first: nothing is timed unless all agree on the numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import faiss
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from raydml.metrics import retrieval_metrics

_DIM = 512
_RECALL_AT = (1, 10, 100, 1000)
_DEPTH = 1000
_TOLERANCE = 1e-6
# The tiles of the anchor: a product into one buffer, and nothing else.
_TILE_ROWS, _TILE_COLUMNS = 512, 8160

Metrics = dict[str, float]
Competitor = Callable[[Tensor, Tensor], Metrics]


def synthetic(num_images: int) -> tuple[Tensor, Tensor]:
    """Unit rows of about five images a class: centres in 48 dimensions, rotated into 512, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    num_classes = round(num_images * 3740 / 20_000)
    labels = torch.arange(num_images) % num_classes
    labels = labels[torch.randperm(num_images, generator=generator)]
    centres = torch.randn(num_classes, 48, generator=generator)
    rows = centres[labels] + torch.randn(num_images, 48, generator=generator)
    rotation = torch.linalg.qr(torch.randn(_DIM, 48, generator=generator)).Q
    rows = rows @ rotation.T + 0.02 * torch.randn(num_images, _DIM, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), labels


def bare_product(rows: Tensor, labels: Tensor) -> Metrics:
    """The whole N x N product in tiles: what no exact method without symmetry can avoid."""
    del labels
    buffer = torch.empty(_TILE_ROWS, _TILE_COLUMNS)
    for low in range(0, len(rows), _TILE_ROWS):
        for left in range(0, len(rows), _TILE_COLUMNS):
            a, b = rows[low : low + _TILE_ROWS], rows[left : left + _TILE_COLUMNS]
            torch.mm(a, b.T, out=buffer.view(-1)[: len(a) * len(b)].view(len(a), len(b)))
    return {}


def ours(rows: Tensor, labels: Tensor) -> Metrics:
    """All recalls, MAP@R and R-precision, checks included."""
    return retrieval_metrics(rows, labels, recall_at=_RECALL_AT)


def faiss_lists(rows: Tensor, labels: Tensor) -> Metrics:
    """The same metrics from lists of 1000 neighbours."""
    index = faiss.IndexFlatIP(_DIM)
    index.add(rows.numpy())
    _, found = index.search(rows.numpy(), _DEPTH + 1)
    neighbours = torch.from_numpy(found)
    # Itself is not always first where images are equal: dropped by identity.
    itself = neighbours == torch.arange(len(rows))[:, None]
    itself[:, -1] |= ~itself.any(1)
    relevant = labels[neighbours[~itself].view(-1, _DEPTH)] == labels[:, None]
    num_positives = (labels.bincount() - 1)[labels]
    relevant, num_positives = relevant[num_positives > 0], num_positives[num_positives > 0, None]
    place = torch.arange(1, _DEPTH + 1)
    within = relevant & (place <= num_positives)
    precision = torch.where(within, relevant.cumsum(1) / place, 0.0)
    return {
        **{f"recall@{k}": float(relevant[:, :k].any(1).double().mean()) for k in _RECALL_AT},
        "map@r": float((precision.sum(1) / num_positives[:, 0]).double().mean()),
        "r_precision": float((within.sum(1) / num_positives[:, 0]).double().mean()),
    }


def metric_learning(k: int | str) -> Competitor:
    """pytorch-metric-learning with k neighbours: precision at 1, MAP@R and R-precision only."""
    names = {
        "precision_at_1": "recall@1",
        "mean_average_precision_at_r": "map@r",
        "r_precision": "r_precision",
    }

    def measure(rows: Tensor, labels: Tensor) -> Metrics:
        calculator = AccuracyCalculator(include=tuple(names), k=k, device=torch.device("cpu"))
        found = calculator.get_accuracy(rows, labels)
        return {ours: float(found[theirs]) for theirs, ours in names.items()}

    return measure


COMPETITORS: dict[str, Competitor] = {
    "bare product": bare_product,
    "raydml": ours,
    f"faiss, k={_DEPTH}": faiss_lists,
    "pytorch-metric-learning, k=max_bin_count": metric_learning("max_bin_count"),
    f"pytorch-metric-learning, k={_DEPTH}": metric_learning(_DEPTH),
}


def require_agreement(results: dict[str, Metrics]) -> None:
    """Raises ValueError where a competitor's number is not ours."""
    for name, metrics in results.items():
        for metric, value in metrics.items():
            if abs(value - results["raydml"][metric]) > _TOLERANCE:
                raise ValueError(f"{metric}: {name} finds {value}, but raydml {results['raydml'][metric]}")


def cpu_seconds(rows: Tensor, labels: Tensor, *, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, interleaved."""
    require_agreement({name: competitor(rows, labels) for name, competitor in COMPETITORS.items()})
    times: dict[str, list[float]] = {name: [] for name in COMPETITORS}
    for _ in range(rounds):
        for name, competitor in COMPETITORS.items():
            before = time.process_time()
            competitor(rows, labels)
            times[name].append(time.process_time() - before)
    return {name: statistics.median(measured) for name, measured in times.items()}


def table_of(num_images: int, seconds: dict[str, float], *, rounds: int) -> Table:
    """A row for each competitor: over the product (E1: ours <= 0.85), and over ours (E2: faiss >= 2, PML >= 3)."""
    table = Table(title=f"N = {num_images:,}, D = {_DIM}, one thread, CPU time, median of {rounds}")
    for heading in ("", "seconds", "/ bare product", "/ raydml"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, measured in seconds.items():
        ratios = (measured / seconds["bare product"], measured / seconds["raydml"])
        table.add_row(name, f"{measured:.2f}", *(f"{ratio:.2f}" for ratio in ratios))
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_images", nargs="*", type=int, default=[10_000, 20_000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for num_images in options.num_images:
            seconds = cpu_seconds(*synthetic(num_images), rounds=options.rounds)
            Console().print(table_of(num_images, seconds, rounds=options.rounds))


if __name__ == "__main__":
    main()

"""Retrieval metrics on a GPU: seconds, and the share of the measured rate of products.

    python -m tests.benchmarks.metrics_gpu [SHAPE]

The rate is that of a float32 product of 4096 rows with as many, tf32 off, timed between two synchronisations after a
warm-up. Metrics need at least half of the products of all rows with all; the share counts those, so that time spent on
anything else lowers it. The numbers must be those of the CPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from tests.benchmarks.metrics_cases import SHAPES, Data, ours

_ROUNDS = 5
_SIZE = 4096
_PRODUCTS = 50
_TOLERANCE = 1e-6


def seconds_of(action: Callable[[], object]) -> float:
    """Median wall time of an action that ends on the device."""
    times = []
    for _ in range(_ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[1:])  # the first warms up


def product_rate(dim: int, device: torch.device) -> float:
    """Floating-point operations a second of a large float32 product."""
    rows, out = torch.randn(_SIZE, dim, device=device), torch.empty(_SIZE, _SIZE, device=device)

    def products() -> None:
        for _ in range(_PRODUCTS):
            torch.mm(rows, rows.T, out=out)

    return _PRODUCTS * 2 * _SIZE * _SIZE * dim / seconds_of(products)


def main() -> None:
    """Prints one line; raises ValueError where the numbers are not those of the CPU."""
    torch.set_float32_matmul_precision("highest")
    device = torch.device("cuda")
    shape = sys.argv[1] if len(sys.argv) > 1 else "sop"
    data = SHAPES[shape]()
    query, gallery = data.query.to(device), data.gallery.to(device)
    there = Data(
        query,
        data.query_labels.to(device),
        query if data.is_one_set else gallery,
        data.gallery_labels.to(device),
        data.num_classes,
    )
    for (name, found), expected in zip(ours(there).items(), ours(data).values(), strict=True):
        if abs(found - expected) > _TOLERANCE:
            raise ValueError(f"{name}: {found} on the GPU, but {expected} on the CPU")
    seconds, rate = seconds_of(lambda: ours(there)), product_rate(query.shape[1], device)
    least = 2 * len(query) * len(gallery) * query.shape[1] * (0.5 if data.is_one_set else 1.0)
    print(
        f"{shape}: {seconds:.3f} s, {least / seconds / rate:.1%} of {rate / 1e12:.1f} TFLOP/s, the rate of the product"
    )


if __name__ == "__main__":
    main()

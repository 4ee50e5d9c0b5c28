"""What metrics of whole sets cost, in products of all rows with all: `python -m tests.benchmarks.clusters [N ...]`.

One thread, process CPU time, in turns after a warm-up, medians; the anchor is the bare N x N product of the same run.
Equality first: NMI and F1 of the clusters are those of scikit-learn. K1: NMI at 60,502 rows and 11,316 clusters costs
at most 1.3 products, k-means included. Silhouettes compare rows with classes in float64, twice as dear as float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from raydml.metrics import ami, cluster_metrics, distance_metrics, nmi, pairwise_f1, silhouettes, spectral_decay
from raydml.neighbors import clusters
from tests.benchmarks.measuring import in_turns
from tests.benchmarks.metrics_cases import bare_product, one_set

_PRODUCT = "bare product"


def require_agreement(labels: Tensor, assigned: Tensor) -> None:
    """Raises ValueError where scores of clusters are not those of scikit-learn."""
    (_, found), (missed, both) = pair_confusion_matrix(labels, assigned).tolist()
    theirs = {
        "nmi": normalized_mutual_info_score(labels, assigned),
        "f1": 2 * both / (2 * both + found + missed),
    }
    ours = {"nmi": nmi(labels, assigned), "f1": pairwise_f1(labels, assigned)}
    for name, value in theirs.items():
        if abs(ours[name] - value) > 1e-9:
            raise ValueError(f"{name}: scikit-learn finds {value}, but raydml {ours[name]}")


def actions(num_images: int, *, with_ami: bool) -> tuple[dict[str, Callable[[], object]], str]:
    """What is timed, by name, and the scores of the clusters in a line."""
    count = round(num_images * 11_316 / 60_502)
    data = one_set(num_images, count)
    rows, labels = data.query, data.query_labels
    assigned = clusters(rows, count)
    require_agreement(labels, assigned)

    def of_clusters(iterations: int) -> Callable[[], object]:
        return lambda: cluster_metrics(rows, labels, names=("nmi",), num_clusters=count, iterations=iterations)

    found: dict[str, Callable[[], object]] = {
        _PRODUCT: lambda: bare_product(data),
        "NMI, at most 10 iterations (K1)": of_clusters(10),
        "NMI, 3 iterations": of_clusters(3),
        "NMI of given clusters": lambda: nmi(labels, assigned),
        "F1 of given clusters": lambda: pairwise_f1(labels, assigned),
        **({"AMI of given clusters": lambda: ami(labels, assigned)} if with_ami else {}),
        "distances": lambda: distance_metrics(rows, labels),
        "spectral decay": lambda: spectral_decay(rows),
        "silhouettes": lambda: silhouettes(rows, labels),
    }
    scores = {k: nmi(labels, clusters(rows, count, iterations=k)) for k in (1, 3, 20)}
    line = ", ".join(f"{value:.4f} after {k}" for k, value in scores.items())
    return found, f"{count:,} clusters; NMI {nmi(labels, assigned):.4f}; {line} iterations"


def table_of(num_images: int, *, rounds: int, with_ami: bool) -> Table:
    """A line for each metric: CPU seconds, and how many products of all rows with all that is."""
    found, line = actions(num_images, with_ami=with_ami)
    seconds = dict(zip(found, in_turns(list(found.values()), rounds), strict=True))
    table = Table(title=f"N = {num_images:,}, D = 512, one thread, CPU time, median of {rounds}", caption=line)
    for heading in ("", "seconds", f"/ {_PRODUCT}"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.2f}", f"{value / seconds[_PRODUCT]:.3f}")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_images", nargs="*", type=int, default=[5_000, 20_000, 60_502])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ami", action="store_true", help="AMI as well: it grows with the square of the clusters")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for num_images in options.num_images:
            Console().print(table_of(num_images, rounds=options.rounds, with_ami=options.ami))


if __name__ == "__main__":
    main()

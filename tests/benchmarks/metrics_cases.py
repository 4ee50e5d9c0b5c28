"""The shapes of published data sets, and who computes retrieval metrics of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import faiss
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor

from raydml.metrics import retrieval_metrics

_DIM = 512
_RECALL_AT = (1, 10, 100, 1000)
_DEPTH = 1000
# The tiles of the anchor: a product into one buffer, and nothing else.
_TILE_ROWS, _TILE_COLUMNS = 512, 8160
# Queries whose lists are turned into metrics at a time.
_AT_A_TIME = 4096

Metrics = dict[str, float]
PRODUCT, OURS, NOTHING = "bare product", "raydml", "nothing"


class Data(NamedTuple):
    """Queries and a gallery; the gallery is the queries where it is the same tensor."""

    query: Tensor
    query_labels: Tensor
    gallery: Tensor
    gallery_labels: Tensor
    num_classes: int

    @property
    def is_one_set(self) -> bool:
        """Whether every query is a row of the gallery."""
        return self.gallery is self.query


def synthetic(num_images: int, num_classes: int, *, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Unit rows: centres of classes in 48 dimensions, a spread around them, rotated into 512, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_images) % num_classes
    labels = labels[torch.randperm(num_images, generator=generator)]
    centres = torch.randn(num_classes, 48, generator=generator)
    rows = centres[labels] + spread * torch.randn(num_images, 48, generator=generator)
    rotation = torch.linalg.qr(torch.randn(_DIM, 48, generator=generator)).Q
    rows = rows @ rotation.T + 0.02 * torch.randn(num_images, _DIM, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), labels


def one_set(num_images: int, num_classes: int, spread: float = 1.0) -> Data:
    """Every image against all others."""
    rows, labels = synthetic(num_images, num_classes, spread=spread)
    return Data(rows, labels, rows, labels, num_classes)


def of_size(num_images: int) -> Data:
    """About five images a class."""
    return one_set(num_images, round(num_images * 3740 / 20_000))


def two_sets(num_queries: int, num_gallery: int, num_classes: int, spread: float) -> Data:
    """Queries and a gallery with the same classes."""
    rows, labels = synthetic(num_queries + num_gallery, num_classes, spread=spread)
    return Data(rows[:num_queries], labels[:num_queries], rows[num_queries:], labels[num_queries:], num_classes)


SHAPES: dict[str, Callable[[], Data]] = {
    "10k": lambda: of_size(10_000),
    "20k": lambda: of_size(20_000),
    "sop": lambda: one_set(60_502, 11_316),
    "cub": lambda: one_set(5_924, 100, 1.5),
    "inshop": lambda: two_sets(14_218, 12_612, 3_985, 0.9),
}


def bare_product(data: Data) -> Metrics:
    """The whole product in tiles: what no exact method without symmetry can avoid."""
    buffer = torch.empty(_TILE_ROWS, _TILE_COLUMNS)
    for query in data.query.split(_TILE_ROWS):
        for gallery in data.gallery.split(_TILE_COLUMNS):
            out = buffer.view(-1)[: len(query) * len(gallery)].view(len(query), len(gallery))
            torch.mm(query, gallery.T, out=out)
    return {}


def ours(data: Data) -> Metrics:
    """All recalls, MAP@R and R-precision, checks included."""
    gallery = () if data.is_one_set else (data.gallery, data.gallery_labels)
    return retrieval_metrics(data.query, data.query_labels, *gallery, recall_at=_RECALL_AT)


def faiss_lists(data: Data) -> Metrics:
    """The same metrics from lists of 1000 neighbours."""
    index = faiss.IndexFlatIP(_DIM)
    index.add(data.gallery.numpy())
    sizes = torch.bincount(data.gallery_labels, minlength=data.num_classes)
    totals = dict.fromkeys((*(f"recall@{k}" for k in _RECALL_AT), "map@r", "r_precision"), 0.0)
    num_queries = 0
    for rows in torch.arange(len(data.query)).split(_AT_A_TIME):
        found = torch.from_numpy(index.search(data.query[rows].numpy(), _DEPTH + int(data.is_one_set))[1])
        if data.is_one_set:
            # Itself is not always first where images are equal: dropped by identity.
            itself = found == rows[:, None]
            itself[:, -1] |= ~itself.any(1)
            found = found[~itself].view(-1, _DEPTH)
        num_positives = sizes[data.query_labels[rows]] - int(data.is_one_set)
        relevant = (data.gallery_labels[found] == data.query_labels[rows, None])[num_positives > 0]
        num_queries += len(relevant)
        for name, value in _of_lists(relevant, num_positives[num_positives > 0]).items():
            totals[name] += value
    return {name: total / num_queries for name, total in totals.items()}


def _of_lists(relevant: Tensor, num_positives: Tensor) -> Metrics:
    """Sums over queries."""
    place = torch.arange(1, _DEPTH + 1)
    within = relevant & (place <= num_positives[:, None])
    precision = torch.where(within, relevant.cumsum(1) / place, 0.0)
    return {
        **{f"recall@{k}": float(relevant[:, :k].any(1).double().sum()) for k in _RECALL_AT},
        "map@r": float((precision.sum(1) / num_positives).double().sum()),
        "r_precision": float((within.sum(1) / num_positives).double().sum()),
    }


def metric_learning(k: int | str) -> Callable[[Data], Metrics]:
    """pytorch-metric-learning with k neighbours: precision at 1, MAP@R and R-precision only."""
    names = {
        "precision_at_1": "recall@1",
        "mean_average_precision_at_r": "map@r",
        "r_precision": "r_precision",
    }

    def measure(data: Data) -> Metrics:
        calculator = AccuracyCalculator(include=tuple(names), k=k, device=torch.device("cpu"))
        gallery = () if data.is_one_set else (data.gallery, data.gallery_labels)
        found = calculator.get_accuracy(data.query, data.query_labels, *gallery)
        return {ours: float(found[theirs]) for theirs, ours in names.items()}

    return measure


COMPETITORS: dict[str, Callable[[Data], Metrics]] = {
    PRODUCT: bare_product,
    OURS: ours,
    f"faiss, k={_DEPTH}": faiss_lists,
    "pytorch-metric-learning, k=max_bin_count": metric_learning("max_bin_count"),
    f"pytorch-metric-learning, k={_DEPTH}": metric_learning(_DEPTH),
}

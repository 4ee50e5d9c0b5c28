"""How embeddings lie: distances within and between classes, spectral decay, silhouettes.

Distances are cosine distances, 1 - x.y of unit rows. The mean of 1 - x.y over a class is 1 - x.mean, so that nothing
here compares all rows with all: distances cost O(N D), silhouettes O(N C D), computed a block at a time in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from raydml.config.wanted import OF_GEOMETRY
from raydml.metrics.classes import Classes, checked_set, classes_of, unit_blocks
from raydml.metrics.inputs import Labels, Rows

# A distance below this is the rounding of float64 sums: equal rows have distance 0.
_ROUNDING = 1e-12
# Ratios to a distance between classes that is as good as none: the bound of Roth's code.
_SMALLEST_INTER = 1e-8


class Geometry(NamedTuple):
    """Metrics of a whole set; and where they are means of classes or rows, those."""

    metrics: dict[str, float]
    by_class: dict[str, dict[int, float]]
    """By name, then by label; a class that has no such number is left out."""
    by_row: dict[str, Tensor]
    """By name, (N,) float64."""


def geometry(rows: Rows, labels: Labels, *, names: Sequence[str] = OF_GEOMETRY) -> Geometry:
    """Of `distances`, `spectral_decay` and `silhouette` those that are named, of embeddings (N, D) with labels (N,).

    Raises ValueError for an unknown name, and as the functions below do.
    """
    unknown = [name for name in names if name not in OF_GEOMETRY]
    if unknown:
        raise ValueError(f"metrics of geometry are {', '.join(OF_GEOMETRY)}, but got {unknown[0]!r}")
    x, y = checked_set(rows, labels)
    found = Geometry({}, {}, {})
    classes = classes_of(x, y) if {"distances", "silhouette"} & {*names} else None
    if "distances" in names and classes is not None:
        intra = _intra(classes)
        found.metrics.update(_distances(classes, intra))
        found.by_class["intra_distance"] = _by_label(classes, intra)
    if "spectral_decay" in names:
        found.metrics["spectral_decay"] = spectral_decay(x)
    if "silhouette" in names and classes is not None:
        values = _silhouettes(x, classes)
        found.metrics["silhouette"] = float(values.mean())
        sums = torch.zeros_like(classes.sums[:, 0]).index_add_(0, classes.place, values)
        found.by_class["silhouette"] = _by_label(classes, sums / classes.sizes)
        found.by_row["silhouette"] = values
    return found


def distance_metrics(rows: Rows, labels: Labels) -> dict[str, float]:
    """`intra_distance`, `inter_distance` and `density`, their ratio, of embeddings (N, D) with labels (N,).

    pi_intra, pi_inter and pi_ratio of Roth et al. (2020, "Revisiting Training Strategies and Generalization Performance
    in Deep Metric Learning"), with the cosine distance of their code: the mean distance of the pairs of a class, as a
    mean over the classes that have one; the mean distance of the pairs of class centres, the centres scaled to unit
    length. All are in [0, 2] but the ratio. (For a class of one row their code takes the largest of the others.)

    Raises ValueError where no class has two rows, or all rows are of one class.
    """
    return geometry(rows, labels, names=("distances",)).metrics


def spectral_decay(rows: Rows) -> float:
    """rho of Roth et al. (2020): the KL divergence of the uniform distribution from the spectrum of singular values.

    Of the min(N, D) singular values of embeddings (N, D), not centred, scaled to sum 1: 0 where all directions are used
    alike. A singular value below the rounding of float32 counts as that, so that a dead direction has a finite
    price. Raises ValueError where all rows are zero.
    """
    x, _ = checked_set(rows)
    gram = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for _, unit in unit_blocks(x):
        gram.addmm_(unit.T, unit)
    values = torch.linalg.eigvalsh(gram).flip(0)[: min(x.shape)].clamp(min=0).sqrt()
    if float(values[0]) == 0.0:
        raise ValueError("embeddings must not all be zero")
    values = values.maximum(torch.finfo(torch.float32).eps * values[0])
    shares = values / values.sum()
    return max(0.0, -math.log(len(shares)) - float(shares.log().mean()))


def silhouettes(rows: Rows, labels: Labels) -> Tensor:
    """(N,) float64 in [-1, 1], the silhouette of each row (Rousseeuw 1987) among classes instead of clusters.

    (b - a) / max(a, b) with a the mean distance to the other rows of its class and b the smallest mean distance to the
    rows of another; 0 for a row that is alone, as scikit-learn has it, and where a = b = 0. Raises ValueError where all
    rows are of one class.
    """
    x, y = checked_set(rows, labels)
    return _silhouettes(x, classes_of(x, y))


def _intra(classes: Classes) -> Tensor:
    """(C,) mean distance of the ordered pairs of each class; NaN where it has none."""
    # |sum of the rows|^2 holds the products of all pairs, and those of the rows with themselves.
    products = classes.sums.square().sum(1) - classes.squares
    return (1 - products / (classes.sizes * (classes.sizes - 1))).clamp(min=0.0)


def _distances(classes: Classes, intra: Tensor) -> dict[str, float]:
    _require_two(classes)
    within = intra[classes.sizes > 1]
    if len(within) == 0:
        raise ValueError("distances within classes need a class of two rows, but every row is alone in its class")
    centres = torch.nn.functional.normalize(classes.sums, dim=1)
    count = len(centres)
    products = (centres.sum(0).square().sum() - centres.square().sum()) / (count * (count - 1))
    intra_distance, inter_distance = float(within.mean()), float((1 - products).clamp(min=0.0))
    return {
        "intra_distance": intra_distance,
        "inter_distance": inter_distance,
        "density": intra_distance / max(inter_distance, _SMALLEST_INTER),
    }


def _silhouettes(rows: Tensor, classes: Classes) -> Tensor:
    _require_two(classes)
    means, parts = classes.means, []
    for part, unit in unit_blocks(rows, len(means)):
        own = classes.place[part]
        size = classes.sizes[own]
        others = (unit * (classes.sums[own] - unit)).sum(1)
        within = 1 - others / (size - 1).clamp(min=1)
        similarity = unit @ means.T
        between = 1 - similarity.scatter_(1, own[:, None], -torch.inf).max(1).values
        a, b = (torch.where(distance < _ROUNDING, 0.0, distance) for distance in (within, between))
        value = (b - a) / a.maximum(b)
        parts.append(torch.where((size == 1) | (a.maximum(b) == 0), 0.0, value))
    return torch.cat(parts)


def _require_two(classes: Classes) -> None:
    if len(classes.labels) < 2:
        raise ValueError("distances between classes need two of them, but all rows are of one class")


def _by_label(classes: Classes, values: Tensor) -> dict[int, float]:
    pairs = zip(classes.labels.tolist(), values.tolist(), strict=True)
    return {label: value for label, value in pairs if not math.isnan(value)}

"""Counting one similarity at a time, and rows on which counting goes wrong where it can."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from raydml.counting import Negatives, Positives, Side
from raydml.counting.products import product

UNLIMITED = torch.iinfo(torch.int64).max


def slow_positives(query: Side, gallery: Side) -> list[list[float]]:
    """Of each query, falling."""
    found = []
    for own, q in zip(product(query.rows, gallery.rows).numpy(), range(len(query.labels)), strict=True):
        wanted = (gallery.labels == query.labels[q]).numpy()
        if query.groups is not None and gallery.groups is not None:
            wanted &= (gallery.groups != query.groups[q]).numpy()
        if query.identity is not None and gallery.identity is not None:
            wanted &= (gallery.identity != query.identity[q]).numpy()
        found.append(sorted(own[wanted].tolist(), reverse=True))
    return found


def slow_counts(query: Side, gallery: Side, positives: list[list[float]]) -> tuple[list[list[int]], list[bool]]:
    """Of each query: for each of its positives the negatives that are not smaller; whether one ties with the first."""
    counts, tied = [], []
    for q, (row, own) in enumerate(zip(product(query.rows, gallery.rows).numpy(), positives, strict=True)):
        negatives = row[(gallery.labels != query.labels[q]).numpy()]
        counts.append([int((negatives >= threshold).sum()) for threshold in own])
        tied.append(bool(own) and bool((negatives == own[0]).any()))
    return counts, tied


def require_counts(found: Negatives, expected: tuple[list[list[int]], list[bool]], limit: Tensor) -> None:
    """Raises AssertionError where what `Negatives` promises does not hold."""
    counts, tied = expected
    assert found.tied.tolist() == tied
    at_least = iter(found.at_least.tolist())
    for own, last in zip(counts, limit.tolist(), strict=True):
        for place, (exact, counted) in enumerate(zip(own, at_least, strict=False), start=1):
            if place == 1 or place + exact <= last:
                assert counted == exact
            else:
                assert last - place < counted <= exact
    assert next(at_least, None) is None


def split(found: Positives) -> list[list[float]]:
    """Similarities of each query."""
    bounds = found.offsets.tolist()
    values = found.similarity.tolist()
    return [values[low:high] for low, high in pairwise(bounds)]


def _noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(seed))


def _codes(count: int, seed: int) -> Tensor:
    return torch.randint(0, 2, (count, 5), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def _of_classes(rows: Tensor, num_classes: int, *, groups: int = 0) -> Side:
    generator = torch.Generator().manual_seed(len(rows))
    labels = torch.randint(0, num_classes, (len(rows),), generator=generator)
    drawn = torch.randint(0, max(1, groups), (len(rows),), generator=generator)
    return Side(rows, labels, torch.arange(len(rows)), drawn if groups else None)


# More rows of one class than a chunk has, and few of others: hits are placed one by one, or counted all together.
_HUGE = torch.cat([torch.zeros(330), torch.arange(1, 31)]).long()
CASES: dict[str, Callable[[], Side]] = {
    "classes of five": lambda: _of_classes(_noise(151, 0), 30),
    "two classes": lambda: _of_classes(_noise(151, 1), 2),
    "one huge class": lambda: Side(_noise(360, 2), _HUGE, torch.arange(360)),
    "codes of a huge class": lambda: Side(_codes(360, 11), _HUGE, torch.arange(360)),
    "one class": lambda: Side(_noise(60, 3), torch.zeros(60).long(), torch.arange(60)),
    "every class alone": lambda: Side(_noise(60, 4), torch.arange(60), torch.arange(60)),
    "integer codes": lambda: _of_classes(_codes(151, 5), 20),
    "duplicates": lambda: _of_classes(_noise(40, 6).repeat(3, 1), 15),
    "all rows equal": lambda: _of_classes(_noise(1, 7).repeat(107, 1), 9),
    "groups": lambda: _of_classes(_codes(151, 8), 12, groups=3),
    "float64": lambda: _of_classes(_noise(151, 9).double(), 12, groups=2),
    "two rows": lambda: Side(_noise(2, 10), torch.zeros(2).long(), torch.arange(2)),
}

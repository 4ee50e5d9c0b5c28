"""Class-disjoint splits as pure functions of labels: which classes train, validate and test.

The last classes test; the others are cut into contiguous folds, and the classes of one fold validate. No class is on
two sides, and fold sizes differ by at most one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class ClassSplit(NamedTuple):
    """Class ids on two sides of a split."""

    train: Indices
    held_out: Indices


def test_split(num_classes: int, test_fraction: float) -> ClassSplit:
    """Training classes (0 ... ) and test classes (the last `test_fraction` of them, rounded).

    Raises ValueError where a side would have fewer than two classes.
    """
    num_test = round(num_classes * test_fraction)
    if num_test < 2 or num_classes - num_test < 2:
        raise ValueError(
            "training and test need at least two classes each, "
            f"but got num_classes={num_classes}, test_fraction={test_fraction}"
        )
    ids = np.arange(num_classes, dtype=np.int64)
    return ClassSplit(ids[: num_classes - num_test], ids[num_classes - num_test :])


def fold_split(classes: Indices, num_folds: int, fold: int) -> ClassSplit:
    """Classes without one fold, and the classes of that fold.

    Raises ValueError where a fold would have fewer than two classes: one class is found by any embedding.
    """
    if not 0 <= fold < num_folds:
        raise ValueError(f"fold must be in 0 ... {num_folds - 1}, but got {fold}")
    if len(classes) < 2 * num_folds:
        raise ValueError(
            f"every fold needs at least two classes, but got {len(classes)} training classes for num_folds={num_folds}"
        )
    parts = np.array_split(classes, num_folds)
    rest = np.concatenate([part for index, part in enumerate(parts) if index != fold])
    return ClassSplit(rest, parts[fold])


def images_of(labels: Indices, classes: Indices) -> Indices:
    """Positions of the images whose label is among `classes`, in rising order."""
    return np.flatnonzero(np.isin(labels, classes)).astype(np.int64)


def require_disjoint(split: ClassSplit, names: Sequence[str]) -> None:
    """Raises ValueError naming the classes that are on both sides, by number or under the same name."""
    sides = ({names[number] for number in side} for side in split)
    common = sorted(set.intersection(*sides))
    if common:
        raise ValueError(f"overlapping classes between splits: {', '.join(common)}")

"""Splits by class: nothing lost, nothing on two sides, sizes even."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydml import splits

# A loaded machine must not fail a law.
untimed = settings(deadline=None)


@untimed
@given(st.integers(0, 400), st.floats(0.01, 0.99))
def test_test_classes_are_the_last_ones_in_the_share_asked_for(num_classes: int, fraction: float) -> None:
    num_test = round(num_classes * fraction)
    if num_test < 2 or num_classes - num_test < 2:
        with pytest.raises(ValueError, match=f"num_classes={num_classes}"):
            splits.test_split(num_classes, fraction)
        return
    split = splits.test_split(num_classes, fraction)
    assert [*split.train, *split.held_out] == list(range(num_classes))
    assert abs(len(split.held_out) - num_classes * fraction) <= 0.5


@untimed
@given(st.lists(st.integers(0, 1000), unique=True, max_size=60), st.integers(2, 9))
def test_folds_cut_the_classes_into_even_parts(classes: list[int], num_folds: int) -> None:
    ids = np.array(classes, dtype=np.int64)
    if len(ids) < 2 * num_folds:
        with pytest.raises(ValueError, match="at least two classes"):
            splits.fold_split(ids, num_folds, 0)
        return
    parts = [splits.fold_split(ids, num_folds, fold) for fold in range(num_folds)]
    held_out = [part.held_out for part in parts]
    assert np.concatenate(held_out).tolist() == classes
    assert max(map(len, held_out)) - min(map(len, held_out)) <= 1
    assert min(map(len, held_out)) >= 2
    for part in parts:
        assert not set(part.train) & set(part.held_out)
        assert set(part.train) | set(part.held_out) == set(classes)
        assert len(part.train) + len(part.held_out) == len(classes)


@pytest.mark.parametrize("fold", [-1, 4])
def test_a_fold_that_does_not_exist_is_refused(fold: int) -> None:
    with pytest.raises(ValueError, match=f"0 ... 3, but got {fold}"):
        splits.fold_split(np.arange(40), 4, fold)


def test_a_class_on_both_sides_of_a_split_is_named() -> None:
    names = ("cat", "dog", "owl", "cat", "emu")
    splits.require_disjoint(splits.ClassSplit(np.array([0, 1]), np.array([2, 4])), names)
    for train, held_out, common in (([0, 1], [1, 2], "dog"), ([0, 2], [3, 4], "cat"), ([1, 3, 2], [2, 0], "cat, owl")):
        with pytest.raises(ValueError, match=f"^overlapping classes between splits: {common}$"):
            splits.require_disjoint(splits.ClassSplit(np.array(train), np.array(held_out)), names)


@untimed
@given(st.lists(st.integers(0, 12), max_size=80), st.sets(st.integers(0, 12)))
def test_images_of_classes_are_all_of_theirs_in_order(labels: list[int], classes: set[int]) -> None:
    found = splits.images_of(np.array(labels, dtype=np.int64), np.array(sorted(classes), dtype=np.int64))
    assert found.tolist() == [position for position, label in enumerate(labels) if label in classes]
    assert found.dtype == np.int64

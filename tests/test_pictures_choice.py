"""Which queries are shown: both ends and the middle, of different classes, the same ones every time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raydml.pictures.choice import Kind, choose

LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
VALUES = np.array([0.9, 0.8, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


def chosen(values: np.ndarray, labels: np.ndarray, count: int) -> dict[Kind, list[int]]:
    return {kind: places.tolist() for kind, places in choose(values, labels, count).items()}


def test_both_ends_and_the_middle_each_class_once() -> None:
    assert chosen(VALUES, LABELS, 2) == {"best": [0, 2], "typical": [5, 6], "worst": [11, 9]}


def test_classes_come_again_where_there_are_too_few() -> None:
    assert chosen(VALUES, LABELS % 1, 3) == {"best": [0, 1, 2], "typical": [5, 6, 7], "worst": [11, 10, 9]}
    assert chosen(VALUES, LABELS % 2, 3)["best"] == [0, 1, 2], "one of each class, then the next best, in order"


def test_of_equal_values_the_first_ones_are_shown() -> None:
    equal = chosen(np.ones(12), LABELS, 2)
    assert equal == {"best": [0, 2], "typical": [7, 8], "worst": [1, 3]}


def test_queries_without_a_hit_are_the_worst() -> None:
    values = np.array([0.0, 0.5, 1.0, 0.0, 0.7, 0.2])
    assert chosen(values, np.arange(6), 2)["worst"] == [0, 3]


def test_few_queries_make_short_lists() -> None:
    assert chosen(VALUES[:1], LABELS[:1], 6) == {"best": [0], "typical": [], "worst": []}
    assert chosen(VALUES[:4], LABELS[:4], 6) == {"best": [0, 2], "typical": [], "worst": [3, 1]}


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 3)), min_size=1, max_size=30), st.data())
def test_no_query_is_shown_twice_and_kinds_are_in_order(rows: list[tuple[float, int]], data: st.DataObject) -> None:
    values, labels = (np.array(column) for column in zip(*rows, strict=True))
    count = data.draw(st.integers(1, 10))
    found = choose(values, labels, count)
    every = np.concatenate(list(found.values()))
    assert len(set(every.tolist())) == len(every)
    assert all(len(places) <= count for places in found.values())
    assert (np.diff(values[found["typical"]]) <= 0).all(), "from better to worse"
    rest = np.setdiff1d(np.arange(len(values)), every)
    if len(set(labels.tolist())) == 1 and len(rest):
        assert values[found["best"]].min() >= values[rest].max()
        assert values[found["worst"]].max() <= values[rest].min()

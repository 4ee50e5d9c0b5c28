"""Ranges and the distributions that follow from them: what can be drawn, stored and checked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydml.config import ConfigError, Distribution, ExperimentConfig, Range, distribution_of, dump
from raydml.config.grammar import validate


@pytest.mark.parametrize(
    ("path", "limits", "expected"),
    [
        ("loss.margin", {"low": 0, "high": 1}, Distribution("float", 0.0, 1.0)),
        ("loss.margin", {"low": 0, "high": 1, "step": 0.25}, Distribution("float", 0.0, 1.0, step=0.25)),
        ("optimizer.lr", {"low": 1e-4, "high": 1, "log": True}, Distribution("float", 1e-4, 1.0, log=True)),
        ("optimizer.clip_norm", {"low": 1, "high": 2}, Distribution("float", 1.0, 2.0)),
        ("model.embedding_dim", {"low": 8, "high": 64}, Distribution("int", 8, 64)),
        ("model.embedding_dim", {"low": 8, "high": 64, "log": True}, Distribution("int", 8, 64, log=True)),
        ("data.batch_size", {"low": 24, "high": 48, "step": 12}, Distribution("int", 24, 48, step=12)),
        ("training.steps_per_epoch", {"low": 5, "high": 9}, Distribution("int", 5, 9)),
        ("data.batch_size", {"choices": [24, 48]}, Distribution("ordered", high=1, choices=(24, 48))),
        ("loss.margin", {"choices": [0, 0.5, 1]}, Distribution("ordered", high=2, choices=(0, 0.5, 1))),
        (
            "loss.similarity",
            {"choices": ["cosine", "euclidean"]},
            Distribution("categorical", high=1, choices=("cosine", "euclidean")),
        ),
        (
            "model.backbone",
            {"choices": ["resnet18", "resnet50"]},
            Distribution("categorical", high=1, choices=("resnet18", "resnet50")),
        ),
    ],
)
def test_the_type_of_the_field_decides_the_distribution(
    path: str, limits: dict[str, Any], expected: Distribution
) -> None:
    assert distribution_of(ExperimentConfig(), path, validate(Range, limits)) == expected


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (Distribution("float", 0.0, 1.0), [0, 0.0, 0.3, 1], [-0.1, 1.1, True, "0.5"]),
        (Distribution("float", 0.1, 1.0, step=0.3), [0.1, 0.4, 0.7, 1.0], [0.2, 1.3]),
        (Distribution("int", 8, 64), [8, 9, 64], [7, 65, True]),
        (Distribution("int", 24, 48, step=12), [24, 36, 48], [30, 60]),
        (Distribution("ordered", high=1, choices=(24, 48)), [24, 48], [36, 0, 1, "24"]),
        (Distribution("categorical", high=1, choices=("cosine", "0")), ["cosine", "0"], ["euclidean", 0]),
    ],
)
def test_a_distribution_contains_what_it_can_draw(
    distribution: Distribution, inside: list[Any], outside: list[Any]
) -> None:
    assert all(distribution.contains(value) for value in inside)
    assert not any(distribution.contains(value) for value in outside)
    assert [distribution.decode(distribution.encode(value)) for value in inside] == inside


def test_numbers_of_a_list_are_stored_by_their_place_and_words_by_themselves() -> None:
    assert Distribution("ordered", choices=(24, 48)).encode(48) == 1
    assert Distribution("categorical", choices=("a", "b")).encode("b") == "b"
    assert Distribution("float", 0.0, 1.0).encode(0.5) == 0.5


@settings(deadline=None, derandomize=True)
@given(low=st.integers(-50, 50), length=st.integers(1, 60), step=st.integers(1, 7))
def test_an_integer_range_is_checked_at_every_value_it_draws(low: int, length: int, step: int) -> None:
    distribution = Distribution("int", low, low + length, step=step)
    values = [value for value in range(low - 3, low + length + 4) if distribution.contains(value)]
    assert values == list(range(low, low + length + 1, step))
    assert set(distribution.corners()) == set(values)


@pytest.mark.parametrize(
    ("limits", "law"),
    [
        ({"low": 1, "high": 0}, "low must be below high, but got low=1, high=0"),
        ({"low": 1, "high": 1}, "low must be below high, but got low=1, high=1"),
        ({"low": 0, "high": 1, "log": True}, "a log range needs low above 0, but got low=0"),
        ({"low": 0.1, "high": 1, "log": True, "step": 0.1}, "step must be positive and excludes log"),
        ({"low": 0, "high": 1, "step": 0}, "step must be positive"),
        ({"low": 0.1}, "a range needs low and high, or choices"),
        ({}, "a range needs low and high, or choices"),
        ({"choices": [0.1]}, "at least two distinct values, but got [0.1]"),
        ({"choices": [0.1, 0.1]}, "at least two distinct values"),
        ({"choices": [0.1, 0.2], "low": 0}, "choices exclude low, high, log and step"),
        ({"lo": 0, "high": 1}, "unknown key 'lo'; known: choices, high, log, low, step"),
        ({"low": "a", "high": 1}, 'integer or must be a valid number, but got "a"'),
    ],
)
def test_a_range_that_is_none_names_its_law(limits: dict[str, Any], law: str) -> None:
    with pytest.raises(ConfigError) as caught:
        distribution_of(ExperimentConfig(), "loss.margin", validate(Range, limits, prefix="space.loss.margin"))
    assert str(caught.value).startswith("space.loss.margin")
    assert law in str(caught.value)


def test_only_what_was_written_is_written_back() -> None:
    """A study's space is archived: eight lines of null would bury the two that matter."""
    for limits in ({"low": 1, "high": 2}, {"low": 1.0, "high": 2.0, "log": True}, {"choices": ["a", "b"]}):
        assert dump(validate(Range, limits)) == limits


def test_numeric_choices_rise() -> None:
    with pytest.raises(ValueError, match=r"space.loss.margin: .* in rising order, but got \[0.2, 0.1"):
        distribution_of(ExperimentConfig(), "loss.margin", Range(choices=(0.2, 0.1)))

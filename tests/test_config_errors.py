"""What is said about a configuration that is wrong: where, the value, the law, the remedy, in one line."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

import pytest

from raydml.config import ConfigError, parse

Raw = dict[str, Any]


def message_of(raw: Any) -> str:  # noqa: ANN401
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    return str(caught.value)


# Input, the dotted path the message begins with, and what else it must say.
INVALID: list[tuple[Raw, str, tuple[str, ...]]] = [
    # types: nothing is converted
    ({"data": {"kind": "glyphs", "batch_size": 128.0}}, "data.batch_size", ("integer", "128.0")),
    ({"data": {"kind": "glyphs", "batch_size": True}}, "data.batch_size", ("integer", "true")),
    ({"optimizer": {"kind": "adamw", "lr": "1e-5"}}, "optimizer.lr", ("number", '"1e-5"', "word")),
    ({"optimizer": {"kind": "adamw", "lr": True}}, "optimizer.lr", ("number", "true")),
    ({"optimizer": {"kind": "adamw", "lr": None}}, "optimizer.lr", ("number", "null")),
    ({"optimizer": {"kind": "adamw", "clip_norm": "none"}}, "optimizer.clip_norm", ("number", '"none"')),
    ({"model": {"weights": 3}}, "model.weights", ("3",)),
    ({"loss": {"kind": "discriminate", "margin": [0.1]}}, "loss.margin", ("number", "[0.1]")),
    ({"evaluation": {"recall_at": 1}}, "evaluation.recall_at", ("1",)),
    ({"evaluation": {"recall_at": [1, 2.0]}}, "evaluation.recall_at.1", ("integer", "2.0")),
    # numbers that are none
    ({"optimizer": {"kind": "adamw", "lr": math.nan}}, "optimizer.lr", ("finite", "nan")),
    ({"optimizer": {"kind": "adamw", "lr": math.inf}}, "optimizer.lr", ("finite", "inf")),
    ({"evaluation": {"recall_at": [1, -math.inf]}}, "evaluation.recall_at.1", ("finite", "-inf")),
    # limits
    ({"seed": -1}, "seed", ("at least 0", "-1")),
    ({"optimizer": {"kind": "adamw", "lr": 0}}, "optimizer.lr", ("greater than 0", "got 0")),
    ({"loss": {"kind": "triplet", "margin": 2.5}}, "loss.margin", ("at most 2", "2.5")),
    ({"data": {"kind": "glyphs", "augment": {"flip": 2}}}, "data.augment.flip", ("at most 1", "got 2")),
    ({"data": {"kind": "digits", "num_folds": 3}}, "data.num_folds", ("at most 2", "got 3")),
    ({"training": {"precision": "float16"}}, "training.precision", ("'float32', 'bfloat16' or 'float64'", '"float16"')),
    # keys and kinds
    ({"los": {}}, "los", ("unknown key 'los'", "known: data, ", "did you mean 'loss'?")),
    ({"loss": {"kind": "triplet", "mning": "all"}}, "loss.mning", ("unknown key", "did you mean 'mining'?")),
    ({"data": {"kind": "glyphs", "augment": {"flp": 1}}}, "data.augment.flp", ("did you mean 'flip'?",)),
    ({"data": {"kind": "digits", "noise": 0.1}}, "data.noise", ("unknown key 'noise'", "known: augment, ")),
    ({"data": {"kind": "folder"}}, "data.root", ("missing",)),
    ({"loss": {"kind": "tripet"}}, "loss", ("unknown kind 'tripet'", "proxy_anchor", "did you mean 'triplet'?")),
    ({"data": {"kind": "cub"}}, "data", ("unknown kind 'cub'", "digits, folder, glyphs")),
    ({"loss": {"margin": 0.1}}, "loss", ("kind is missing", "known: angular, ")),
    ({"model": {"backbone": "resnet5o"}}, "model.backbone", ("'resnet5o'", "nearest: resnet50, ")),
    # laws between fields, with both numbers
    (
        {"data": {"kind": "glyphs", "batch_size": 10, "samples_per_class": 4}},
        "data",
        ("batch_size must be divisible by samples_per_class", "batch_size=10", "samples_per_class=4"),
    ),
    (
        {"data": {"kind": "glyphs", "batch_size": 4, "samples_per_class": 4}},
        "data",
        ("at least 2 * samples_per_class", "batch_size=4", "samples_per_class=4"),
    ),
    (
        {"data": {"kind": "folder", "root": "x", "image_size": 100, "input_size": 101}},
        "data",
        ("input_size must not exceed image_size", "101", "100"),
    ),
    (
        {"loss": {"kind": "contrastive", "positive_margin": 0.7, "negative_margin": 0.6}},
        "loss",
        ("positive_margin must not exceed negative_margin", "0.7", "0.6"),
    ),
    (
        {"loss": {"kind": "margin", "cutoff": 1.5}},
        "loss",
        ("cutoff must be below nonzero_cutoff", "cutoff=1.5", "nonzero_cutoff=1.4"),
    ),
    ({"evaluation": {"recall_at": [2, 1]}}, "evaluation", ("rising order", "2, 1")),
    ({"evaluation": {"recall_at": []}}, "evaluation", ("recall_at",)),
    ({"evaluation": {"recall_at": [1, 10**30]}}, "evaluation", ("ranks must be in 1", f"got {10**30}")),
    ({"evaluation": {"metrics": [f"map@{10**30}"]}}, "evaluation", ("ranks must be in 1", f"got {10**30}")),
    (
        {"schedule": {"kind": "cosine", "warmup_epochs": 3}, "training": {"num_epochs": 3}},
        "schedule.warmup_epochs",
        ("must be below training.num_epochs", "warmup_epochs=3", "num_epochs=3"),
    ),
    # what YAML can hold and a configuration cannot
    ({"data": {"kind": "glyphs", "cache": datetime.date(2026, 1, 2)}}, "data.cache", ("2026-01-02", "date")),
    ({"evaluation": {"recall_at": [1, b"x"]}}, "evaluation.recall_at.1", ("bytes",)),
    ({"training": {3: 1}}, "training", ("keys must be words", "3")),
]


@pytest.mark.parametrize(
    ("raw", "path", "laws"), INVALID, ids=[f"{i}-{path}" for i, (_, path, _) in enumerate(INVALID)]
)
def test_bad_input_names_the_path_the_law_and_the_value(raw: Raw, path: str, laws: tuple[str, ...]) -> None:
    message = message_of(raw)
    assert re.match(rf"{re.escape(path)}(:| must)", message), message
    for law in laws:
        assert law in message, message
    assert "\n" not in message


def test_a_law_between_fields_of_a_section_names_the_section_alone() -> None:
    raw = {"loss": {"kind": "margin", "margin": 0.2, "cutoff": 1.9, "nonzero_cutoff": 1.0}}
    assert message_of(raw).startswith("loss: cutoff must be below nonzero_cutoff")


@pytest.mark.parametrize("value", [None, "triplet", [1], 3])
def test_a_section_that_is_a_value_is_explained_in_words_of_yaml(value: object) -> None:
    """Not "object" and "array", which are JSON's words."""
    message = message_of({"loss": value})
    assert message.startswith("loss: ")
    assert not re.search(r"\b(object|array|dictionary)\b", message)


def test_several_mistakes_are_counted() -> None:
    assert message_of({"seed": "x", "training": {"num_epochs": 0}}).endswith("(and 1 more place)")
    assert message_of({"seed": "x", "training": {"num_epochs": 0, "log_steps": 0}}).endswith("(and 2 more places)")

"""Divide-and-conquer in studies: presets on the command line, and spaces that touch an illegal division."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raydml.config import ConfigError, DivideConfig, ExperimentConfig, Range, distribution_of, dump
from raydml.space import Study, read, read_with_notes

Raw = dict[str, Any]
STUDY: Raw = {
    "name": "s",
    "protocol": "quick",
    "base": {"data": {"kind": "glyphs"}, "model": {"embedding_dim": 64}, "training": {"num_epochs": 20}},
}


def written(folder: Path, **changes: Raw) -> Path:
    path = folder / "study.yaml"
    path.write_text(json.dumps({**STUDY, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize("prefix", ["", "base."])
def test_a_preset_on_the_command_line_needs_no_section_in_the_file(tmp_path: Path, prefix: str) -> None:
    overrides = [
        f"{prefix}divide.num_learners=4",
        f"{prefix}divide.preset=tpami2021",
        f"{prefix}divide.freeze_epochs=0",
    ]
    for order in (overrides, overrides[::-1]):
        study, notes = read_with_notes(written(tmp_path), order)
        assert notes == []
        assert study.base.divide == DivideConfig.model_validate(
            {"preset": "tpami2021", "num_learners": 4, "freeze_epochs": 0}
        )
        assert study.base.divide.hierarchical


def test_a_preset_on_the_command_line_decides_its_fields_and_says_so(tmp_path: Path) -> None:
    """As a kind does: also over a file in which every field is written, as a search writes its best."""
    base = {**STUDY["base"], "divide": {"num_learners": 4, "hierarchical": False, "freeze_epochs": 3, "masks": "fixed"}}
    path = written(tmp_path, base=base, space={"divide.conquer_epoch": {"low": 5, "high": 8}})
    study, notes = read_with_notes(path, ["divide.hierarchical=false", "divide.preset=tpami2021"])
    found = study.base.divide
    assert (found.num_learners, found.normalise, found.freeze_epochs) == (4, "whole", 1)
    assert found.hierarchical is False, "what is given beside it comes first"
    assert study.space == {}
    assert any("divide.preset=tpami2021" in note and "freeze_epochs" in note for note in notes)
    assert any("divide.conquer_epoch" in note for note in notes)
    whole = written(tmp_path, base={**STUDY["base"], "divide": dump(DivideConfig(num_learners=4, preset="cvpr2019"))})
    assert read(whole, ["divide.preset=none"]).base.divide.round_length == "mean"


def test_a_bad_override_is_blamed_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^command line: .*num_learners=65, model.embedding_dim=64") as caught:
        read(written(tmp_path), ["divide.num_learners=65"])
    assert "\n" not in str(caught.value)


def refused(folder: Path, space: Raw, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(written(folder, space=space), overrides)
    return str(caught.value)


def test_a_preset_is_not_searched(tmp_path: Path) -> None:
    message = refused(tmp_path, {"divide.preset": {"choices": ["cvpr2019", "tpami2021"]}})
    assert "space.divide.preset: a preset is not searched; search the fields it sets" in message


JOINT: Raw = {
    "divide.num_learners": {"low": 1, "high": 8},
    "see.num_expansions": {"low": 0, "high": 7},
    "model.embedding_dim": {"choices": [64, 128]},
}


def test_learners_expansions_and_dimensions_are_searched_together(tmp_path: Path) -> None:
    """Eight learners of 64 dimensions have eight each: seven expansions, and not one more."""
    assert isinstance(read(written(tmp_path, space=JOINT)), Study)
    # Each value is legal with the base, two of them are not.
    for path, high, point in (
        ("divide.num_learners", 9, "divide.num_learners=9, see.num_expansions=7"),
        ("see.num_expansions", 8, "divide.num_learners=8, see.num_expansions=8"),
    ):
        message = refused(tmp_path, {**JOINT, path: {"low": 1, "high": high}})
        assert message.startswith(f"{tmp_path / 'study.yaml'}: space: the point {point} is illegal: ")
    # Every two are legal, the three are not.
    message = refused(tmp_path, {**JOINT, "model.embedding_dim": {"choices": [63, 128]}})
    three = "divide.num_learners=8, see.num_expansions=7, model.embedding_dim=63"
    assert f"space: the point {three} is illegal: see.num_expansions must not exceed" in message


@pytest.mark.parametrize(
    ("space", "divide", "point"),
    [
        ({"divide.num_learners": {"low": 1, "high": 8}}, {"hierarchical": True}, "divide.num_learners=3"),
        ({"divide.num_learners": {"low": 1, "high": 64}}, {"hierarchical": True}, "divide.num_learners=3"),
        ({"model.embedding_dim": {"low": 16, "high": 64}}, {"num_learners": 20}, "model.embedding_dim=16"),
        (
            {"divide.num_learners": {"low": 1, "high": 64}, "divide.hierarchical": {"choices": [False, True]}},
            {},
            "divide.num_learners=3, divide.hierarchical=True",
        ),
        (
            {"divide.full_embedding_epoch": {"low": 0, "high": 12}, "training.num_epochs": {"low": 8, "high": 20}},
            {"num_learners": 4},
            "divide.full_embedding_epoch=8, training.num_epochs=8",
        ),
    ],
)
def test_a_space_with_an_illegal_division_is_refused(tmp_path: Path, space: Raw, divide: Raw, point: str) -> None:
    overrides = [f"divide.{field}={json.dumps(value)}" for field, value in divide.items()]
    assert f"space: the point {point}" in refused(tmp_path, space, *overrides)


@pytest.mark.parametrize("low", range(1, 9))
@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_a_long_range_is_checked_at_a_number_of_learners_that_is_no_power_of_two(low: int, step: int) -> None:
    """Of three in a row one is not."""
    limits = Range(low=low, high=low + 400 * step, step=step)
    corners = distribution_of(ExperimentConfig(), "divide.num_learners", limits).corners()
    assert len(corners) == 4
    assert not all(int(count).bit_count() == 1 for count in corners[:3])

"""`path=value` on the command line: what it changes, what it takes with it, and whom an error blames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raydml.config import ConfigError, Range, dump
from raydml.overrides import parse_assignment
from raydml.space import Study, read, read_with_notes

WRITTEN: dict[str, Any] = {
    "name": "s",
    "protocol": "quick",
    "base": {
        "data": {"kind": "glyphs", "batch_size": 24, "samples_per_class": 4},
        "loss": {"kind": "discriminate", "margin": 0.25},
        "optimizer": {"kind": "adamw", "lr": 0.002},
    },
    "space": {"loss.margin": {"low": 0, "high": 1}, "loss.scale": {"low": 4, "high": 64, "log": True}},
    "search": {"num_trials": 7, "start": [{"loss.margin": 0.3, "loss.scale": 8}, {"loss.scale": 32}]},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "study.yaml"
    written.write_text(json.dumps(WRITTEN), encoding="utf-8")
    return written


def message_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def base_of(study: Study, section: str) -> dict[str, Any]:
    dumped: dict[str, Any] = getattr(study.base, section).model_dump()
    return dumped


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("loss.margin=0.3", "loss.margin", 0.3),
        ("optimizer.lr=1e-5", "optimizer.lr", 1e-5),
        ("storage=s3://bucket/a=b", "storage", "s3://bucket/a=b"),
        ("training.steps_per_epoch=", "training.steps_per_epoch", None),
        ("space.loss.margin={low: 0, high: 1}", "space.loss.margin", {"low": 0, "high": 1}),
        ("name=yes", "name", "yes"),
    ],
)
def test_an_assignment_is_a_path_and_yaml(text: str, path: str, value: object) -> None:
    assert parse_assignment(text) == (path, value)


@pytest.mark.parametrize("text", ["loss.margin", "=3", "", "--verbose"])
def test_what_is_no_assignment_is_quoted(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^command line: expected path=value, but got ") as caught:
        parse_assignment(text)
    assert f"'{text}'" in str(caught.value)


def test_malformed_yaml_on_the_command_line_names_its_path(path: Path) -> None:
    assert message_of(path, "seed=[1").startswith("command line: seed: line 1, column ")


def test_the_command_line_comes_before_the_file(path: Path) -> None:
    study = read(path, ["optimizer.lr=0.01", "search.num_trials=3", "seed=5"])
    assert (study.base.optimizer.lr, study.search.num_trials, study.base.seed) == (0.01, 3, 5)
    assert base_of(study, "loss")["margin"] == 0.25, "what is not named stays as the file has it"
    assert read(path, ["optimizer.lr=0.01", "optimizer.lr=0.02"]).base.optimizer.lr == 0.02


def test_base_is_implied(path: Path) -> None:
    assert read(path, ["base.optimizer.lr=0.01"]) == read(path, ["optimizer.lr=0.01"])


def test_a_section_the_file_leaves_out_is_the_default_one(tmp_path: Path) -> None:
    """A file need not write a kind for its value to be overridden."""
    path = tmp_path / "short.yaml"
    path.write_text("protocol: quick\n", encoding="utf-8")
    study = read(path, ["loss.margin=0.3", "data.batch_size=64", "schedule.final_factor=0.5", "data.augment.flip=0.5"])
    assert base_of(study, "loss")["margin"] == 0.3
    assert study.base.data.batch_size == 64
    assert study.base.data.augment.flip == 0.5
    assert message_of(path, "loss.margn=0.3").startswith("command line: base.loss.margn: unknown key 'margn'")


def test_a_value_that_is_searched_is_pinned(path: Path) -> None:
    study, notes = read_with_notes(path, ["loss.margin=0.4"])
    assert base_of(study, "loss")["margin"] == 0.4
    assert list(study.space) == ["loss.scale"]
    assert study.search.start == ({"loss.scale": 8}, {"loss.scale": 32})
    assert notes == ["loss.margin is pinned to 0.4: its range is removed"]


def test_a_value_that_is_not_searched_says_nothing(path: Path) -> None:
    assert read_with_notes(path, ["optimizer.lr=0.01"])[1] == []


def test_a_range_can_be_given_on_the_command_line(path: Path) -> None:
    study = read(path, ["space.loss.margin={low: 0.1, high: 0.5}", "space.optimizer.lr={low: 0.001, high: 0.1}"])
    assert study.space["loss.margin"] == Range(low=0.1, high=0.5)
    assert dump(study.space["optimizer.lr"]) == {"low": 0.001, "high": 0.1}
    assert len(study.space) == 3


def test_paths_of_the_study_are_set_too(path: Path) -> None:
    overrides = ["name=other", "storage=/data", "protocol={folds_run: 2}", "resources.workers_per_trial=2"]
    study = read(path, [*overrides, "search.early_stopping=null", "search.start=[{loss.margin: 0.9}]"])
    assert (study.name, study.storage, study.protocol.folds_run) == ("other", "/data", 2)
    assert study.resources.workers_per_trial == 2
    assert study.search.early_stopping is None
    assert study.start_points() == ({"loss.margin": 0.9, "loss.scale": 16.0},)


def test_a_new_kind_of_data_brings_the_geometry_of_its_batches(path: Path) -> None:
    study, notes = read_with_notes(path, ["data.kind=digits"])
    data = study.base.data
    assert (data.batch_size, data.samples_per_class, data.num_folds) == (40, 8, 2)
    assert len(notes) == 1
    assert notes[0].startswith("data.kind glyphs -> digits: ")
    for change in ("batch_size 24 -> 40", "samples_per_class 4 -> 8", "num_folds 4 -> 2", "dropped num_classes, "):
        assert change in notes[0]


def test_the_same_kind_again_changes_nothing(path: Path) -> None:
    assert read_with_notes(path, ["loss.kind=discriminate"]) == read_with_notes(path)


def test_a_new_kind_drops_fields_and_the_ranges_that_lose_their_meaning(path: Path) -> None:
    study, notes = read_with_notes(path, ["loss.kind=triplet"])
    loss = base_of(study, "loss")
    assert {key: loss[key] for key in loss if key != "memory"} == {"kind": "triplet", "margin": 0.1, "mining": "all"}
    assert list(study.space) == ["loss.margin"], "a triplet has a margin, but no scale"
    assert study.search.start == ({"loss.margin": 0.3}, {})
    assert "loss.kind is triplet, which has no loss.scale: its range is removed" in notes
    assert any("margin 0.25 -> 0.1" in note and "dropped scale, " in note for note in notes)


def test_a_kind_that_needs_a_name_drops_fields_and_ranges_too(path: Path) -> None:
    study, notes = read_with_notes(path, ["loss.name=NTXentLoss", "loss.kind=library"])
    assert base_of(study, "loss")["name"] == "NTXentLoss"
    assert study.space == {}
    assert "loss.kind is library, which has no loss.margin: its range is removed" in notes
    assert any(note.startswith("loss.kind discriminate -> library: dropped ") for note in notes)


def test_another_loss_of_a_library_has_other_arguments() -> None:
    library = Path(__file__).parents[1] / "search_spaces" / "library.yaml"
    study, notes = read_with_notes(library, ["loss.arguments.temperature=0.1", "loss.name=NTXentLoss"])
    assert base_of(study, "loss")["arguments"] == {"temperature": 0.1}
    assert list(study.space) == ["optimizer.lr"]
    assert notes == ["loss.arguments of another than NTXentLoss are dropped: num_bins"]


@pytest.mark.parametrize("same", ["loss.kind=library", "loss.name=FastAPLoss", "base.loss.name=FastAPLoss"])
def test_the_same_loss_of_a_library_again_changes_nothing(same: str) -> None:
    library = Path(__file__).parents[1] / "search_spaces" / "library.yaml"
    assert read_with_notes(library, [same]) == read_with_notes(library)


def test_setting_a_section_pins_what_is_searched_below_it() -> None:
    library = Path(__file__).parents[1] / "search_spaces" / "library.yaml"
    study, notes = read_with_notes(library, ["loss.arguments={num_bins: 30}"])
    assert list(study.space) == ["optimizer.lr"]
    assert notes == ["loss.arguments is pinned to {'num_bins': 30}: its range is removed"]


def test_kinds_are_set_first_whatever_their_place(path: Path) -> None:
    there = read(path, ["data.kind=digits", "data.batch_size=80", "loss.kind=triplet", "loss.mining=hardest"])
    back = read(path, ["loss.mining=hardest", "data.batch_size=80", "loss.kind=triplet", "data.kind=digits"])
    assert there == back
    assert (there.base.data.batch_size, there.base.data.samples_per_class) == (80, 8)
    assert base_of(there, "loss")["mining"] == "hardest"


def test_an_unknown_first_key_lists_those_there_are(path: Path) -> None:
    message = message_of(path, "los.margin=0.3")
    assert message.startswith("command line: los.margin: unknown key 'los'; known: base, ")
    assert "search" in message
    assert message.endswith("did you mean 'loss'?")


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=fast",
        "loss.margn=0.3",
        "loss.kind=tripet",
        "base.seed=-1",
        "base=3",
        "search.num_trials=0",
        "search.metric=test/map@r",
        "search.start=[{loss.margin: 7}]",
        "space.loss.margin={low: 1, high: 0}",
        "space.loss.margn={low: 0, high: 1}",
        "name=a/b",
        "protocol=honst",
        "protocol.folds_run=9",
        "optimizer.lr=2026-01-02",
        # laws between fields, whose message begins with another path
        "data.batch_size=6",
        "resources.workers_per_trial=25",
        "schedule.warmup_epochs=8",
        "space.loss.margin={low: 0, high: 3}",
        "data.kind=folder",
    ],
)
def test_the_command_line_is_blamed_for_what_it_broke(path: Path, override: str) -> None:
    message = message_of(path, override)
    assert message.startswith("command line: "), message


def test_the_file_is_blamed_for_what_it_broke(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(json.dumps({**WRITTEN, "search": {"num_trials": 0}}), encoding="utf-8")
    assert message_of(path).startswith(f"{path}: search.num_trials: must be at least 1")
    assert message_of(path, "loss.margin=0.5").startswith(f"{path}: search.num_trials: ")
    assert read(path, ["search.num_trials=3"]).search.num_trials == 3, "an override can mend a file"


@pytest.mark.parametrize("override", ["loss.margin=&x [*x]", "loss.margin=2026-99-99", "loss.margin={1: 2}"])
def test_values_without_a_meaning_are_bad_input(path: Path, override: str) -> None:
    """A list that contains itself, a date that does not exist, a key that is no word."""
    assert message_of(path, override).startswith("command line: ")


@pytest.mark.parametrize("path_of", ["loss..margin", "search..seed", ".loss", "base.", "space."])
def test_a_path_with_an_empty_part_is_refused(path: Path, path_of: str) -> None:
    assert "command line: " in message_of(path, f"{path_of}=3")

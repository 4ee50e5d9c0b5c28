"""Protocols: presets, their parts as fields, what comes before what, and what a reader is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydml import yamlfile
from raydml.caveats import departures, opening_lines, stamp
from raydml.config import PRESETS, ConfigError, Confirm, Final, FreeSplit, Protocol
from raydml.config.grammar import validate
from raydml.space import Study, read

SPACE = "space: {loss.margin: {low: 0.0, high: 0.6}}\n"


def study_of(folder: Path, text: str, *overrides: str) -> Study:
    path = folder / "s.yaml"
    path.write_text(text + SPACE, encoding="utf-8")
    return read(path, overrides)


def message_of(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        study_of(folder, text, *overrides)
    return str(caught.value)


def test_no_protocol_is_the_honest_one(tmp_path: Path) -> None:
    study = study_of(tmp_path, "")
    assert study.protocol == Protocol(preset="honest", folds_run="all", confirm=Confirm(), final=Final())
    assert (study.protocol.confirm, study.protocol.final) == (Confirm(top=4, seeds=3), Final(seeds=5))
    assert study.folds == (0, 1, 2, 3)
    assert study.search.num_trials == 25


@pytest.mark.parametrize(
    ("name", "folds", "trials", "confirm", "final"),
    [
        ("quick", 1, 15, None, None),
        ("honest", 4, 25, Confirm(top=4, seeds=3), Final(seeds=5)),
        ("mlrc", 4, 50, None, Final(seeds=10, models="folds")),
        ("legacy", 1, 25, None, Final(seeds=5, best_epoch_on_test=True)),
    ],
)
def test_presets(
    tmp_path: Path, name: str, folds: int, trials: int, confirm: Confirm | None, final: Final | None
) -> None:
    study = study_of(tmp_path, f"protocol: {name}\n")
    assert len(study.folds) == folds
    assert study.search.num_trials == trials
    assert (study.protocol.confirm, study.protocol.final) == (confirm, final)
    assert not list(departures(study))


def test_every_preset_is_tested_and_only_custom_is_none() -> None:
    assert list(PRESETS) == ["quick", "honest", "mlrc", "legacy"]
    with pytest.raises(ConfigError, match="unknown protocol 'custom'"):
        validate(Study, {"name": "s", "protocol": "custom"})


def test_the_paper_has_no_early_stopping_and_four_folds(tmp_path: Path) -> None:
    study = study_of(tmp_path, "base: {data: {kind: glyphs, num_classes: 60}}\nprotocol: mlrc\n")
    assert (study.search.early_stopping, study.search.sampler) == (None, "gp")
    assert isinstance(study.base.data, FreeSplit)
    assert (study.base.data.num_folds, study.base.data.test_fraction) == (4, 0.5)


def test_command_line_before_file_before_preset_before_default(tmp_path: Path) -> None:
    """Defect 5 of the catalogue: settings of a command line that data sets overwrite."""
    text = "protocol: mlrc\nsearch: {num_trials: 7}\nbase: {data: {kind: glyphs, num_folds: 3}}\n"
    study = study_of(tmp_path, text, "search.startup_trials=4", "data.num_folds=5")
    assert study.base.data.num_folds == 5, "command line before file"
    assert study.search.num_trials == 7, "file before preset"
    assert study.search.sampler == "gp", "preset before default"
    assert study.search.startup_trials == 4
    assert study_of(tmp_path, text).base.data.num_folds == 3
    assert study_of(tmp_path, text, "protocol=quick").search.sampler == "tpe"


def test_parts_of_a_preset_are_fields(tmp_path: Path) -> None:
    study = study_of(tmp_path, "protocol: quick\n", "protocol=honest", "protocol.confirm.top=2", "protocol.final=null")
    assert study.protocol.confirm == Confirm(top=2, seeds=3)
    assert study.protocol.final is None
    assert study.protocol.folds_run == "all"
    later = study_of(tmp_path, "protocol: quick\n", "protocol.confirm.top=2", "protocol=honest")
    assert later.protocol.confirm == Confirm(top=2), "the order of overrides does not matter"


def test_a_part_that_is_changed_leaves_the_rest_of_the_preset(tmp_path: Path) -> None:
    study = study_of(tmp_path, "protocol: {preset: mlrc, final: {seeds: 2}}\n")
    assert study.protocol.final == Final(seeds=2, models="folds")


def test_parts_of_a_protocol_that_is_not_named(tmp_path: Path) -> None:
    study = study_of(tmp_path, "protocol: {folds_run: 2, confirm: {seeds: 4}}\n")
    assert study.protocol == Protocol(preset="custom", folds_run=2, confirm=Confirm(seeds=4))
    assert study_of(tmp_path, "", "protocol.final.seeds=2").protocol.preset == "honest"


def test_a_resolved_protocol_reads_back_as_itself(tmp_path: Path) -> None:
    for name in PRESETS:
        study = study_of(tmp_path, f"protocol: {name}\n", "protocol.folds_run=2")
        (tmp_path / "again.yaml").write_text(yamlfile.dumps(study), encoding="utf-8")
        assert read(tmp_path / "again.yaml") == study


@pytest.mark.parametrize(
    ("override", "law"),
    [
        ("protocol=honst", "unknown protocol 'honst'; known: quick, honest, mlrc, legacy, or its fields"),
        ("protocol.preset=hones", "protocol.preset: must be 'quick', 'honest', 'mlrc', 'legacy' or 'custom'"),
        ("protocol.confirm.half_width=0.01", "half_width needs at least five seeds"),
        ("protocol.final={half_width: 0.01, max_seeds: 4}", "max_seeds must be at least seeds, but got 4 and 5"),
        ("protocol.final.best_epoch_on_test=yes", "protocol.final.best_epoch_on_test: must be a valid boolean"),
        ("protocol.final={models: folds, best_epoch_on_test: true}", "best_epoch_on_test needs models=one"),
        ("protocol.folds_run=0", "folds_run must be at least 1, or all, but got 0"),
        ("protocol.folds_run=5", "must not exceed base.data.num_folds, but got folds_run=5, data.num_folds=4"),
        ("protocol.confirm.tops=3", "unknown key 'tops'"),
        ("protocol.finals.seeds=3", "unknown key 'finals'"),
        ("protocol.confirm.seeds=0", "protocol.confirm.seeds: must be at least 1, but got 0"),
    ],
)
def test_bad_protocols_are_named(tmp_path: Path, override: str, law: str) -> None:
    assert law in message_of(tmp_path, "", override)


def test_more_folds_than_classes_is_bad_input(tmp_path: Path) -> None:
    """The ten digits have five training classes: two folds of at least two."""
    text = "base: {data: {kind: digits}}\n"
    assert "base.data.num_folds: must be at most 2, but got 4" in message_of(tmp_path, text + "protocol: mlrc\n")
    assert study_of(tmp_path, text).folds == (0, 1)


def test_a_schedule_of_seeds_has_an_end() -> None:
    assert Final(half_width=0.01).most == 20
    assert Final(half_width=0.01, max_seeds=9).most == 9
    assert Final(seeds=7).most == 7


def test_the_stamp_tells_what_stands_behind_a_number(tmp_path: Path) -> None:
    glyphs = "synthetic images; "
    assert stamp(study_of(tmp_path, "protocol: quick\n")) == (
        glyphs + "exploratory: 1 of 4 folds, one seed, nothing confirmed"
    )
    assert stamp(study_of(tmp_path, "")) == (
        glyphs + "honest: 4 of 4 folds; the best 4 and the base confirmed with 3 fresh seeds; "
        "test classes once with each of 5 fresh seeds"
    )
    assert stamp(study_of(tmp_path, "protocol: legacy\n")).endswith(
        "nothing confirmed; test classes with 5 fresh seeds, after every epoch: selected on test"
    )
    changed = stamp(study_of(tmp_path, "", "protocol.final=null", "protocol.confirm.seeds=1"))
    assert changed.endswith(
        "confirmed with 1 fresh seed; no look at the test classes; "
        "not as the preset honest: protocol.confirm.seeds=1 instead of 3, protocol.final left out"
    )


def test_departures_from_the_paper_are_named(tmp_path: Path) -> None:
    study = study_of(tmp_path, "protocol: mlrc\nsearch: {num_trials: 9, early_stopping: {grace_epochs: 3}}\n")
    assert list(departures(study)) == ["search.early_stopping added", "search.num_trials=9 instead of 50"]


def test_the_paper_is_told_apart_before_the_search(tmp_path: Path) -> None:
    lines = opening_lines(study_of(tmp_path, "protocol: mlrc\n"))
    assert lines[0].startswith("s: synthetic images; mlrc: 4 of 4 folds")
    assert len(lines) > 5
    assert all(line.startswith("  unlike Musgrave et al. 2020: ") for line in lines[1:])
    assert len(opening_lines(study_of(tmp_path, ""))) == 1

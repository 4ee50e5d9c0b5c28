"""`python -m raydml.data check|prepare` as a user meets it: which data are meant, exit codes, words, what is next."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from raydml import cli
from raydml.data.argument import located
from raydml.data.opening import open_images
from raydml.data.terms import first_terms
from raydml.space import read
from tests.command_lines import STUDY, outcomes_of
from tests.image_trees import make_cub200
from tests.photographs import SIZE, config_of, make_photographs, write_study

SMALL = (f"image_size={SIZE}", f"input_size={SIZE}", "num_folds=2")


@pytest.fixture(autouse=True)
def _own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms are told once to a user: here to each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_photographs(tmp_path / "images")


def overrides(root: Path) -> list[str]:
    return [*SMALL, f"cache={root.parent / 'cache'}"]


BAD = {
    "no such place": (["check", "nowhere"], "nowhere: no such file or folder"),
    "no such place to prepare": (["prepare", "nowhere"], "nowhere: no such file or folder"),
    "no such study": (["check", "nowhere.yaml"], "nowhere.yaml: no such file"),
    "unknown option": (["check", "plain", "otu=a.json"], "command line: data.otu: unknown key 'otu'; known: "),
    "option of another command": (["prepare", "plain", "out=a.json"], "command line: data.out: unknown key 'out'"),
    "not of the data": (
        ["check", "plain", "loss.margin=1"],
        "command line: loss.margin: plain is a place, not a study",
    ),
    "unknown kind": (["check", "plain", "kind=cub"], "command line: data: unknown kind 'cub'; known: cars196, "),
    "no word": (["check", "plain", "decode=perhaps"], "command line: decode: must be a valid boolean, but got "),
    "no assignment": (["check", "plain", "decode"], "command line: expected path=value, but got 'decode'"),
    "a strange file": (["check", "plain/notes.txt"], "plain/notes.txt: a file of a kind that is not known; known: "),
    "nothing kept": (["prepare", "plain", "data.decode=always"], "data.decode: always keeps no image in the cache"),
}


def test_bad_input_is_one_line_and_exit_code_2_without_torch_and_ray(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "notes.txt").touch()
    outcomes = outcomes_of(tmp_path, {name: ["data", *argv] for name, (argv, _) in BAD.items()})
    for name, (_, begin) in BAD.items():
        outcome = outcomes[name]
        assert outcome.code == 2, (name, outcome)
        assert outcome.err.startswith(f"error: {begin}"), (name, outcome.err)
        assert outcome.err.count("\n") == 1
        assert {"torch", "ray"}.isdisjoint(outcome.loaded), name


def test_a_misused_command_shows_its_usage(tmp_path: Path) -> None:
    lines = {"nothing": ["data"], "no place": ["data", "check"], "no such action": ["data", "chek", "."]}
    outcomes = outcomes_of(tmp_path, {**lines, "help": ["data", "--help"]})
    for name in lines:
        assert outcomes[name].code == 2
        assert outcomes[name].err.startswith("usage: python -m raydml.data ")
    assert outcomes["help"].code == 0
    assert all(word in outcomes["help"].out for word in ("check", "prepare", "DATA", "path=value"))


def test_good_data_end_with_the_next_command_which_is_right(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(root), *overrides(root)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"images +. 40 ", out)
    assert "20 images of 5 classes" in out
    assert "4 to 4, median 4" in out
    assert "0 errors, 0 warnings, 0 notes" in out
    last = out.splitlines()[-1]
    assert last.startswith("  next: python -m raydml.data prepare ")
    action, place, *words = shlex.split(last)[4:]
    assert action == "prepare"
    assert located(place, words).config == located(str(root), overrides(root)).config


def test_warnings_alone_are_no_failure_but_errors_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = root / "class01" / "copy.jpg"
    copy.write_bytes((root / "class01" / "0.jpg").read_bytes())
    assert cli.main(["data", "check", str(root), *overrides(root)]) == 0
    assert "warning: 1 file is several times in a class" in capsys.readouterr().out
    copy.write_bytes((root / "class09" / "0.jpg").read_bytes())
    assert cli.main(["data", "check", str(root), *overrides(root)]) == 1
    out = capsys.readouterr().out
    assert "error: 1 file is in training and test classes: 2 images of the same bytes\n" in out
    assert "    class01/copy.jpg = class09/0.jpg\n" in out
    assert "  mend: remove one of each" in out
    assert out.splitlines()[-1] == "  next: mend the errors and check again"


def test_at_most_ten_examples_are_printed_and_all_are_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(root.rglob("*.jpg"))[:12]:
        path.write_bytes(b"")
    out = root.parent / "found" / "all.json"
    assert cli.main(["data", "check", str(root), *overrides(root), f"out={out}"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("it is empty") == 10
    assert "    ... and 2 more (out=FILE.json lists all)\n" in printed
    assert f"written: {out}\n" in printed
    written = json.loads(out.read_text(encoding="utf-8"))
    [finding] = [finding for finding in written["findings"] if finding["name"] == "unreadable"]
    assert (finding["level"], finding["count"], len(finding["examples"])) == ("error", 12, 12)
    assert written["overview"]["num_images"] == 40
    assert written["config"]["root"] == str(root)


def test_a_quick_look_reads_no_image(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "class01" / "0.jpg").write_bytes(b"")
    assert cli.main(["data", "check", str(root), *overrides(root), "decode=false"]) == 0
    assert "as they are" not in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_bad_input(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root / "class01" / "0.jpg" / "all.json"
    assert cli.main(["data", "check", str(root), *overrides(root), f"out={out}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: command line: out: {out} cannot be written: ")


def test_a_study_is_checked_and_its_next_command_has_its_name(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path / "own.yaml", root)
    assert cli.main(["data", "check", str(study), "samples_per_class=2"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"  next: python -m raydml.data prepare {study} data.samples_per_class=2"
    assert cli.main(["data", "check", str(study), "data.decode=always"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"  next: python -m raydml.tune {study} data.decode=always"


def test_rendered_images_need_no_check_and_are_prepared_without_ray(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "check", STUDY]) == 0
    assert capsys.readouterr().out.startswith("glyphs: made on first use, there is nothing to check\n")
    small = ["num_classes=24", "images_per_class=8", "image_size=16", f"cache={tmp_path / 'cache'}"]
    assert cli.main(["data", "prepare", STUDY, *small]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"cache: {tmp_path / 'cache'}/")
    assert "192 images of 24 classes" in out
    assert f"  next: python -m raydml.tune {STUDY} data.num_classes=24 " in out


def test_what_is_there_is_not_prepared_again_and_loads_neither_torch_nor_ray(root: Path) -> None:
    images = open_images(config_of(root), with_test=True)
    [outcome] = outcomes_of(root.parent, {"prepare": ["data", "prepare", str(root), *overrides(root)]}).values()
    assert (outcome.code, outcome.err) == (0, "")
    first, second, third = outcome.out.splitlines()
    assert first == "already there"
    assert second.startswith(f"cache: {root.parent / 'cache' / images.fingerprint}: 40 images of 10 classes, ")
    words = shlex.split(third)
    assert words[:5] == ["next:", "python", "-m", "raydml.tune", "search_spaces/margin.yaml"]
    assert read(Path(STUDY), words[5:]).base.data == located(str(root), overrides(root)).config
    assert {"torch", "ray"}.isdisjoint(outcome.loaded)


def test_what_is_there_need_not_be_prepared(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = root.parent / "cache" / open_images(config_of(root)).fingerprint
    command = ["data", "check", str(root), *overrides(root)]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "16 x 16 pixels, in the cache" in out
    assert out.splitlines()[-1].startswith("  next: python -m raydml.tune search_spaces/margin.yaml data.kind=folder ")
    (entry / "meta.json").unlink()
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("  next: python -m raydml.data prepare ")


def test_terms_of_a_benchmark_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_cub200(tmp_path / "cub")
    command = ["data", "check", str(tmp_path / "cub"), "num_folds=2", "counts=any"]
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    assert first.startswith("terms of use: CUB-200-2011 (Wah et al. 2011) has no explicit licence")
    assert cli.main(command) == 0
    assert "terms of use" not in capsys.readouterr().out


def test_terms_are_told_of_each_kind_and_again_where_no_mark_can_be_kept(tmp_path: Path) -> None:
    assert first_terms("sop", told=tmp_path) is not None
    assert first_terms("sop", told=tmp_path) is None
    assert first_terms("inshop", told=tmp_path) is not None
    assert first_terms("folder", told=tmp_path) is None
    (tmp_path / "file").touch()
    assert first_terms("sop", told=tmp_path / "file") is not None
    assert first_terms("sop", told=tmp_path / "file") is not None


def test_a_part_of_a_benchmark_names_both_counts_and_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_cub200(tmp_path / "cub")
    assert cli.main(["data", "check", str(tmp_path / "cub"), "num_folds=2"]) == 1
    assert "instead of 11,788" in capsys.readouterr().out

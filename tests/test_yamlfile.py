"""Study files are YAML 1.2, and whatever else a file holds ends in one readable line."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydml import yamlfile
from raydml.config import ConfigError, ExperimentConfig, dump, parse


def message_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        yamlfile.loads(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        ("1.0e-3", 1e-3),
        ("12", 12),
        ("012", 12),  # no octal numbers
        ("1.0", 1.0),
        ("-3", -3),
        ("1e", "1e"),
        ("1:30", "1:30"),  # no base 60
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-5'", "1e-5"),
        ("2026-01-02", datetime.date(2026, 1, 2)),  # refused where a value is needed
        ("{loss.margin: 0.2}", {"loss.margin": 0.2}),
        ("[1, 2.0]", [1, 2.0]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    loaded = yamlfile.loads(text)
    assert loaded == value
    # A round-trip loader would give subclasses that a strict model refuses.
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "column", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, 'duplicate key "a"'),
        ("base:\n  loss: {kind: triplet, kind: margin}\n", 2, 25, 'duplicate key "kind"'),
        ("a: [1, 2\nb: 3\n", 2, 2, "while parsing a flow sequence"),
        ("a: b: c\n", 1, 5, "mapping values are not allowed here"),
        ("a:\n\tb: 1\n", 2, 1, "cannot start any token"),
        ("a: *nowhere\n", 1, 4, "undefined alias 'nowhere'"),
        ("a: 1\n---\nb: 2\n", 2, 1, "another document"),
        ("a: !!python/object/apply:os.getcwd []\n", 1, 4, "tag"),
        ("a: !raydml.Study {}\n", 1, 4, "tag"),
    ],
)
def test_malformed_yaml_names_line_and_column(text: str, line: int, column: int, problem: str) -> None:
    message = message_of(text)
    assert message.startswith(f"line {line}, column {column}: malformed YAML: ")
    assert problem in message
    assert "suppress" not in message, "the library's advice is none for a user"


@pytest.mark.parametrize(
    "text",
    [
        "loss.margin: 2026-99-99",  # looks like a date
        "when: 2026-01-02 99:00:00",
        "seed: !!int x",
        "lr: !!float x",
        "flag: !!bool x",
        "seed: !!int ''",
        "seed: " + "9" * 5000,  # more digits than Python converts
        "a: " + "[" * 600 + "]" * 600,
        "a: \x00",
    ],
    ids=lambda text: text[:24].replace("\x00", "NUL"),
)
def test_values_that_nothing_can_hold_are_bad_input_too(text: str) -> None:
    """Not a traceback from inside the YAML library."""
    assert message_of(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="ab:-[]{}!&*#'\"|>%@`?,.0129eE+\n\t \x00é", max_size=24))
def test_any_text_is_a_document_or_bad_input(text: str) -> None:
    problem = ""
    try:
        yamlfile.loads(text)
    except ConfigError as error:
        problem = str(error)
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected keys and values"),
        (b"# nothing yet\n", "expected keys and values"),
        (b"- 1\n- 2\n", "expected keys and values, but got [1, 2]"),
        (b"hello\n", "expected keys and values, but got 'hello'"),
        (b"\xff\xfe\x00\x01", "cannot be read"),
        (b"name: a\nbase: {x: [1\n", "line 3, column 1: malformed YAML"),
    ],
)
def test_a_file_that_is_no_study_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        yamlfile.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
    assert "None" not in str(caught.value), "an empty file holds nothing; None is Python's word"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.yaml: no such file$"):
        yamlfile.load(tmp_path / "study.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        yamlfile.load(tmp_path)


def test_a_file_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("storage: /data/Müller\n", encoding="utf-8")
    assert yamlfile.load(path) == {"storage": "/data/Müller"}


def test_every_value_is_written_and_none_is_null() -> None:
    text = yamlfile.dumps(ExperimentConfig())
    assert "clip_norm: null\n" in text
    assert "steps_per_epoch: null\n" in text
    loaded = yamlfile.loads(text)
    assert loaded == dump(ExperimentConfig())
    assert isinstance(loaded, dict)
    assert parse(loaded) == ExperimentConfig()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    cache=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
    lr=st.floats(1e-300, 1e300),
)
def test_what_is_written_is_read_back(cache: str | None, lr: float) -> None:
    """Words that look like numbers, dates or booleans; numbers that print with an exponent."""
    config = parse({"data": {"kind": "glyphs", "cache": cache}, "optimizer": {"kind": "sgd", "lr": lr}})
    assert yamlfile.loads(yamlfile.dumps(config)) == dump(config)


@pytest.mark.parametrize(
    "word", ["null", "~", "yes", "true", "012", "1e-5", "2026-01-02", ".inf", "a: b", "- a", "#", ""]
)
def test_words_stay_words(word: str) -> None:
    config = parse({"data": {"kind": "glyphs", "cache": word}})
    assert yamlfile.loads(yamlfile.dumps(config)) == dump(config)

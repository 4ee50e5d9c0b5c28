"""Which changes make another study, and how a folder that holds one says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raydml import identity
from raydml.config import ConfigError, parse
from raydml.config.grammar import validate
from raydml.space import Study
from raydml.train import run_spec

RAW: dict[str, Any] = {
    "name": "s",
    "protocol": {"folds_run": 2},
    "base": {"data": {"kind": "glyphs"}, "loss": {"kind": "triplet", "margin": 0.2}},
    "space": {"loss.margin": {"low": 0, "high": 1}, "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
}


def marks_of(fingerprint: str = "f", **sections: Any) -> dict[str, object]:  # noqa: ANN401
    return identity.identity_of(validate(Study, {**RAW, **sections}), fingerprint)


def hash_with(fingerprint: str = "f", **sections: Any) -> str:  # noqa: ANN401
    return identity.hash_of(marks_of(fingerprint, **sections))


SAME = hash_with()


def test_a_hash_is_twelve_digits_and_the_same_everywhere() -> None:
    assert len(SAME) == 12
    assert int(SAME, 16) >= 0
    # By `printf '{"a": "x", "b": [1.5, null]}' | sha256sum`: folders of earlier searches must stay theirs.
    assert identity.hash_of({"b": [1.5, None], "a": "x"}) == "99057de86ccd"


def test_the_order_of_keys_does_not_matter() -> None:
    sections = {key: value for key, value in RAW.items() if isinstance(value, dict)}
    backwards: dict[str, Any] = {key: dict(reversed(list(value.items()))) for key, value in sections.items()}
    assert hash_with(**backwards) == SAME
    assert identity.hash_of({"a": {"b": 1, "c": 2}, "d": 3}) == identity.hash_of({"d": 3, "a": {"c": 2, "b": 1}})


def test_a_number_is_the_same_with_and_without_a_point() -> None:
    """`{low: 0}` and `{low: 0.0}` draw the same values."""
    space = {**RAW["space"], "loss.margin": {"low": 0.0, "high": 1.0}}
    assert hash_with(space=space) == SAME


@pytest.mark.parametrize(
    "sections",
    [
        {"name": "other"},
        {"storage": "/elsewhere"},
        {"resources": {"workers_per_trial": 2, "cpus_per_worker": 4, "gpus_per_worker": 0}},
        {"search": {"num_trials": 99}},
        {"search": {"max_hours": 0.5, "sampler": "gp", "warm_start": ["runs/other"]}},
        {"search": {"max_concurrent": 1, "max_retries": 0, "keep_checkpoints": 3}},
        {"search": {"start": [{"loss.margin": 0.5}]}},
        {"base": {**RAW["base"], "data": {"kind": "glyphs", "cache": "/scratch", "prefetch_threads": 4}}},
    ],
    ids=lambda sections: json.dumps(sections),
)
def test_budgets_machines_and_places_are_no_part_of_it(sections: dict[str, Any]) -> None:
    """More trials, other machines or another cache go on with the same study."""
    assert hash_with(**sections) == SAME


@pytest.mark.parametrize(
    "sections",
    [
        {"base": {**RAW["base"], "seed": 1}},
        {"base": {**RAW["base"], "loss": {"kind": "triplet", "margin": 0.3}}},
        {"base": {**RAW["base"], "data": {"kind": "glyphs", "noise": 0.2}}},
        {"space": {"loss.margin": RAW["space"]["loss.margin"]}},
        {"space": {**RAW["space"], "loss.margin": {"low": 0, "high": 0.9}}},
        {"protocol": {"folds_run": 1}},
        {"search": {"metric": "val/recall@1"}},
        {"fingerprint": "g"},
    ],
    ids=lambda sections: json.dumps(sections)[:60],
)
def test_what_results_depend_on_makes_another_study(sections: dict[str, Any]) -> None:
    assert hash_with(**sections) != SAME


def test_the_place_of_the_images_is_no_part_of_it() -> None:
    """Their fingerprint tells whether they are the same."""

    def hash_of_table(fingerprint: str = "f", **places: str) -> str:
        data = {"kind": "csv", "root": "/here/images.csv", **places}
        return hash_with(fingerprint, base={**RAW["base"], "data": data})

    assert hash_of_table(root="s3://there/other.csv", images="/elsewhere") == hash_of_table()
    assert hash_of_table("g") != hash_of_table()


def test_the_folder_of_a_training_follows_the_place_of_its_images() -> None:
    """Nobody has looked at them when the folder is chosen; how they are read is left out all the same."""

    def folder(**fields: object) -> Path:
        data = {"kind": "folder", "root": "/here", "cache": "/a"} | fields
        return run_spec(parse({"data": data}), storage="/runs", name="x", split="train", fold=0).directory

    assert folder(cache="/b", prefetch_threads=4) == folder()
    assert folder(root="/there") != folder()
    assert folder(image_size=300) != folder()


def test_the_fingerprint_of_the_images_is_found_again(tmp_path: Path) -> None:
    assert identity.fingerprint_in(tmp_path) is None
    identity.write(tmp_path, marks_of("abc"))
    assert identity.fingerprint_in(tmp_path) == "abc"


def test_more_seeds_are_a_budget_and_a_phase_is_none() -> None:
    honest = hash_with(protocol="honest")
    more = {"confirm": {"top": 9, "seeds": 5, "half_width": 0.01, "max_seeds": 30}, "final": {"seeds": 9}}
    assert hash_with(protocol={"preset": "honest", **more}) == honest
    for part in ({"confirm": None}, {"final": None}, {"final": {"best_epoch_on_test": True}}, {"folds_run": 2}):
        assert hash_with(protocol={"preset": "honest", **part}) != honest


def test_an_empty_folder_and_the_same_study_are_fine(tmp_path: Path) -> None:
    identity.require_same(tmp_path / "nothing", marks_of())
    identity.write(tmp_path, marks_of(), versions={"torch": "2"}, commit=None)
    identity.require_same(tmp_path, marks_of(search={"num_trials": 99}))
    stored = json.loads((tmp_path / "identity.json").read_text(encoding="utf-8"))
    assert stored == {"hash": SAME, "identity": marks_of(), "versions": {"torch": "2"}, "commit": None}


def refusal(folder: Path, marks: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        identity.require_same(folder, marks)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_different_study_is_refused_with_the_path_and_both_values(tmp_path: Path) -> None:
    identity.write(tmp_path, marks_of())
    message = refusal(tmp_path, marks_of(base={**RAW["base"], "loss": {"kind": "triplet", "margin": 0.3}}))
    assert message.startswith(f"{tmp_path} holds a different study: ")
    assert "base.loss.margin is 0.2 there and 0.3 here" in message
    assert "name=" in message
    assert "storage=" in message
    assert "more" not in message


def test_a_dimension_that_came_or_went_is_named(tmp_path: Path) -> None:
    identity.write(tmp_path, marks_of())
    message = refusal(tmp_path, marks_of(space={"loss.margin": RAW["space"]["loss.margin"]}))
    assert "space.optimizer.lr is " in message


def test_many_differences_are_counted(tmp_path: Path) -> None:
    identity.write(tmp_path, marks_of())
    other = marks_of("g", base={**RAW["base"], "seed": 4}, protocol={"folds_run": 1}, search={"metric": "val/recall@1"})
    message = refusal(tmp_path, other)
    assert "base.seed is 0 there and 4 here" in message
    assert "data_fingerprint is f there and g here" in message
    assert "(and 2 more)" in message


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b'{"hash": "x"}', b'{"identity": 3}', b"\xff\xfe"]
)
def test_an_unreadable_identity_is_named(tmp_path: Path, content: bytes) -> None:
    """Never taken for the same study, never a traceback."""
    (tmp_path / "identity.json").write_bytes(content)
    message = refusal(tmp_path, marks_of())
    assert message.startswith(f"{tmp_path / 'identity.json'}: cannot be read: ")

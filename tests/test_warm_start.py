"""Trials of other studies inform the sampler, where their values can be compared, and leave no other trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from raydml import identity, warm_start
from raydml.config import ConfigError, dump
from raydml.config.grammar import set_at, validate
from raydml.space import Study
from tests.searches import NUMBERS, SPACE, Driver, outcome, study_of


def marks_of(study: Study, fingerprint: str = "f") -> dict[str, object]:
    return identity.identity_of(study, fingerprint)


def changed(study: Study, **values: object) -> Study:
    """A study with other values; `base__seed` is the path `base.seed`."""
    raw: dict[str, object] = dump(study)
    for path, value in values.items():
        raw = set_at(raw, path.replace("__", "."), value)
    return validate(Study, raw)


def finished(folder: Path, study: Study, marks: dict[str, object] | None = None) -> Path:
    """A study searched to its end, on disk as a search leaves it."""
    folder.mkdir(parents=True)
    identity.write(folder, marks or marks_of(study))
    Driver(study, folder / "optuna.journal").run()
    return folder


def gathered(study: Study, directory: Path) -> warm_start.WarmStart:
    directory.mkdir(exist_ok=True)
    return warm_start.gather(study, directory, marks_of(study))


def searched(study: Study, directory: Path, **driver: Any) -> Driver:  # noqa: ANN401
    warm = gathered(study, directory)
    found = Driver(study, directory / "optuna.journal", warm=warm.trials, **driver)
    found.run()
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return finished(tmp_path / "source", study_of(sampler="random", num_trials=12))


def warmed(source: Path, **search: object) -> Study:
    return study_of(warm_start=[str(source)], **search)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_it_informs_the_sampler_from_the_first_trial(tmp_path: Path, source: Path, sampler: str) -> None:
    cold = searched(study_of(sampler=sampler, num_trials=3), tmp_path / "cold").memory
    warm = searched(warmed(source, sampler=sampler, num_trials=3), tmp_path / "warm").memory
    assert all(a.params != b.params for a, b in zip(cold.get_trials(), warm.get_trials(), strict=True))
    values = [trial.value or 0.0 for trial in warm.get_trials()]
    assert sum(values) > sum(trial.value or 0.0 for trial in cold.get_trials())


def test_cmaes_starts_from_the_best_of_it(tmp_path: Path) -> None:
    source = finished(tmp_path / "source", study_of(NUMBERS, sampler="random", num_trials=30))
    study = study_of(NUMBERS, sampler="cmaes", warm_start=[str(source)], num_trials=6)
    margins = [trial.params["loss.margin"] for trial in searched(study, tmp_path / "warm").memory.get_trials()]
    # The best tenth lies around 0.3; a cold start draws three trials at random, then around the middle.
    assert all(abs(margin - 0.3) < 0.16 for margin in margins)


def test_cmaes_needs_ten_of_them(tmp_path: Path) -> None:
    source = finished(tmp_path / "source", study_of(NUMBERS, num_trials=9))
    with pytest.raises(ConfigError, match="at least 10 trials, but there are 9"):
        gathered(study_of(NUMBERS, sampler="cmaes", warm_start=[str(source)]), tmp_path / "warm")


def test_its_trials_are_not_the_studys(tmp_path: Path, source: Path) -> None:
    driver = searched(warmed(source, num_trials=4), tmp_path / "warm")
    assert [trial.number for trial in driver.memory.get_trials()] == [0, 1, 2, 3]
    assert driver.searcher.num_to_run == 0


def test_start_points_still_come_first(tmp_path: Path, source: Path) -> None:
    driver = searched(warmed(source, start=[{"loss.margin": 0.45}]), tmp_path / "warm")
    assert driver.memory.get_trials()[0].params["loss.margin"] == 0.45


@pytest.mark.parametrize("stop_after", [0, 5, 14])
def test_a_killed_search_goes_on_though_the_other_study_is_gone(tmp_path: Path, source: Path, stop_after: int) -> None:
    study = warmed(source)
    undisturbed = searched(study, tmp_path / "a").memory
    warm = gathered(study, tmp_path / "b")
    Driver(study, tmp_path / "b" / "optuna.journal", warm=warm.trials).run(stop_after=stop_after)
    shutil.rmtree(source)
    assert outcome(searched(study, tmp_path / "b").memory) == outcome(undisturbed)


def test_it_is_read_once(tmp_path: Path, source: Path) -> None:
    first = gathered(warmed(source), tmp_path / "warm")
    Driver(study_of(sampler="random", num_trials=20), source / "optuna.journal").run()
    again = gathered(warmed(source), tmp_path / "warm")
    assert [t.params for t in again.trials] == [t.params for t in first.trials]
    assert len(again.trials) == 12


def test_the_other_study_is_not_touched(tmp_path: Path, source: Path) -> None:
    """Its driver may be running: half a line is one that is being written, a lock is its lock."""
    with (source / "optuna.journal").open("a", encoding="utf-8") as file:
        file.write('{"op_code":4,"wor')
    (source / "optuna.journal.lock").touch()
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    assert len(gathered(warmed(source), tmp_path / "warm").trials) == 12
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_only_finished_trials_with_values_are_taken(tmp_path: Path) -> None:
    study = study_of(early_stopping={"grace_epochs": 1, "reduction_factor": 2}, num_trials=10)
    folder = tmp_path / "source"
    folder.mkdir()
    identity.write(folder, marks_of(study))
    driver = Driver(study, folder / "optuna.journal")
    driver.run(stop_after=14)
    driver.searcher.suggest("failing")
    driver.searcher.on_trial_complete("failing", None, error=True)
    states = [trial.state.name for trial in driver.memory.get_trials()]
    assert {"COMPLETE", "PRUNED", "RUNNING", "FAIL"} == set(states)
    taken = gathered(warmed(folder), tmp_path / "warm").trials
    assert [t.state.name for t in taken] == [s for s in states if s in ("COMPLETE", "PRUNED")]
    theirs = [t for t in driver.memory.get_trials() if t.state.name in ("COMPLETE", "PRUNED")]
    assert [(t.params, t.value, t.intermediate_values) for t in taken] == [
        (t.params, t.value, t.intermediate_values) for t in theirs
    ]
    assert all(t.system_attrs == {} for t in taken), "what Optuna would unpickle stays there"


def test_other_limits_are_no_obstacle_and_points_outside_are_left_out(tmp_path: Path, source: Path) -> None:
    space = {
        **SPACE,
        "loss.margin": {"low": 0.2, "high": 1.0},
        "model.embedding_dim": {"choices": [8, 16, 64]},
    }
    study = study_of(space, warm_start=[str(source)])
    found = gathered(study, tmp_path / "warm")
    theirs = Driver(study_of(sampler="random", num_trials=12), source / "optuna.journal").memory.get_trials()
    dims = {0: 16, 1: 32, 2: 64}
    inside = [
        (t.params["loss.margin"], dims[t.params["model.embedding_dim"]])
        for t in theirs
        if t.params["loss.margin"] >= 0.2 and dims[t.params["model.embedding_dim"]] != 32
    ]
    here = {0: 8, 1: 16, 2: 64}
    assert [(t.params["loss.margin"], here[t.params["model.embedding_dim"]]) for t in found.trials] == inside
    assert 0 < len(inside) < 12
    assert found.notes == (
        f"warm start: {len(inside)} trials of {source}, {12 - len(inside)} outside this space are left out",
    )


def test_the_base_may_differ_where_it_is_searched(tmp_path: Path) -> None:
    study = study_of(num_trials=3)
    source = finished(tmp_path / "source", changed(study, base__loss__margin=0.4, base__model__embedding_dim=16))
    assert len(gathered(warmed(source), tmp_path / "warm").trials) == 3


def test_several_studies_are_taken_in_order_and_each_once(tmp_path: Path, source: Path) -> None:
    other = finished(tmp_path / "other", study_of(seed=5, num_trials=2))
    study = study_of(warm_start=[str(other), str(source), str(other)])
    found = gathered(study, tmp_path / "warm")
    assert len(found.trials) == 14
    assert found.notes == (f"warm start: 2 trials of {other}", f"warm start: 12 trials of {source}")


DIFFERENT: list[tuple[dict[str, object], str]] = [
    ({"base__seed": 1}, "base.seed is 1 there and 0 here"),
    ({"base__training__num_epochs": 5}, "base.training.num_epochs is 5 there and 4 here"),
    ({"search__metric": "val/recall@1"}, "metric is val/recall@1 there and val/map@r here"),
    ({"protocol": {"folds_run": 2}}, "protocol.folds_run is 2 there and 1 here"),
    ({"space": {"loss.margin": SPACE["loss.margin"]}}, "space.loss.scope is None there and searched here"),
    ({"space": {**SPACE, "loss.scale": {"low": 4, "high": 64}}}, "space.loss.scale is searched there and None here"),
]


@pytest.mark.parametrize(("difference", "message"), DIFFERENT)
def test_values_that_cannot_be_compared_are_refused(
    tmp_path: Path, difference: dict[str, object], message: str
) -> None:
    study = study_of(num_trials=1)
    source = finished(tmp_path / "source", study, marks_of(changed(study, **difference)))
    assert message in refusal(source, tmp_path / "warm")


def refusal(source: Path, directory: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        gathered(warmed(source), directory)
    text = str(caught.value)
    assert text.startswith("search.warm_start: ")
    assert "\n" not in text
    assert not (directory / warm_start.KEPT).exists()
    return text


def test_other_images_are_refused(tmp_path: Path) -> None:
    source = finished(tmp_path / "source", study_of(num_trials=1), marks_of(study_of(), "g"))
    assert "data_fingerprint is g there and f here" in refusal(source, tmp_path / "warm")


def test_a_folder_without_a_study_or_without_a_trial_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no study" in refusal(tmp_path / "empty", tmp_path / "warm")
    assert "holds no study" in refusal(tmp_path / "missing", tmp_path / "warm")
    source = finished(tmp_path / "source", study_of(num_trials=1))
    (source / "optuna.journal").unlink()
    Driver(study_of(num_trials=1), source / "optuna.journal").run(stop_after=1)
    assert "no complete or pruned trial yet" in refusal(source, tmp_path / "warm")


def test_a_study_is_no_warm_start_of_itself(tmp_path: Path) -> None:
    source = finished(tmp_path / "source", study_of(num_trials=1))
    assert "is this study itself" in refusal(source, source)


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 3}', '{"a": [{"point": {}}]}'])
def test_an_unreadable_copy_is_named(tmp_path: Path, source: Path, content: str) -> None:
    """Never read anew in silence: the search would go on with other numbers."""
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / warm_start.KEPT).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{warm_start.KEPT}: cannot be read"):
        gathered(warmed(source), tmp_path / "warm")


def test_the_copy_holds_plain_numbers(tmp_path: Path, source: Path) -> None:
    gathered(warmed(source), tmp_path / "warm")
    [(folder, entries)] = json.loads((tmp_path / "warm" / warm_start.KEPT).read_text(encoding="utf-8")).items()
    assert folder == str(source)
    assert set(entries[0]) == {"point", "state", "value", "curve", "further"}
    assert entries[0]["point"]["model.embedding_dim"] in (16, 32, 64)

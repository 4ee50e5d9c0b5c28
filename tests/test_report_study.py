"""Every number of a search's report, computed anew from its journal and its metrics.jsonl."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from raydml.report import contents_of, report
from raydml.report.contents import Contents, StudyContents
from raydml.report.reading import find
from raydml.report.study import LEAST_TRIALS, importance_of, study_contents
from raydml.space import read
from tests.report_cases import Row, files_of, raw_pixels, rows_of, run_search, search_of

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


@pytest.fixture(scope="module")
def study(searched: Path) -> StudyContents:
    return study_contents(searched)


@pytest.fixture(scope="module")
def journal(searched: Path) -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(searched / "optuna.journal")))
    return optuna.load_study(study_name="small", storage=storage).get_trials()


def rows_of_trials(searched: Path) -> dict[int, list[Row]]:
    return {int(folder.name): rows_of(folder) for folder in sorted((searched / "trials").iterdir())}


def test_the_search_has_trials_of_every_end(journal: list[FrozenTrial]) -> None:
    assert {t.state for t in journal} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


def test_the_budget_is_what_the_files_add_up_to(
    study: StudyContents, journal: list[FrozenTrial], searched: Path
) -> None:
    rows = rows_of_trials(searched)
    assert study.budget.states == Counter(STATES[t.state.name] for t in journal)
    assert study.budget.trials_asked == 6
    assert study.budget.epochs == sum(map(len, rows.values()))
    assert study.budget.seconds == pytest.approx(sum(row["seconds"] for of in rows.values() for row in of), abs=1e-9)


def test_every_trial_is_the_journals(study: StudyContents, journal: list[FrozenTrial], searched: Path) -> None:
    rows = rows_of_trials(searched)
    assert sorted(trial.number for trial in study.trials) == [t.number for t in journal]
    for trial in study.trials:
        theirs = journal[trial.number]
        assert trial.state == STATES[theirs.state.name]
        assert trial.value == theirs.value
        assert trial.values == tuple(theirs.intermediate_values.values())
        assert trial.epochs == len(rows[trial.number])
        assert trial.seconds == pytest.approx(sum(row["seconds"] for row in rows[trial.number]), abs=1e-9)
        assert trial.point == {
            "loss.margin": theirs.params["loss.margin"],
            "optimizer.lr": theirs.params["optimizer.lr"],
            "model.embedding_dim": [8, 16][theirs.params["model.embedding_dim"]],
        }
        assert trial.failure == ("the loss is not finite" if trial.number == 3 else None)


def test_complete_trials_come_first_and_the_best_of_them(study: StudyContents, journal: list[FrozenTrial]) -> None:
    complete = [t for t in journal if t.state == TrialState.COMPLETE]
    pruned = [t for t in journal if t.state == TrialState.PRUNED]
    ranked = [t.number for of in (complete, pruned) for t in sorted(of, key=lambda t: -(t.value or 0.0))]
    assert [trial.number for trial in study.trials] == [*ranked, 3]
    assert study.best is not None
    assert (study.best.number, study.best.value) == (ranked[0], max(t.value or 0.0 for t in complete))


def test_the_best_trials_metrics_and_curves_are_its_files(study: StudyContents, searched: Path) -> None:
    best = study.best
    assert best is not None
    rows = rows_of(searched / "trials" / f"{best.number:04d}")
    last = rows[-1]
    assert best.metrics == {name: value for name, value in last.items() if name.startswith("val/")}
    assert best.metrics["val/map@r"] == best.value
    assert best.folds.keys() == {0, 1}
    for name, value in best.metrics.items():
        assert {fold: of[name] for fold, of in best.folds.items()} == {f: last[f"fold{f}/{name}"] for f in (0, 1)}
        assert value == pytest.approx((last[f"fold0/{name}"] + last[f"fold1/{name}"]) / 2)
    assert best.curves.epochs == (1, 2)
    for name in ("val/map@r", "train/loss", "fold1/val/recall@1"):
        assert best.curves.metrics[name] == tuple(row[name] for row in rows)


def test_the_best_configuration_differs_from_the_base_where_it_was_searched(
    study: StudyContents, searched: Path
) -> None:
    best = study.best
    assert best is not None
    point = next(trial.point for trial in study.trials if trial.number == best.number)
    base = {"loss.margin": 0.2, "optimizer.lr": 3e-3, "model.embedding_dim": 16}
    expected = {path: (base[path], value) for path, value in point.items() if value != base[path]}
    assert {change.path: (change.before, change.after) for change in best.changes} == expected


def test_raw_pixels_are_those_of_the_folds(study: StudyContents, searched: Path) -> None:
    assert study.baseline == raw_pixels(read(searched / "study.yaml"))


def test_it_says_what_was_run_and_where_the_numbers_come_from(study: StudyContents, searched: Path) -> None:
    marks = json.loads((searched / "identity.json").read_text(encoding="utf-8"))
    assert study.stamp == "synthetic images; exploratory: 2 of 4 folds, one seed, nothing confirmed"
    assert study.protocol == {"preset": "custom", "folds_run": 2, "confirm": None, "final": None}
    assert study.identity == marks["hash"]
    assert study.provenance.fingerprint == marks["identity"]["data_fingerprint"]
    assert (study.provenance.versions, study.provenance.commit) == (marks["versions"], "0123abc")


def test_the_page_shows_those_numbers(searched: Path, study: StudyContents, tmp_path: Path) -> None:
    report([searched], out=tmp_path)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert study.best is not None
    for trial in study.trials:
        assert f"| {trial.number} | {trial.state} | {trial.epochs} | " in page
        assert trial.value is None or f"| {trial.value:.4f} |" in page
    assert f"val/map@r {study.best.value:.4f} is the best of " in page
    assert "expect less from a fresh seed" in page
    assert "reconstruction" in page
    assert f"| {study.best.metrics['val/recall@1']:.4f} | {study.baseline['recall@1']:.4f} |" in page
    assert "| 3 | the loss is not finite |" in page
    assert "0123abc" in page
    no_better = study.best.value <= study.baseline["map@r"]
    assert ("no better than raw pixels" in page) == no_better
    assert no_better, "two epochs of two steps"


def test_few_trials_say_nothing_of_importance(study: StudyContents, searched: Path, tmp_path: Path) -> None:
    complete = study.budget.states["complete"]
    assert study.importance.shares == {}
    assert study.importance.missing == f"at least 10 complete trials are needed to tell, and there are {complete}"
    report([searched], out=tmp_path)
    assert "Importance of the settings: at least 10 complete trials" in (tmp_path / "report.md").read_text("utf-8")


def made_of(values: list[float]) -> optuna.Study:
    """Trials whose value is their `a`, with a `b` that has nothing to do with it."""
    memory = optuna.create_study(direction="maximize")
    space: dict[str, BaseDistribution] = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}
    for index, value in enumerate(values):
        params = {"a": value, "b": (index * 7 % len(values)) / len(values)}
        memory.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    return memory


def test_importances_find_what_matters_and_are_the_same_every_time() -> None:
    memory = made_of([i / 30 for i in range(30)])
    found = importance_of(memory, ["a", "b"])
    assert found.missing is None
    assert found.num_trials == 30
    assert found.shares["a"] > 0.9
    assert math.fsum(found.shares.values()) == pytest.approx(1.0)
    assert importance_of(memory, ["a", "b"]) == found


def test_importances_of_nothing() -> None:
    assert "at least 10" in str(importance_of(made_of([0.1] * (LEAST_TRIALS - 1)), ["a", "b"]).missing)
    assert importance_of(made_of([0.1] * LEAST_TRIALS), ["a", "b"]).missing == (
        "all complete trials have the same value"
    )


def test_a_search_without_a_complete_trial_is_reported(tmp_path: Path, cache: Path) -> None:
    study = search_of(cache, num_trials=2)
    folder = run_search(study, tmp_path, failures={0: "out of memory", 1: "the loss is not finite"})
    found = report([folder]).contents.studies[0]
    assert found.best is None
    assert found.budget.states == {"failed": 2}
    page = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "No trial is complete" in page
    assert "| 0 | out of memory |" in page


def test_a_search_that_has_begun_no_trial_is_reported(tmp_path: Path, cache: Path) -> None:
    folder = run_search(search_of(cache), tmp_path, failures={}, trials=0)
    (folder / "baseline.json").unlink()  # it was killed before
    found = report([folder]).contents.studies[0]
    assert (found.trials, found.best, found.baseline) == ((), None, {})
    assert found.budget.states == {"waiting": 1}
    assert "No trial has begun" in (folder / "report" / "report.md").read_text(encoding="utf-8")


def test_a_running_search_is_read_and_not_touched(searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "running"
    shutil.copytree(searched, folder)
    with (folder / "optuna.journal").open("a", encoding="utf-8") as file:
        file.write('{"op_code": 4, "wor')  # its driver is just writing
    (folder / "optuna.journal.lock").touch()
    before = files_of(folder)
    found = report([folder]).contents.studies[0]
    assert len(found.trials) == 6
    assert files_of(folder) == before


def test_json_is_the_whole_report(searched: Path, tmp_path: Path) -> None:
    found = report([searched], out=tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert Contents.model_validate_json(text) == found.contents
    assert found.contents == contents_of(find([str(searched)]))

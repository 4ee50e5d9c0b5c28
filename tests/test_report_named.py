"""What naming a study, a phase, a run or several of them means; and the winners of two studies, compared."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy import stats

from raydml import yamlfile
from raydml.report import contents_of, report
from raydml.report.contents import Contents
from raydml.report.reading import find
from tests.protocol_cases import finished_study, honest, mlrc
from tests.report_cases import rows_of
from tests.report_pages import Tables


@pytest.fixture(scope="module")
def studies(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two studies of the same images with equal fresh seeds, then one whose seeds are others."""
    folder = tmp_path_factory.mktemp("studies")
    chosen = [("first", 0, (0.30, 0.41, 0.37, 0.39, 0.28)), ("second", 0, (0.30, 0.39, 0.37, 0.41, 0.28))]
    made = [finished_study(cache, folder, honest(), name=name, seed=seed, values=of) for name, seed, of in chosen]
    return [*made, finished_study(cache, folder, honest(), name="third", seed=1)]


@pytest.fixture(scope="module")
def paper(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one model for each fold in its final runs."""
    return finished_study(cache, tmp_path_factory.mktemp("paper"), mlrc(), name="paper")


def named(*runs: Path) -> Contents:
    return contents_of(find([str(run) for run in runs]))


def test_a_study_holds_its_phases_and_no_loose_trainings(studies: list[Path], tmp_path: Path) -> None:
    found = named(studies[0])
    assert (len(found.studies), found.runs, found.comparison, found.winners) == (1, (), None, ())
    shutil.copytree(studies[0] / "confirm" / "base-seed0", tmp_path / "s" / "train" / "abc")
    shutil.copytree(studies[0], tmp_path / "s", dirs_exist_ok=True)
    assert [run.name for run in named(tmp_path / "s").runs] == ["s/train/abc"]


def test_a_phase_by_itself_is_its_runs(studies: list[Path]) -> None:
    found = named(studies[0] / "confirm")
    assert found.studies == ()
    assert len(found.runs) == 12
    assert found.comparison is not None
    assert [len(group.seeds) for group in found.comparison.groups] == [3, 3, 3, 3]
    for run in found.runs:
        last = rows_of(Path(run.directory))[-1]
        assert [m.fold for m in run.models] == [0, 1]
        assert [m.metrics["val/map@r"] for m in run.models] == [last["fold0/val/map@r"], last["fold1/val/map@r"]]
    marks = json.loads((studies[0] / "identity.json").read_text("utf-8"))["identity"]
    assert {run.provenance.fingerprint for run in found.runs} == {marks["data_fingerprint"]}
    assert len(named(studies[0] / "trials").runs) == 5


def test_single_runs_of_phases_are_compared(studies: list[Path]) -> None:
    runs = sorted((studies[0] / "final").iterdir())
    found = named(*runs)
    assert found.comparison is not None
    assert found.comparison.metric == "test/map@r"
    assert {model.fold for run in found.runs for model in run.models} == {None}
    [pair] = [pair for pair in found.comparison.pairs if pair.metric == "test/map@r"]
    study = named(studies[0]).studies[0]
    assert study.final is not None
    gain = study.final.gains["last"]["map@r"].seeds
    assert abs(pair.difference.mean) == pytest.approx(abs(gain.difference.mean))
    assert pair.difference.n == 3
    assert pair.p == pytest.approx(gain.p)


def test_a_final_run_of_folds_has_a_model_for_each(paper: Path) -> None:
    [run] = named(paper / "final" / "winner-seed0").runs
    assert [model.fold for model in run.models] == [0, 1]
    for model in run.models:
        place = paper / "final" / "winner-seed0" / f"fold{model.fold}" / "evaluation" / "test" / "metrics.json"
        assert model.metrics["test/map@r"] == json.loads(place.read_text("utf-8"))["map@r"]


def winner_values(study: Path, metric: str) -> dict[int, float]:
    found = {}
    for run in study.glob("final/winner-seed*"):
        seed = YAML(typ="safe").load((run / "config.yaml").read_text("utf-8"))["seed"]
        found[seed] = json.loads((run / "evaluation" / "test" / "metrics.json").read_text("utf-8"))[metric]
    return found


def test_winners_are_compared_at_equal_seeds(studies: list[Path], tmp_path: Path) -> None:
    found = report(studies[:2], out=tmp_path).contents
    [pair] = found.winners
    assert (pair.first, pair.second, pair.missing) == ("first", "second", None)
    for metric in ("map@r", "recall@1"):
        a, b = (winner_values(study, metric) for study in studies[:2])
        assert a.keys() == b.keys()
        values = [b[seed] - a[seed] for seed in sorted(a)]
        gain = pair.metrics[metric]
        assert gain.difference.n == 3
        assert gain.difference.mean == pytest.approx(np.mean(values), abs=1e-12)
        theirs = stats.ttest_rel([b[seed] for seed in sorted(b)], [a[seed] for seed in sorted(a)])
        assert gain.p == gain.p_adjusted == pytest.approx(theirs.pvalue)
        rows = {row[0]: row for row in Tables(tmp_path / "report.html").beginning("second minus first")}
        assert rows[metric][:2] == [metric, "3"]
        assert rows[metric][2].startswith(f"{np.mean(values):.4f}")
    configs = [
        YAML(typ="safe").load((s / "final" / "winner-seed0" / "config.yaml").read_text("utf-8")) for s in studies
    ]
    assert pair.changes == {} or pair.changes["loss.margin"] == tuple(
        config["loss"]["margin"] for config in configs[:2]
    )
    assert "tied_queries" not in pair.metrics


def test_what_differs_between_winners_is_listed(studies: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(studies[1], tmp_path / "second"))
    raw = yamlfile.load(other / "study.yaml")
    raw["base"]["training"]["num_epochs"] = 1  # type: ignore[index]
    (other / "study.yaml").write_text(json.dumps(raw), "utf-8")
    for run in [*other.glob("confirm/*"), *other.glob("final/*")]:
        config = yamlfile.load(run / "config.yaml")
        config["training"]["num_epochs"] = 1  # type: ignore[index]
        (run / "config.yaml").write_text(json.dumps(config), "utf-8")
    [pair] = named(studies[0], other).winners
    assert pair.changes["training.num_epochs"] == (2, 1)
    assert pair.metrics["map@r"].difference.n == 3


def test_winners_without_anything_in_common_are_not_compared(studies: list[Path], paper: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(studies[1], tmp_path / "second"))
    marks = json.loads((other / "identity.json").read_text("utf-8"))
    marks["identity"]["data_fingerprint"] = "another"
    (other / "identity.json").write_text(json.dumps(marks), "utf-8")
    empty = Path(shutil.copytree(studies[1], tmp_path / "empty"))
    for file in empty.glob("final/winner-*/evaluation/test/metrics.json"):
        file.unlink()
    reasons = {
        other: "their images or labels are not the same",
        studies[2]: "their winners have no seed, or no way of reading out the test classes, in common",
        paper: "their winners have no seed, or no way of reading out the test classes, in common",
        empty: "no final run of the winner of second has ended and been evaluated",
    }
    for study, reason in reasons.items():
        [pair] = named(studies[0], study).winners
        assert (pair.missing, pair.metrics) == (reason, {})


def test_three_winners_are_three_pairs_with_adjusted_p(studies: list[Path], tmp_path: Path) -> None:
    again = Path(shutil.copytree(studies[1], tmp_path / "again"))
    for file in sorted(again.glob("final/winner-*/evaluation/test/*")):
        if file.name == "per_class.csv":
            file.unlink()
        else:
            numbers = json.loads(file.read_text("utf-8"))
            file.write_text(json.dumps({**numbers, "map@r": numbers["map@r"] ** 2}), "utf-8")
    found = named(*studies[:2], again, studies[2]).winners
    assert len(found) == 6
    compared = [pair for pair in found if pair.missing is None]
    tests = sorted((pair.metrics["map@r"].p or 1.0, pair.metrics["map@r"].p_adjusted or 1.0) for pair in compared)
    assert len(tests) == 3
    assert tests[0][1] == pytest.approx(min(1.0, 3 * tests[0][0]))
    assert all(before[1] <= after[1] for before, after in pairwise(tests))

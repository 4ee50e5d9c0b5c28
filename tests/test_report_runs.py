"""Every number of a comparison of trainings, computed anew from their metrics.jsonl and checked with SciPy."""

from __future__ import annotations

import json
import math
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from raydml import yamlfile
from raydml.config import ConfigError, ExperimentConfig
from raydml.report import report
from raydml.report.contents import Comparison, Contents
from raydml.statistics import power
from tests.conftest import changed
from tests.report_cases import rows_of, run_training

METRICS = ("val/map@r", "val/recall@1", "val/r_precision")


@pytest.fixture(scope="module")
def contents(repeated: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    return report([repeated], out=tmp_path_factory.mktemp("out")).contents


@pytest.fixture(scope="module")
def comparison(contents: Contents) -> Comparison:
    assert contents.comparison is not None
    return contents.comparison


def final_values(repeated: Path, metric: str) -> dict[float, dict[int, dict[int, float]]]:
    """margin -> seed -> fold -> value, from the files alone."""
    found: dict[float, dict[int, dict[int, float]]] = {}
    for folder in repeated.glob("train/*"):
        config = yamlfile.load(folder / "config.yaml")
        meta = json.loads((folder / "checkpoint" / "meta.json").read_text(encoding="utf-8"))
        margin, seed = config["loss"]["margin"], config["seed"]  # type: ignore[index]
        found.setdefault(margin, {}).setdefault(seed, {})[meta["fold"]] = rows_of(folder)[-1][metric]  # type: ignore[arg-type]
    return found


def of_seeds(values: dict[int, dict[int, float]]) -> list[float]:
    return [sum(values[seed].values()) / len(values[seed]) for seed in sorted(values)]


def test_groups_differ_in_something_else_than_seed_and_fold(comparison: Comparison, contents: Contents) -> None:
    assert [(group.name, group.settings) for group in comparison.groups] == [
        ("A", {"loss.margin": 0.1}),
        ("B", {"loss.margin": 0.5}),
    ]
    assert all((group.seeds, group.folds) == ((0, 1, 2), (0, 1)) for group in comparison.groups)
    assert sorted(run for group in comparison.groups for run in group.runs) == sorted(run.name for run in contents.runs)
    common = {change.path: change.after for change in comparison.common}
    assert common["data.num_classes"] == 24
    assert common.keys().isdisjoint({"loss.margin", "seed", "data.cache"})


@pytest.mark.parametrize("metric", METRICS)
def test_means_are_students_over_seeds(comparison: Comparison, repeated: Path, metric: str) -> None:
    values = final_values(repeated, metric)
    for group, margin in zip(comparison.groups, (0.1, 0.5), strict=True):
        found, seeds = group.means[metric], of_seeds(values[margin])
        assert found.n == 3
        assert found.mean == pytest.approx(np.mean(seeds))
        deviation = float(np.std(seeds, ddof=1))
        assert found.deviation == pytest.approx(deviation)
        low, high = stats.t.interval(0.95, 2, loc=np.mean(seeds), scale=deviation / math.sqrt(3))
        assert found.half_width == pytest.approx((high - low) / 2)


@pytest.mark.parametrize("metric", METRICS)
def test_pairs_are_a_paired_t_test_over_seeds(comparison: Comparison, repeated: Path, metric: str) -> None:
    values = final_values(repeated, metric)
    first, second = np.array(of_seeds(values[0.1])), np.array(of_seeds(values[0.5]))
    [pair] = [pair for pair in comparison.pairs if pair.metric == metric]
    assert (pair.first, pair.second, pair.num_pairs, pair.difference.n) == ("A", "B", 6, 3)
    assert pair.difference.mean == pytest.approx(float(np.mean(second - first)), abs=1e-12)
    deviation = float(np.std(second - first, ddof=1))
    if deviation < 1e-12:
        assert pair.p is None
        return
    theirs = stats.ttest_rel(second, first)
    assert pair.p == pytest.approx(theirs.pvalue)
    assert pair.p_adjusted == pair.p
    assert pair.detectable is not None
    assert power(pair.detectable, deviation, 3) == pytest.approx(0.8, abs=1e-6)
    assert pair.seeds_needed is not None
    assert power(0.005, deviation, pair.seeds_needed) >= 0.8
    assert power(0.005, deviation, pair.seeds_needed - 1) < 0.8 or pair.seeds_needed == 2


def test_a_single_training_has_its_metrics_and_no_interval(repeated: Path) -> None:
    folder = sorted(repeated.glob("train/*"))[0]
    found = report([folder])
    assert found.directory == folder / "report"
    [run] = found.contents.runs
    rows = rows_of(folder)
    assert run.models[0].metrics == {name: value for name, value in rows[-1].items() if name.startswith("val/")}
    assert run.curves.metrics["train/loss"] == tuple(row["train/loss"] for row in rows)
    assert run.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert found.contents.comparison is not None
    [group] = found.contents.comparison.groups
    assert group.means["val/map@r"].half_width is None
    page = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert f"| val/map@r | {rows[-1]['val/map@r']:.4f} |" in page
    assert "nan" not in page.lower()
    assert "> Synthetic images (glyphs)." in page
    shutil.rmtree(folder / "report")


def test_three_groups_are_adjusted_for_three_pairs(repeated: Path, tmp_path: Path, tiny: ExperimentConfig) -> None:
    for seed in (0, 1, 2):
        third = changed(tiny, loss__margin=0.5, optimizer__lr=1e-4, seed=seed, training__num_epochs=2)
        run_training(third, tmp_path)
    found = report([repeated, tmp_path / "seeds"], out=tmp_path / "out", metric="val/recall@2").contents.comparison
    assert found is not None
    assert found.metric == "val/recall@2"
    assert [group.settings for group in found.groups] == [
        {"loss.margin": 0.1, "optimizer.lr": 0.003},
        {"loss.margin": 0.5, "optimizer.lr": 0.0001},
        {"loss.margin": 0.5, "optimizer.lr": 0.003},
    ]
    pairs = [pair for pair in found.pairs if pair.metric == "val/map@r"]
    assert [(pair.first, pair.second) for pair in pairs] == list(combinations("ABC", 2))
    assert [pair.num_pairs for pair in pairs] == [3, 6, 3], "only fold 0 is shared"
    raw = sorted((pair.p, pair.p_adjusted) for pair in pairs if pair.p is not None and pair.p_adjusted is not None)
    assert raw[0][1] == pytest.approx(min(1.0, 3 * raw[0][0]))
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| B - A | val/recall@2 | 3 |" in page
    assert "p (Holm)" in page


def test_a_training_that_was_interrupted_is_in_no_mean(repeated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    shutil.copytree(repeated, folder)
    victim = sorted(folder.glob("train/*"))[0]
    lines = (victim / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (victim / "metrics.jsonl").write_text(lines[0] + "\n", encoding="utf-8")
    found = report([folder]).contents
    assert found.notes[0] == f"seeds/train/{victim.name}: ended after epoch 1 of 2: in no mean"
    assert found.comparison is not None
    assert f"seeds/train/{victim.name}" not in [run for group in found.comparison.groups for run in group.runs]
    assert len(found.runs) == 12
    for other in folder.glob("train/*"):
        (other / "metrics.jsonl").unlink()
    nothing = report([folder]).contents
    assert nothing.comparison is None
    assert len(nothing.notes) == 12


def test_means_over_less_than_it_seems_are_noted(repeated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    shutil.copytree(repeated, folder)
    of_first = {}
    for run in report([folder]).contents.runs:
        if run.config["loss"]["margin"] == 0.1:  # type: ignore[index,call-overload]
            of_first[run.seed, run.models[0].fold] = Path(run.directory)
    shutil.rmtree(of_first[1, 0])
    evaluation = of_first[0, 0] / "evaluation" / "test"
    evaluation.mkdir(parents=True)
    (evaluation / "metrics.json").write_text('{"map@r": 0.25}', encoding="utf-8")
    notes = report([folder]).contents.notes
    assert notes == (
        "group A: not every run has test/map@r: means are over those that do",
        "group A: not every seed has the same folds: a mean over seeds is one over folds too",
    )


def test_an_experiment_that_is_there_twice_counts_once(repeated: Path, tmp_path: Path) -> None:
    one = sorted(repeated.glob("train/*"))[0]
    shutil.copytree(one, tmp_path / "copy" / "train" / one.name)
    found = report([one, tmp_path / "copy", one], out=tmp_path / "out").contents
    assert len(found.runs) == 2
    assert found.comparison is not None
    [group] = found.comparison.groups
    assert group.means["val/map@r"].n == 1
    assert found.notes == (f"copy/train/{one.name}: the same experiment as seeds/train/{one.name}: counted once",)


def test_what_an_evaluation_left_is_reported(repeated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(sorted(repeated.glob("train/*"))[0], folder)
    evaluation = folder / "evaluation" / "test"
    evaluation.mkdir(parents=True)
    (evaluation / "metrics.json").write_text('{"map@r": 0.25, "num_queries": 60.0}', encoding="utf-8")
    [run] = report([folder]).contents.runs
    assert run.models[0].metrics["test/map@r"] == 0.25
    assert "test/num_queries" not in run.models[0].metrics


def test_trainings_on_all_classes_are_a_group_of_their_own(
    repeated: Path, tmp_path: Path, tiny: ExperimentConfig
) -> None:
    config = changed(tiny, loss__margin=0.1, training__num_epochs=2)
    whole = run_training(config, tmp_path, all_classes=True)
    alone = report([whole]).contents
    assert alone.comparison is not None
    assert alone.comparison.groups[0].means == {}
    assert alone.runs[0].models[0].fold is None
    found = report([repeated, whole], out=tmp_path / "out").contents.comparison
    assert found is not None
    assert [group.settings["split"] for group in found.groups] == ["train", "trainval", "train"]


def test_trials_are_runs_too(searched: Path, tmp_path: Path) -> None:
    trials = sorted((searched / "trials").iterdir())
    whole = [folder for folder in trials if len(rows_of(folder)) == 2][:2]
    found = report(whole, out=tmp_path).contents
    assert found.studies == ()
    assert [[model.fold for model in run.models] for run in found.runs] == [[0, 1], [0, 1]]
    for run, folder in zip(found.runs, whole, strict=True):
        last = rows_of(folder)[-1]
        assert [m.metrics["val/map@r"] for m in run.models] == [last["fold0/val/map@r"], last["fold1/val/map@r"]]
    assert found.comparison is not None
    assert len(found.comparison.groups) == 2


def test_a_trial_without_a_checkpoint_is_known_by_its_study(searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small" / "trials" / "0000"
    shutil.copytree(searched / "trials" / "0000", folder)
    shutil.copy(searched / "identity.json", tmp_path / "small" / "identity.json")
    for checkpoint in folder.glob("fold*"):
        shutil.rmtree(checkpoint)
    [run] = report([folder]).contents.runs
    marks = json.loads((searched / "identity.json").read_text(encoding="utf-8"))
    assert run.provenance.fingerprint == marks["identity"]["data_fingerprint"]


def test_a_search_and_its_trainings_are_one_report(searched: Path, repeated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(searched, folder)
    shutil.copytree(repeated / "train", folder / "train")
    found = report([folder]).contents
    assert (len(found.studies), len(found.runs)) == (1, 12)
    assert found.comparison is not None
    assert found.comparison.metric == "val/map@r"


def test_a_metric_that_nothing_has_is_refused(repeated: Path) -> None:
    with pytest.raises(ConfigError, match=r"metric: unknown metric 'val/mapr'; known: .*did you mean 'val/map@r'\?"):
        report([repeated], metric="val/mapr")


def test_places_of_reports(repeated: Path, searched: Path, tmp_path: Path) -> None:
    one, other = sorted(repeated.glob("train/*"))[:2]
    here = report([one, other], storage=str(tmp_path)).directory
    assert here.parent == tmp_path
    assert here.name.startswith("comparison-")
    assert report([other, one], storage=str(tmp_path)).directory == here, "the same runs, the same folder"
    assert report([one, searched], storage=str(tmp_path)).directory != here
    assert report([one, other], out=tmp_path / "chosen").directory == tmp_path / "chosen"
    assert sorted(path.name for path in here.iterdir()) == [f"report.{e}" for e in ("html", "json", "md", "tex")]

"""Every number on confirming and final runs, computed anew from the raw files with NumPy and SciPy alone."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from raydml.report import report
from tests.protocol_cases import BASE_WINS, finished_study, honest, legacy, mlrc
from tests.report_cases import rows_of
from tests.report_oracles import Values, bootstrap, cell, difference_cells, four, half_width, holm, p_cell, paired
from tests.report_pages import Tables

METRICS = ("map@r", "r_precision", "recall@1", "recall@2", "recall@4", "recall@8")
CASES = ("honest", "half confirmed", "half final", "base wins", "legacy", "mlrc", "one seed")


@dataclass
class Case:
    """A study on disk, its report.json and its page."""

    folder: Path
    json: dict[str, Any]
    page: Tables

    def seed(self, run: str) -> int:
        return int(YAML(typ="safe").load((self.folder / run / "config.yaml").read_text("utf-8"))["seed"])

    def names(self, phase: str) -> list[str]:
        return sorted({path.name.rpartition("-seed")[0] for path in self.folder.glob(f"{phase}/*-seed*")})


def made(kind: str, cache: Path, folder: Path) -> Path:
    match kind:
        case "base wins":
            return finished_study(cache, folder, honest(), BASE_WINS)
        case "legacy":
            return finished_study(cache, folder, legacy())
        case "mlrc":
            return finished_study(cache, folder, mlrc())
        case "one seed":
            return finished_study(cache, folder, honest(1))
    study = finished_study(cache, folder, honest())
    if kind == "half confirmed":
        shutil.rmtree(study / "final")
        (study / "test_looks.jsonl").unlink()
        shutil.rmtree(study / "confirm" / "base-seed2")
        broken_off = study / "confirm" / "0001-seed1" / "metrics.jsonl"
        broken_off.write_text(broken_off.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    if kind == "half final":
        (study / "final" / "winner-seed2" / "evaluation" / "test" / "metrics.json").unlink()
        shutil.rmtree(study / "final" / "base-seed1")
    return study


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = made(request.param, cache, tmp_path_factory.mktemp("recomputed"))
    report([folder])
    raw = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    return Case(folder, raw["studies"][0], Tables(folder / "report" / "report.html"))


def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """A difference of report.json."""
    assert found["difference"]["n"] == expected["n"]
    for key in ("mean", "half_width"):
        assert found["difference"][key] == pytest.approx(expected[key], abs=1e-12)
    for key in ("p", "detectable"):
        nothing = expected[key] is None
        assert found[key] is None if nothing else found[key] == pytest.approx(expected[key], rel=1e-6)
    assert found["seeds_needed"] == expected["seeds_needed"]


def confirmed(case: Case, name: str) -> tuple[dict[int, float], Values]:
    """Means by seed and values by seed and fold, up to the first run that has not ended."""
    means: dict[int, float] = {}
    folds: Values = {}
    for k in range(20):
        run = f"confirm/{name}-seed{k}"
        rows = rows_of(case.folder / run) if (case.folder / run).exists() else []
        if len(rows) < 2:
            break
        last, seed = rows[-1], case.seed(run)
        means[seed] = last["val/map@r"]
        folds |= {(seed, fold): last[f"fold{fold}/val/map@r"] for fold in (0, 1)}
    return means, folds


def test_every_number_of_the_confirming_runs(case: Case) -> None:
    found = case.json["confirm"]
    if not (case.folder / "confirm").exists():
        assert found is None
        return
    candidates = {one["name"]: one for one in found["candidates"]}
    assert sorted(candidates) == case.names("confirm")
    raw = {name: confirmed(case, name) for name in candidates}
    tuned = [name for name in candidates if name != "base"]
    expected = {name: paired(raw["base"][1], raw[name][1]) for name in tuned}
    tested = [name for name in tuned if expected[name]["p"] is not None]
    adjusted = dict(zip(tested, holm([expected[name]["p"] for name in tested]), strict=True))
    for name, one in candidates.items():
        values = list(raw[name][0].values())
        trial = 0 if name == "base" else int(name)
        searched = rows_of(case.folder / "trials" / f"{trial:04d}")[-1]["val/map@r"]
        assert one["search_value"] == searched
        assert one["values"] == {str(seed): value for seed, value in raw[name][0].items()}
        assert one["mean"]["n"] == len(values)
        assert one["mean"]["mean"] == pytest.approx(np.mean(values), abs=1e-12)
        assert one["mean"]["half_width"] == pytest.approx(half_width(values), abs=1e-12)
        assert one["inflation"] == pytest.approx(searched - np.mean(values), abs=1e-12)
        if name != "base":
            check(one["minus_base"], expected[name])
            assert (one["minus_base"]["p_adjusted"] is None) == (name not in adjusted)
            assert name not in adjusted or one["minus_base"]["p_adjusted"] == pytest.approx(adjusted[name], rel=1e-6)
    means = {name: np.mean(list(raw[name][0].values())) for name in candidates}
    asked = found["runs_asked"] // len(candidates)
    whole = all(len(raw[name][0]) >= asked for name in candidates)
    assert found["winner"] == (max(means, key=lambda name: means[name]) if whole else None)
    assert found["runs_done"] == sum(len(rows_of(path)) == 2 for path in (case.folder / "confirm").iterdir())
    rows = []
    for name, one in candidates.items():
        values, gain = list(raw[name][0].values()), expected.get(name)
        words = "base (trial 0)" if name == "base" else f"trial {int(name)}"
        cells = ["-"] * 5
        if gain is not None:
            tests = [p_cell(gain["p"]), p_cell(adjusted.get(name))]
            cells = [cell(gain["mean"], gain["half_width"]), *tests, *difference_cells(gain)]
        head = [words + (", winner" if name == found["winner"] else ""), four(one["search_value"]), str(len(values))]
        rows.append([*head, cell(float(np.mean(values)), half_width(values)), *cells])
    assert case.page.beginning("val/map@r of the candidates") == rows


def test_fold_curves_are_means_over_seeds(case: Case) -> None:
    found = case.json["confirm"]
    if found is None or found["winner"] is None:
        assert found is None or found["fold_curves"] == {}
        return
    runs = [rows_of(path) for path in sorted((case.folder / "confirm").glob(f"{found['winner']}-seed*"))]
    for fold in (0, 1):
        curve = [np.mean([rows[epoch][f"fold{fold}/val/map@r"] for rows in runs]) for epoch in (0, 1)]
        assert found["fold_curves"][str(fold)] == pytest.approx(curve, abs=1e-12)


def test_every_run_is_listed_with_its_own_value(case: Case) -> None:
    for phase, caption in (("confirm", "Every confirming run"), ("final", "Every final run")):
        if case.json[phase] is None:
            continue
        for name, seed, state, epochs, value, _ in case.page.beginning(caption):
            if not (case.folder / name).exists():
                assert (state, epochs, value) == ("not begun", "0/2", "-")
                continue
            rows = rows_of(case.folder / name)
            assert (int(seed), epochs) == (case.seed(name), f"{len(rows)}/2")
            test = case.folder / name / "evaluation" / "test" / "metrics.json"
            if phase == "confirm" and state == "done" and value != "-":
                assert value == f"{rows[-1]['val/map@r']:.4f}"
            elif phase == "final" and state == "done":
                assert value == f"{json.loads(test.read_text('utf-8'))['map@r']:.4f}"
            else:
                assert value == "-"
                assert state in ("done", "unfinished", "not evaluated")


def read_classes(folder: Path) -> tuple[dict[str, list[float]], list[int]]:
    with (folder / "per_class.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in METRICS}, [int(row["num_queries"]) for row in rows]


def evaluations(case: Case, name: str) -> dict[str, dict[tuple[int, int | None], Path]]:
    """Folders of evaluations by read-out, seed and fold; of the runs that have all of them."""
    found: dict[str, dict[tuple[int, int | None], Path]] = {}
    by_fold = case.json["final"]["models"] == "folds"
    for run in sorted(case.folder.glob(f"final/{name}-seed*")):
        seed = case.seed(f"final/{run.name}")
        whole = run / "evaluation" / "test"
        if not (whole / "metrics.json").exists():
            continue
        found.setdefault("concatenated" if by_fold else "last", {})[seed, None] = whole
        for fold in (0, 1) if by_fold else ():
            found.setdefault("separated", {})[seed, fold] = run / f"fold{fold}" / "evaluation" / "test"
    return found


def metric_of(places: dict[tuple[int, int | None], Path], metric: str) -> Values:
    return {at: json.loads((place / "metrics.json").read_text("utf-8"))[metric] for at, place in places.items()}


def by_seed(values: Values) -> list[float]:
    return [float(np.mean([values[at] for at in values if at[0] == seed])) for seed in sorted({at[0] for at in values})]


def class_means(places: dict[tuple[int, int | None], Path], metric: str) -> np.ndarray[Any, Any]:
    return np.array(np.mean([read_classes(place)[0][metric] for place in places.values()], axis=0))


def test_every_number_of_the_final_runs(case: Case) -> None:
    found = case.json["final"]
    if not (case.folder / "final").exists():
        assert found is None
        return
    assert [one["name"] for one in found["finalists"]] == sorted(case.names("final"), reverse=True)
    headings, columns, classes = [], [], []
    for one in found["finalists"]:
        places = evaluations(case, one["name"])
        assert set(one["metrics"]) - {"selected"} == set(places)
        for read_out in (name for name in ("last", "separated", "concatenated") if name in places):
            headings.append((one["name"], read_out, places[read_out]))
            column, intervals = [], []
            for metric in METRICS:
                values = by_seed(metric_of(places[read_out], metric))
                on_test = one["metrics"][read_out][metric]
                assert sorted(one["values"][read_out][metric].values()) == pytest.approx(sorted(values), abs=1e-12)
                assert on_test["mean"]["n"] == len(values)
                assert on_test["mean"]["mean"] == pytest.approx(np.mean(values), abs=1e-12)
                assert on_test["mean"]["half_width"] == pytest.approx(half_width(values), abs=1e-12)
                sizes = read_classes(next(iter(places[read_out].values())))[1]
                low, high = bootstrap(class_means(places[read_out], metric), sizes)
                assert (on_test["classes"]["low"], on_test["classes"]["high"]) == pytest.approx((low, high), abs=1e-9)
                assert on_test["classes"]["mean"] == pytest.approx(np.mean(values), abs=1e-9)
                column.append(cell(float(np.mean(values)), half_width(values)))
                intervals.append(f"{low:.4f} to {high:.4f}")
            columns.append(column)
            classes.append(intervals)
    rows = [row[1:] for row in case.page.beginning("On the test classes")][: len(METRICS)]
    shown = [list(column) for column in zip(*rows, strict=True)]
    header = next(r for name, r in case.page.tables.items() if name.startswith("On the test classes"))[0][1:]
    assert [column for column, name in zip(shown, header, strict=True) if "selected" not in name] == columns
    rows = [row[1:] for row in case.page.beginning("95 % interval over the 9 test classes")]
    assert [list(column) for column in zip(*rows, strict=True)] == classes


def test_every_difference_on_the_test_classes(case: Case) -> None:
    found = case.json["final"]
    if found is None or len(found["finalists"]) < 2:
        assert found is None or found["gains"] == {}
        return
    winner, base = evaluations(case, "winner"), evaluations(case, "base")
    rows = []
    for read_out in (name for name in ("separated", "concatenated", "last") if name in winner):
        common = {seed for seed, _ in winner[read_out].keys() & base[read_out].keys()}
        first = {at: place for at, place in base[read_out].items() if at[0] in common}
        second = {at: place for at, place in winner[read_out].items() if at[0] in common}
        sizes = read_classes(next(iter(first.values())))[1]
        for metric in METRICS:
            expected = paired(metric_of(first, metric), metric_of(second, metric))
            gain = found["gains"][read_out][metric]
            check(gain["seeds"], expected)
            low, high = bootstrap(class_means(second, metric) - class_means(first, metric), sizes)
            assert (gain["classes"]["low"], gain["classes"]["high"]) == pytest.approx((low, high), abs=1e-9)
            assert gain["classes"]["mean"] == pytest.approx(expected["mean"], abs=1e-9)
            name = metric if read_out == "last" else f"{metric}, {read_out}"
            numbers = [cell(expected["mean"], expected["half_width"]), f"{low:.4f} to {high:.4f}"]
            rows.append([name, str(expected["n"]), *numbers, p_cell(expected["p"]), *difference_cells(expected)])
    assert case.page.beginning("Winner minus base") == rows

"""The report of a search as a user gets it, beside what the search itself left and printed."""

from __future__ import annotations

import json
import re

import pytest

from tests.integration.conftest import FinishedSearch
from tests.integration.studies import curves_of, run, trials_of


@pytest.fixture(scope="module")
def page(finished: FinishedSearch) -> str:
    """Standard output of the command, its files being in the study."""
    process = run("report", finished.folder)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_it_says_where_the_four_files_are(finished: FinishedSearch, page: str) -> None:
    names = [f"report.{ending}" for ending in ("html", "md", "tex", "json")]
    assert page.splitlines() == [f"written: {finished.folder / 'report' / name}" for name in names]
    assert all((finished.folder / "report" / name).stat().st_size > 1000 for name in names)


@pytest.mark.usefixtures("page")
def test_its_numbers_are_the_searchs(finished: FinishedSearch) -> None:
    report = json.loads((finished.folder / "report" / "report.json").read_text(encoding="utf-8"))
    [study] = report["studies"]
    trials = trials_of(finished.folder)
    assert {t["number"]: t["value"] for t in study["trials"]} == {t.number: t.value for t in trials}
    best = max((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: t.value or 0.0)
    assert (study["best"]["number"], study["best"]["value"]) == (best.number, best.value)
    curve = [row["val/map@r"] for row in curves_of(finished.folder)[f"{best.number:04d}"]]
    assert study["best"]["curves"]["metrics"]["val/map@r"] == curve
    printed = re.search(
        r"best: trial (\d+), val/map@r ([\d.]+), [\d.]+ x raw pixels \(([\d.]+)\)", finished.process.stdout
    )
    assert printed is not None
    assert (int(printed[1]), printed[2]) == (best.number, f"{best.value:.4f}")
    assert printed[3] == f"{study['baseline']['map@r']:.4f}"


@pytest.mark.usefixtures("page")
def test_the_best_configuration_is_the_one_of_best_yaml(finished: FinishedSearch) -> None:
    report = json.loads((finished.folder / "report" / "report.json").read_text(encoding="utf-8"))
    changes = {change["path"]: change["after"] for change in report["studies"][0]["best"]["changes"]}
    text = (finished.folder / "best.yaml").read_text(encoding="utf-8")
    for path, value in changes.items():
        assert re.search(rf"^ +{path.rpartition('.')[2]}: {re.escape(str(value))}$", text, flags=re.MULTILINE), path

"""A search against the metric, the dimension and the time: killed, gone on with, reported, opened in the dashboard."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import wsgi

from raydml.record import best_of, pareto_front
from raydml.space import read
from tests.integration.studies import command, curves_of, environment, run_here, trials_of, wait_for, write_study

DIM = "model.embedding_dim"
# Drawn at random: what a sampler learns from the time is never the same twice.
OPTIONS = (
    f"space={{loss.margin: {{low: 0.0, high: 0.6}}, {DIM}: {{choices: [4, 8, 16]}}}}",
    "search={num_trials: 4, startup_trials: 4, max_concurrent: 1}",
    f"search.minimize=[{DIM}, seconds]",
    f"search.start=[{{{DIM}: 4}}]",
)


def seconds_by_file(folder: Path, number: int) -> float:
    text = (folder / "trials" / f"{number:04d}" / "metrics.jsonl").read_text(encoding="utf-8")
    return math.fsum(float(json.loads(line)["seconds"]) for line in text.splitlines())


def outcome_without_time(folder: Path) -> list[tuple[object, ...]]:
    return [
        (t.number, t.state.name, t.params, t.values and t.values[:2], t.intermediate_values) for t in trials_of(folder)
    ]


def epochs_of(folder: Path, number: int) -> int:
    path = folder / "trials" / f"{number:04d}" / "metrics.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, cache: Path, ray_here: None) -> Path:
    """Folder of a study whose driver was killed in the second trial, and that was then searched to its end."""
    place = tmp_path_factory.mktemp("killed")
    path, folder = write_study(place, cache), place / "runs" / "small"
    driver = subprocess.Popen(
        command("tune", path, *OPTIONS), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: epochs_of(folder, 1) >= 1)
    driver.kill()
    driver.wait()
    # One may have ended just before the kill, and none begun.
    was_running = any(trial.state.name == "RUNNING" for trial in trials_of(folder))
    again = run_here("tune", path, *OPTIONS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert bool(re.search(r"^trial +\d goes on: ", again.stdout, re.MULTILINE)) == was_running
    assert "Pareto front of large val/map@r, small model.embedding_dim, small seconds: trials" in again.stdout
    return folder


@pytest.mark.usefixtures("ray_here")
def test_a_kill_changes_nothing_but_the_time(killed: Path, tmp_path: Path, cache: Path) -> None:
    process = run_here("tune", write_study(tmp_path, cache), *OPTIONS)
    assert process.returncode == 0, process.stdout + process.stderr
    folder = tmp_path / "runs" / "small"
    assert outcome_without_time(killed) == outcome_without_time(folder)
    assert curves_of(killed) == curves_of(folder)


def test_values_are_metric_dimension_and_the_time_of_all_epochs(killed: Path) -> None:
    trials = trials_of(killed)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    for trial in trials:
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
        metric, dim, seconds = trial.values
        assert metric == trial.intermediate_values[4]
        assert dim == [4, 8, 16][trial.params[DIM]]
        assert seconds == pytest.approx(seconds_by_file(killed, trial.number), abs=1e-9)


def test_the_best_is_the_best_by_the_metric_and_can_be_trained(killed: Path) -> None:
    study, best = read(killed / "study.yaml"), read(killed / "best.yaml")
    winner = max(trials_of(killed), key=lambda trial: trial.values[0])
    assert study.search.early_stopping is None
    assert (best.space, best.search.minimize) == ({}, ())
    assert best.base.model.embedding_dim == winner.values[1]
    assert [path.parent.name for path in killed.glob("trials/*/checkpoint")] == [f"{winner.number:04d}"]


def test_the_report_has_the_front(killed: Path) -> None:
    process = run_here("report", killed)
    assert process.returncode == 0, process.stderr
    [study] = json.loads((killed / "report" / "report.json").read_text(encoding="utf-8"))["studies"]
    trials = trials_of(killed)
    assert study["front"] == [trial.number for trial in pareto_front(trials)]
    best = best_of(trials)
    assert best is not None
    assert study["best"]["number"] == study["front"][0] == best.number
    page = (killed / "report" / "report.html").read_text(encoding="utf-8")
    assert "The Pareto front" in page
    assert "val/map@r against seconds" in page


def test_optuna_dashboard_opens_it_with_names_and_directions(killed: Path) -> None:
    application = wsgi(JournalStorage(JournalFileBackend(str(killed / "optuna.journal"))))

    def got(path: str, query: str = "") -> Any:  # noqa: ANN401
        status: list[str] = []
        asked: dict[str, object] = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query}
        asked |= {"SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}
        asked |= {"wsgi.input": io.BytesIO()}
        body = b"".join(application(asked, lambda code, headers, *_: status.append(code)))
        assert status == ["200 OK"], body
        return json.loads(body)

    [summary] = got("/api/studies")["study_summaries"]
    assert summary["directions"] == ["maximize", "minimize", "minimize"]
    detail = got(f"/api/studies/{summary['study_id']}", "after=0")
    assert detail["objective_names"] == ["val/map@r", DIM, "seconds"]
    assert [(len(t["values"]), len(t["intermediate_values"])) for t in detail["trials"]] == [(3, 4)] * 4

"""The Pareto front of a report, computed anew from the journal, in every format."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raydml.report import drawing, front, report
from raydml.report.blocks import Paragraph, Picture, Table
from raydml.report.contents import StudyContents, Trial
from raydml.report.study import importance_of, study_contents
from tests.report_cases import rows_of, run_search, search_of

DIM = "model.embedding_dim"
MINIMIZE = [DIM, "seconds"]


@pytest.fixture(scope="module")
def folder(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trials against dimension and time, one of which failed."""
    study = search_of(cache, minimize=MINIMIZE, early_stopping=None, num_trials=8)
    return run_search(study, tmp_path_factory.mktemp("front"), failures={3: "the loss is not finite"})


@pytest.fixture(scope="module")
def study(folder: Path) -> StudyContents:
    return study_contents(folder)


@pytest.fixture(scope="module")
def journal(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name="small", storage=storage)


def test_values_are_the_journals_and_the_files(study: StudyContents, journal: optuna.Study, folder: Path) -> None:
    assert study.minimize == tuple(MINIMIZE)
    for trial in study.trials:
        theirs = journal.get_trials()[trial.number]
        if trial.state == "failed":
            assert (trial.value, trial.further) == (None, {})
            continue
        assert [trial.value, *trial.further.values()] == theirs.values
        assert list(trial.further) == MINIMIZE
        assert trial.further[DIM] == trial.point[DIM]
        rows = rows_of(folder / "trials" / f"{trial.number:04d}")
        assert trial.further["seconds"] == pytest.approx(sum(row["seconds"] for row in rows), abs=1e-9)
        assert trial.further["seconds"] == trial.seconds > 0.0


def test_the_front_is_optunas_best_by_the_metric_first(study: StudyContents, journal: optuna.Study) -> None:
    assert set(study.front) == {trial.number for trial in journal.best_trials}
    values = {trial.number: trial.value or 0.0 for trial in study.trials}
    assert [values[number] for number in study.front] == sorted((values[n] for n in study.front), reverse=True)
    assert study.best is not None
    assert study.best.number == study.front[0]


def test_a_search_with_one_objective_has_no_front(searched: Path) -> None:
    found = study_contents(searched)
    assert (found.minimize, found.front) == ((), ())
    assert all(trial.further == {} for trial in found.trials)


def test_every_format_shows_it(folder: Path, study: StudyContents, tmp_path: Path) -> None:
    report([folder], out=tmp_path)
    text = {end: (tmp_path / f"report.{end}").read_text(encoding="utf-8") for end in ("md", "tex", "html", "json")}
    by_number = {trial.number: trial for trial in study.trials}
    lines = text["md"].replace("\\_", "_").splitlines()
    [heading] = [line for line in lines if line.startswith(f"| trial | val/map@r | {DIM} | seconds |")]
    for line, number in zip(lines[lines.index(heading) + 2 :], study.front, strict=False):
        trial = by_number[number]
        first = f"| {number} | {trial.value:.4f} | {trial.point[DIM]} | {trial.further['seconds']:.4g} | "
        assert line.startswith(first)
        assert line.count("|") == 7, "two more settings"
    settings = f"| val/map@r | seconds | loss.margin | optimizer.lr | {DIM} |"
    place = lines.index(f"| trial | state | epochs {settings}") + 2
    for line, trial in zip(lines[place:], study.trials, strict=False):
        seconds = f"{trial.further['seconds']:.4g}" if trial.further else "-"
        assert line.split(" | ")[4] == seconds
    assert f"| kept small | {DIM}, seconds |" in lines
    assert "Seconds are those of" in text["md"]
    assert r"section*{The Pareto front}" in text["tex"]
    assert json.loads(text["json"])["studies"][0]["front"] == list(study.front)
    pictures = re.findall(r"<svg.*?</svg>", text["html"], flags=re.DOTALL)
    assert len(pictures) == 6, "curves, recall, two of the front, history, parallel"
    assert all(ET.fromstring(picture).tag.endswith("svg") for picture in pictures)
    assert "front0-" in text["html"]
    assert "front1-" in text["html"]


def trial_at(number: int, value: float, dim: int, seconds: float) -> Trial:
    return Trial(
        number=number,
        state="complete",
        value=value,
        further={DIM: dim, "seconds": seconds},
        values=(value,),
        epochs=1,
        seconds=seconds,
        point={DIM: dim, "loss.margin": 0.1 * number},
        failure=None,
    )


def drawn(study: StudyContents, name: str, monkeypatch: pytest.MonkeyPatch) -> Axes:
    """What a picture shows, before it becomes SVG."""
    kept: list[Figure] = []

    def svg(figure: Figure, identifier: str) -> str:
        kept.append(figure)
        return drawing.svg(figure, identifier)

    monkeypatch.setattr(front, "svg", svg)
    front.against(study, name, "x")
    [axes] = kept[0].axes
    return axes


def places(points: object) -> list[tuple[float, ...]]:
    return [tuple(point) for point in np.asarray(points).tolist()]


def test_a_picture_has_every_trial_and_a_step_line_through_its_front(
    study: StudyContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [
        trial_at(0, 0.9, 16, 30.0),
        trial_at(1, 0.8, 16, 20.0),  # beaten by 0 in the dimension, on the front by its time
        trial_at(2, 0.7, 8, 25.0),
        trial_at(3, 0.6, 16, 26.0),  # beaten in everything
    ]
    made = study.model_copy(update={"trials": tuple(trials), "front": (0, 1, 2)})
    of_dim, of_time = [(8, 0.7), (16, 0.9), (16, 0.9)], [(20, 0.8), (30, 0.9), (30, 0.9)]
    for name, steps, named in ((DIM, of_dim, {"0", "2"}), ("seconds", of_time, {"0", "1"})):
        axes = drawn(made, name, monkeypatch)
        on_front, beaten = (sorted(places(dots.get_offsets())) for dots in axes.collections)
        assert on_front == sorted((trial.further[name], trial.value) for trial in trials[:3])
        assert beaten == [(trials[3].further[name], 0.6)]
        assert places(axes.lines[0].get_xydata()) == steps
        assert {text.get_text() for text in axes.texts} == named, "corners of the line"
        assert (axes.get_xlabel(), axes.get_ylabel()) == (name, "val/map@r")


def test_one_objective_more_needs_no_word_of_planes_and_time_is_only_warned_of_where_it_counts(
    study: StudyContents,
) -> None:
    alone = study.model_copy(update={"minimize": (DIM,)})
    blocks = list(front.front_blocks(alone))
    assert not any(isinstance(block, Paragraph) and block.warning for block in blocks)
    [picture] = [block for block in blocks if isinstance(block, Picture)]
    assert picture.caption == f"val/map@r against {DIM}: the line is the front"
    [found] = [block for block in blocks if isinstance(block, Table)]
    assert found.header == ("trial", "val/map@r", DIM, "loss.margin", "optimizer.lr")


def test_importances_are_the_metrics() -> None:
    """The metric is `a`, the further objective `b`."""
    memory = optuna.create_study(directions=["maximize", "minimize"])
    for index in range(30):
        a, b = index / 30, (index * 7 % 30) / 30
        space: dict[str, BaseDistribution] = dict.fromkeys("ab", FloatDistribution(0, 1))
        memory.add_trial(optuna.trial.create_trial(params={"a": a, "b": b}, distributions=space, values=[a, b]))
    assert importance_of(memory, ["a", "b"]).shares["a"] > 0.9

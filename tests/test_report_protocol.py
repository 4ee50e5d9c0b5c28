"""What a report says of a protocol beyond its numbers: who won, what is missing, who looked at the test classes."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from raydml.report import blocks_of, contents_of, rendering, report
from raydml.report.contents import Contents, StudyContents
from raydml.report.reading import find
from tests.protocol_cases import (
    BASE_WINS,
    SEARCH_VALUES,
    finished_study,
    honest,
    legacy,
    look,
    mlrc,
    study_with,
    write_confirm,
    write_search,
)
from tests.report_cases import rows_of


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the preset honest whose phases have ended. To be read only."""
    return finished_study(cache, tmp_path_factory.mktemp("finished"), honest())


@pytest.fixture(scope="module")
def selected(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the preset legacy."""
    return finished_study(cache, tmp_path_factory.mktemp("selected"), legacy())


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The first one, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "small"))


def contents(folder: Path) -> StudyContents:
    [study] = contents_of(find([str(folder)])).studies
    return study


def page(folder: Path) -> str:
    """Words of a page, without what Markdown escapes."""
    return rendering.markdown(blocks_of(contents_of(find([str(folder)])))).replace("\\", "")


def test_the_searchs_own_runs_are_in_no_mean(finished: Path, cache: Path, tmp_path: Path) -> None:
    """Another search with the same candidates, all of its values half as high: fresh seeds say the same."""
    other = contents(finished_study(cache, tmp_path, honest(), values=[value / 2 for value in SEARCH_VALUES])).confirm
    same = contents(finished).confirm
    assert other is not None
    assert same is not None
    assert [one.mean for one in other.candidates] == [one.mean for one in same.candidates]
    assert [one.minus_base for one in other.candidates] == [one.minus_base for one in same.candidates]
    assert all(one.mean is not None and one.mean.n == 3 for one in same.candidates)
    seeds = {seed for one in same.candidates for seed in one.values}
    assert len(seeds) == 3
    assert study_with(cache, honest()).base.seed not in seeds
    for before, after in zip(same.candidates, other.candidates, strict=True):
        assert after.search_value != before.search_value
        assert after.inflation != before.inflation


def test_the_winner_is_not_the_searchs(finished: Path) -> None:
    study = contents(finished)
    assert study.best is not None
    assert study.confirm is not None
    assert (study.best.number, study.confirm.winner) == (1, "0003")
    words = page(finished)
    assert "The winner is trial 3: val/map@r 0.3" in words
    best = next(one for one in study.confirm.candidates if one.name == "0001")
    assert best.mean is not None
    more = f"{best.search_value:.4f} there: {best.inflation:.4f} more than the {best.mean.mean:.4f} of fresh seeds."
    assert f"The best of the search was trial 1 with {more}" in words
    assert "That it is better than the base is not shown" not in words


def test_a_search_that_was_too_pessimistic_says_so(cache: Path, tmp_path: Path) -> None:
    values = [value / 2 for value in SEARCH_VALUES]
    words = page(finished_study(cache, tmp_path, honest(), values=values))
    assert re.search(r"was trial 1 with 0\.2\d+ there: 0\.1\d+ less than the 0\.3\d+ of fresh seeds", words)


def test_the_base_may_win(cache: Path, tmp_path: Path) -> None:
    folder = finished_study(cache, tmp_path, honest(), BASE_WINS)
    study, words = contents(folder), page(folder)
    assert study.confirm is not None
    assert study.final is not None
    assert study.confirm.winner == "base"
    assert [one.name for one in study.final.finalists] == ["base"]
    assert "The base won, with val/map@r 0.5" in words
    assert "The base won: it met the test classes alone, and there is nothing to compare." in words
    assert "Winner minus base" not in words


def test_a_winner_by_chance_is_called_one(cache: Path, tmp_path: Path) -> None:
    level = dict.fromkeys(("base", "0001", "0002", "0003", "winner"), 0.0)
    words = page(finished_study(cache, tmp_path, honest(), {**level, "0001": 0.01}))
    assert "The winner is trial 1" in words
    assert "That it is better than the base is not shown: seeds alone" in words


def test_an_unfinished_phase_says_how_far_it_is(copied: Path) -> None:
    shutil.rmtree(copied / "final")
    for name in ("base-seed2", "0001-seed1", "0003-seed2"):
        shutil.rmtree(copied / "confirm" / name)
    rows = (copied / "confirm" / "0002-seed0" / "metrics.jsonl").read_text("utf-8").splitlines()
    (copied / "confirm" / "0002-seed0" / "metrics.jsonl").write_text(rows[0] + "\n", "utf-8")
    study, words = contents(copied), page(copied)
    assert study.confirm is not None
    assert (study.confirm.runs_done, study.confirm.runs_asked, study.confirm.winner) == (8, 12, None)
    assert study.final is None
    assert "> Not finished: 8 of 12 runs." in words
    assert "> confirm/0002-seed0: ended after epoch 1 of 2 (running or interrupted): in no mean." in words
    assert "The winner is" not in words
    means = {one.name: one.mean.n if one.mean else 0 for one in study.confirm.candidates}
    assert means == {"base": 2, "0001": 1, "0003": 2, "0002": 0}, "up to the first that is missing"


def test_a_candidate_that_failed_is_said_to_have_failed(copied: Path) -> None:
    winner = contents(copied).confirm
    assert winner is not None
    failed = next(one.name for one in winner.candidates if one.name != winner.winner)
    run = copied / "confirm" / f"{failed}-seed1"
    (run / "failure.json").write_text('{"reason": "the loss is nan"}', "utf-8")
    found = contents(copied).confirm
    assert found is not None
    assert found.winner == winner.winner
    assert f"> confirm/{failed}-seed1: failed after epoch 2 of 2, and would again" in page(copied)


def test_phases_that_have_not_begun_are_none(cache: Path, tmp_path: Path) -> None:
    study = study_with(cache, honest())
    folder = write_search(study, tmp_path)
    found = contents(folder)
    assert (found.confirm, found.final, found.looks) == (None, None, {})
    assert "the best 3 configurations and the base, 3 fresh seeds each: the best mean wins" in page(folder)
    write_confirm(study, folder)
    assert contents(folder).confirm is not None
    assert contents(folder).final is None


def test_final_runs_that_are_missing_or_of_something_else_are_in_no_mean(copied: Path) -> None:
    final = copied / "final"
    (final / "winner-seed0" / "evaluation" / "test" / "metrics.json").unlink()
    shutil.rmtree(final / "base-seed0")
    shutil.copy(final / "base-seed1" / "config.yaml", final / "winner-seed1" / "config.yaml")
    found, words = contents(copied).final, page(copied)
    assert found is not None
    assert (found.runs_done, found.runs_asked) == (3, 6)
    winner, base = found.finalists
    assert [repeat.state for repeat in winner.repeats] == ["not evaluated", "other configuration", "done"]
    assert [repeat.state for repeat in base.repeats] == ["not begun", "done", "done"]
    assert (winner.metrics["last"]["map@r"].mean.n, base.metrics["last"]["map@r"].mean.n) == (1, 2)
    assert found.gains["last"]["map@r"].seeds.difference.n == 1
    assert "> Not finished: 3 of 6 runs." in words
    assert "> final/winner-seed0: trained, but not evaluated on the test classes yet: in no mean." in words
    assert "> final/winner-seed1: trained with another configuration than this study's: in no mean." in words


def test_final_runs_wait_for_the_winner(copied: Path) -> None:
    shutil.rmtree(copied / "confirm" / "base-seed0")
    found = contents(copied).final
    assert found is not None
    assert (found.finalists, found.gains) == ((), {})
    assert "> The winner is not known yet: confirming runs are missing." in page(copied)


def test_earlier_winners_are_counted(copied: Path) -> None:
    assert "winners, one after the other" not in page(copied)
    earlier = copied / "final" / "earlier-1"
    earlier.mkdir()
    for run in sorted((copied / "final").glob("winner-seed*")):
        shutil.copytree(run, earlier / run.name)
    study = contents(copied)
    assert study.final is not None
    assert study.final.earlier_winners == 1
    assert "> The test classes were looked at for 2 winners, one after the other" in page(copied)
    [spent] = [spent for spent in study.plan.spent if spent.phase == "final"]
    assert (spent.runs, spent.epochs) == (9, 18)


def test_the_best_epoch_on_test_is_shown_where_asked_for_and_labelled(selected: Path, finished: Path) -> None:
    found = contents(selected).final
    assert found is not None
    for one in found.finalists:
        runs = [rows_of(path) for path in sorted((selected / "final").glob(f"{one.name}-seed*"))]
        for metric in ("map@r", "recall@1"):
            highest = sorted(max(row[f"test/{metric}"] for row in rows) for rows in runs)
            assert sorted(one.values["selected"][metric].values()) == pytest.approx(highest, abs=0)
        assert one.metrics["selected"]["map@r"].mean.mean > one.metrics["last"]["map@r"].mean.mean
        assert one.metrics["selected"]["map@r"].classes is None
    assert found.gains.keys() == {"last"}
    assert "| winner, selected on test, not comparable (n = 3) |" in page(selected)
    assert "no fresh seed has confirmed it" in page(selected)
    assert "selected on test" not in page(finished)


def test_looks_at_the_test_classes_are_counted_by_hand_too(copied: Path, selected: Path) -> None:
    assert contents(selected).looks == {f"final/{name}-seed{k}": 2 for name in ("winner", "base") for k in range(3)}
    assert "The test classes were looked at 6 times in this study." in page(copied)
    assert "not by the protocol's final runs" not in page(copied)
    look(copied, "trials/0003/fold1", times=2)
    look(copied, "train/abc")
    look(copied, "final/winner-seed0")
    looks = contents(copied).looks
    assert (looks["trials/0003"], looks["train/abc"], looks["final/winner-seed0"]) == (2, 1, 2)
    words = page(copied)
    assert "The test classes were looked at 10 times in this study." in words
    assert "| final/winner | 3 | 4 |" in words
    assert "> 3 of them not by the protocol's final runs" in words
    (copied / "test_looks.jsonl").unlink()
    assert "nobody noted how often the test classes were looked at" in page(copied)


def test_a_look_by_hand_counts_without_final_runs(cache: Path, tmp_path: Path) -> None:
    folder = write_search(study_with(cache, {"preset": "quick"}), tmp_path)
    look(folder, "trials/0001")
    assert contents(folder).final is None
    assert "The test classes were looked at 1 time in this study." in page(folder)


def test_the_plan_and_its_cost(finished: Path, cache: Path, tmp_path: Path) -> None:
    plan = contents(finished).plan
    assert (plan.preset, plan.folds, plan.folds_run, plan.num_trials, plan.sampler) == ("honest", 4, 2, 5, "random")
    assert "protocol.folds_run=2 instead of all" in plan.departures
    assert plan.differences == ()
    for spent, pattern in zip(plan.spent, ("trials/*", "confirm/*", "final/*"), strict=True):
        rows = [rows_of(run) for run in finished.glob(pattern)]
        assert (spent.runs, spent.epochs) == (len(rows), sum(map(len, rows)))
        assert spent.seconds == pytest.approx(sum(row["seconds"] for of_run in rows for row in of_run))
    words = page(finished)
    assert "| confirm | the best 3 configurations and the base, 3 fresh seeds each: the best mean wins |" in words
    assert "| early stopping | none |" in words
    assert "> Not as the preset honest: protocol.confirm.top=3 instead of 4;" in words
    schedule = honest(5, half_width=0.01, max_seeds=9)
    asked = page(write_search(study_with(cache, schedule), tmp_path))
    assert "5 fresh seeds each and more, up to 9, until every interval is at most +- 0.01" in asked.replace("±", "+-")


def test_a_schedule_counts_the_seeds_it_added(cache: Path, tmp_path: Path) -> None:
    """Six seeds of a schedule that began with five and has not ended: nobody has won yet."""
    schedule = study_with(cache, honest(5, half_width=0.001, max_seeds=9))
    folder = write_search(schedule, tmp_path)
    write_confirm(study_with(cache, honest(6)), folder)
    found = contents(folder).confirm
    assert found is not None
    assert (found.runs_done, found.runs_asked) == (24, 20)
    assert {one.mean.n for one in found.candidates if one.mean is not None} == {6}
    assert found.winner is None
    assert "Fewer than 5 seeds" not in page(folder).partition("### Test classes")[0]


def test_means_are_over_the_seeds_that_name_the_winner(cache: Path, tmp_path: Path) -> None:
    """An earlier schedule went on for one candidate; later ones ended with fewer seeds."""
    folder = write_search(study_with(cache, honest(5, half_width=0.9, max_seeds=9)), tmp_path)
    write_confirm(study_with(cache, honest(6)), folder)
    for run in (folder / "confirm").glob("base-seed5"):
        shutil.rmtree(run)
    found = contents(folder).confirm
    assert found is not None
    assert found.winner is not None
    assert {one.mean.n for one in found.candidates if one.mean is not None} == {5}


@pytest.mark.parametrize("kind", ["honest", "legacy", "mlrc"])
def test_json_holds_it_all_and_pictures_are_well_formed(cache: Path, tmp_path: Path, kind: str) -> None:
    protocol = {"honest": honest(), "legacy": legacy(), "mlrc": mlrc()}[kind]
    made = report([finished_study(cache, tmp_path, protocol)])
    again = Contents.model_validate_json((made.directory / "report.json").read_text("utf-8"))
    assert again == made.contents
    text = (made.directory / "report.html").read_text("utf-8")
    assert rendering.html(blocks_of(again), title="Report: small") == text
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    names = [str(e.get("id")) for picture in pictures for e in ET.fromstring(picture).iter() if e.get("id")]
    assert len(names) == len(set(names))
    drawn = {"honest": {"confirmed", "folds", "test-recall"}}.get(kind, {"test-recall"})
    assert {name.rpartition("-figure")[0] for name in names if name.endswith("figure_1")} >= drawn

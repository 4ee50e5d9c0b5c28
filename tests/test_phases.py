"""What a phase trains, hands out and leaves; the phases themselves run in tests/integration/test_phases.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raydml import atomic, yamlfile
from raydml.capacity import Capacity
from raydml.config import replace_at
from raydml.phases import checkpoint_of, failures_of, put_earlier_winner_aside, spec_of
from raydml.repeating import RepetitionSearcher, run_repetitions
from raydml.repeats import Candidate, Repetition, base_of, contenders, repetition, winner_of
from raydml.space import Study
from tests.conftest import study_folder
from tests.test_repeats import study_of, trials_of, write_run


class Recorder:
    """A listener."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, run: Repetition) -> None:
        self.events.append(("started", run.directory.name))

    def epoch(self, run: Repetition, row: Mapping[str, Any]) -> None:
        self.events.append((f"epoch {row['epoch']}", run.directory.name))

    def ended(self, run: Repetition, failure: str | None) -> None:
        self.events.append((f"ended: {failure}", run.directory.name))

    def waiting(self, line: str | None) -> None:
        self.events.append(("waiting", str(line)))


def searcher_of(study: Study, *runs: Repetition) -> tuple[RepetitionSearcher, Recorder]:
    listener = Recorder()
    return RepetitionSearcher(
        study,
        study_folder(runs[0].directory.parents[1]),
        [(run, spec_of(study, run)) for run in runs],
        Capacity.single(2, 0),
        listener,
    ), listener


def test_a_confirming_run_trains_the_folds_and_a_final_one_everything(tmp_path: Path) -> None:
    study = study_of(folds_run=2)
    base = base_of(study, [])
    confirm = spec_of(study, repetition(tmp_path, base, "confirm", 1))
    assert (confirm.split, confirm.folds) == ("train", (0, 1))
    assert confirm.directory == tmp_path / "confirm" / "base-seed1"
    assert confirm.config.seed != study.base.seed
    final = spec_of(study, repetition(tmp_path, base, "final", 0))
    assert (final.split, final.folds) == ("trainval", ())
    assert final.directory == tmp_path / "final" / "base-seed0"
    assert not final.test_every_epoch


def test_only_who_asks_for_it_selects_on_test(tmp_path: Path) -> None:
    study = study_of(final={"best_epoch_on_test": True})
    assert spec_of(study, repetition(tmp_path, base_of(study, []), "final", 0)).test_every_epoch
    assert not spec_of(study, repetition(tmp_path, base_of(study, []), "confirm", 0)).test_every_epoch


def test_the_paper_trains_a_model_for_each_fold_in_the_end_too(tmp_path: Path) -> None:
    study = study_of(folds_run=2, final={"models": "folds"})
    final = spec_of(study, repetition(tmp_path, base_of(study, []), "final", 0))
    assert (final.split, final.folds) == ("train", (0, 1))


def test_runs_are_handed_out_once_and_their_ends_told(tmp_path: Path) -> None:
    study = study_of()
    runs = [repetition(tmp_path, base_of(study, []), "confirm", k) for k in (0, 1, 2)]
    searcher, listener = searcher_of(study, *runs)
    configs = [searcher.suggest(name) for name in "abc"]
    assert [c["task"].spec.directory for c in configs if isinstance(c, dict)] == [run.directory for run in runs]
    assert searcher.suggest("d") == "FINISHED"
    searcher.on_trial_result("a", {"epoch": 1})
    searcher.on_trial_complete("a", {"epoch": 2})
    searcher.on_trial_complete("b", {"failure": "the loss is not finite"})
    searcher.on_trial_complete("c", None, error=True)
    assert searcher.failures == {
        runs[1].directory: "the loss is not finite",
        runs[2].directory: "its process died, and again after every retry",
    }
    assert listener.events[3:] == [
        ("epoch 1", "base-seed0"),
        ("ended: None", "base-seed0"),
        ("ended: the loss is not finite", "base-seed1"),
        ("ended: its process died, and again after every retry", "base-seed2"),
    ]


def test_a_run_that_tune_gave_up_before_it_began_is_no_failure(tmp_path: Path) -> None:
    study = study_of()
    searcher, listener = searcher_of(study, repetition(tmp_path, base_of(study, []), "confirm", 0))
    searcher.suggest("a")
    searcher.on_trial_complete("a", None)
    assert searcher.failures == {}
    assert listener.events == [("started", "base-seed0")]


def test_finished_runs_need_no_machines(tmp_path: Path) -> None:
    study = study_of()
    run = repetition(tmp_path, base_of(study, []), "confirm", 0)
    atomic.write_text(run.directory / "metrics.jsonl", '{"epoch": 1}\n' * 3)

    def machines() -> Capacity:
        raise AssertionError("nothing is to be done")

    assert run_repetitions(study, study_folder(tmp_path), [(run, spec_of(study, run))], machines, Recorder()) == {}


def write_final(folder: Path, candidate: Candidate, k: int) -> None:
    run = repetition(folder, candidate, "final", k)
    atomic.write_text(run.directory / "config.yaml", yamlfile.dumps(run.config))


@pytest.mark.parametrize("margins", [(0.5,), (0.5, 0.6), (0.5, 0.6, 0.7)])
def test_what_an_earlier_winner_showed_stays_on_record(tmp_path: Path, margins: tuple[float, ...]) -> None:
    study = study_of()
    for margin in margins:
        winner = Candidate("winner", replace_at(study.base, "loss.margin", margin), 1, 0.5)
        put_earlier_winner_aside(study_folder(tmp_path), winner)
        for k in (0, 1):
            write_final(tmp_path, winner, k)
        put_earlier_winner_aside(study_folder(tmp_path), winner)
    *aside, first, second = sorted(path.name for path in (tmp_path / "final").iterdir())
    assert (first, second) == ("winner-seed0", "winner-seed1")
    texts = [(tmp_path / "final" / name / "winner-seed1" / "config.yaml").read_text("utf-8") for name in aside]
    assert len(texts) == len(margins) - 1
    for margin in margins[:-1]:
        assert sum(f"margin: {margin}" in text for text in texts) == 1


def test_a_kill_while_a_winner_is_put_aside_leaves_one_winner(tmp_path: Path) -> None:
    study = study_of()
    earlier, later = (Candidate("winner", replace_at(study.base, "loss.margin", m), 1, 0.5) for m in (0.5, 0.6))
    write_final(tmp_path, earlier, 0)
    put_earlier_winner_aside(study_folder(tmp_path), later)
    write_final(tmp_path, earlier, 1)
    put_earlier_winner_aside(study_folder(tmp_path), later)
    [aside] = (tmp_path / "final").iterdir()
    assert sorted(path.name for path in aside.iterdir()) == ["winner-seed0", "winner-seed1"]


def test_another_place_of_the_cache_is_no_other_winner(tmp_path: Path) -> None:
    study = study_of()
    write_final(tmp_path, Candidate("winner", study.base, 1, 0.5), 0)
    elsewhere = Candidate("winner", replace_at(study.base, "data.cache", "/scratch"), 1, 0.5)
    put_earlier_winner_aside(study_folder(tmp_path), elsewhere)
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["winner-seed0"]


def test_the_model_that_is_kept(tmp_path: Path) -> None:
    study = study_of()
    trials = trials_of(study, [(0.5, 0.9)])
    winner = Candidate("0000", replace_at(study.base, "loss.margin", 0.5), 0, 0.9)
    assert checkpoint_of(study, study_folder(tmp_path), winner, trials) is None
    for place in ("confirm/0000-seed0", "final/winner-seed0"):
        atomic.write_text(tmp_path / place / "checkpoint" / "meta.json", json.dumps({}))
        assert checkpoint_of(study, study_folder(tmp_path), winner, trials) == tmp_path / place / "checkpoint"


def test_a_run_that_would_fail_again_is_not_tried_again_and_its_configuration_cannot_win(tmp_path: Path) -> None:
    """A loss that is not finite at a fresh seed must not block a study for good."""
    study = study_of()
    trials = trials_of(study, [(0.5, 0.9), (0.6, 0.8)])
    base, first, second = contenders(study, trials)
    for candidate, value in ((first, 0.3), (second, 0.2)):
        for k in range(2):
            write_run(tmp_path, study, candidate, k, value)
    write_run(tmp_path, study, base, 0, 0.9)
    assert winner_of(study, tmp_path, trials) is None
    diverged = repetition(tmp_path, base, "confirm", 1)
    searcher, listener = searcher_of(study, diverged)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"failure": "epoch 1, step 3: the loss is nan", "stopped": True})
    assert diverged.failure() == "epoch 1, step 3: the loss is nan"
    assert winner_of(study, tmp_path, trials) == first
    assert failures_of(tmp_path) == ("confirm/base-seed1: epoch 1, step 3: the loss is nan",)

    def machines() -> Capacity:
        raise AssertionError("nothing is to be done")

    assert (
        run_repetitions(study, study_folder(tmp_path), [(diverged, spec_of(study, diverged))], machines, listener) == {}
    )


def test_what_may_not_fail_again_is_tried_again(tmp_path: Path) -> None:
    study = study_of()
    run = repetition(tmp_path, base_of(study, []), "confirm", 0)
    searcher, _ = searcher_of(study, run)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"failure": "OSError: no space left", "stopped": False})
    assert run.failure() is None
    assert searcher.failures == {run.directory: "OSError: no space left"}


def test_where_everything_fails_nobody_wins(tmp_path: Path) -> None:
    study = study_of()
    trials = trials_of(study, [(0.5, 0.9)])
    for candidate in contenders(study, trials):
        atomic.write_json(repetition(tmp_path, candidate, "confirm", 0).directory / "failure.json", {"reason": "nan"})
    assert winner_of(study, tmp_path, trials) is None
    assert len(failures_of(tmp_path)) == 2

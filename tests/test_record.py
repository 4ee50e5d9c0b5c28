"""What a search leaves, read by someone who must not touch it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from raydml.config import ConfigError
from raydml.record import best_of, ranked, read_study, trial_directory
from raydml.search import open_study


def trial(state: TrialState, value: float | None) -> FrozenTrial:
    return create_trial(state=state, value=value, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)})


def made_of(*trials: FrozenTrial) -> list[FrozenTrial]:
    memory = optuna.create_study(direction="maximize")
    memory.add_trials(trials)
    return memory.get_trials()


def test_complete_trials_come_first_pruned_ones_next() -> None:
    found = made_of(
        trial(TrialState.FAIL, None),
        trial(TrialState.PRUNED, 0.9),
        trial(TrialState.COMPLETE, 0.2),
        trial(TrialState.COMPLETE, 0.4),
        trial(TrialState.PRUNED, 0.95),
        trial(TrialState.COMPLETE, 0.4),
    )
    assert [t.number for t in ranked(found)] == [3, 5, 2, 4, 1, 0]
    best = best_of(found)
    assert best is not None
    assert best.number == 3, "of equal ones the first"


def test_a_pruned_trial_is_never_the_best() -> None:
    assert best_of(made_of(trial(TrialState.PRUNED, 0.9), trial(TrialState.FAIL, None))) is None
    assert best_of([]) is None


def test_a_journal_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "optuna.journal"
    open_study(path, name="s").ask().suggest_float("x", 0, 1)
    with path.open("a", encoding="utf-8") as file:
        file.write("{half a li")
    before = path.read_bytes()
    assert [t.state for t in read_study(path).get_trials()] == [TrialState.RUNNING]
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["optuna.journal"]


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_study(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match="no journal of a search"):
        read_study(tmp_path / "empty")


def test_a_trial_has_a_folder_of_four_digits(tmp_path: Path) -> None:
    assert trial_directory(tmp_path, 7) == tmp_path / "trials" / "0007"

"""Which configurations are trained again, with which seeds, and who wins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from raydml import atomic
from raydml.config import Confirm, Final
from raydml.config.grammar import validate
from raydml.repeats import (
    Candidate,
    base_of,
    confirmed,
    contenders,
    due,
    evaluated,
    finalists,
    repetition,
    seed_of,
    winner_of,
)
from raydml.samplers import in_optuna
from raydml.space import Study

METRIC = "val/map@r"


def study_of(**protocol: object) -> Study:
    return validate(
        Study,
        {
            "name": "s",
            "base": {"seed": 5, "training": {"num_epochs": 3}, "loss": {"kind": "discriminate", "margin": 0.2}},
            "space": {"loss.margin": {"low": 0.0, "high": 1.0}, "seed": {"choices": [5, 6]}},
            "protocol": {"folds_run": 1, "confirm": {"top": 2, "seeds": 2}, "final": {"seeds": 2}, **protocol},
        },
    )


def trials_of(
    study: Study, values: Sequence[tuple[float, float | None]], *, seeds: Sequence[int] | None = None
) -> list[FrozenTrial]:
    """(margin, value) of each trial; a value of None is a failed one."""
    distributions = study.distributions()
    trials = []
    for number, (margin, value) in enumerate(values):
        seed = 5 if seeds is None else seeds[number]
        point = {"loss.margin": margin, "seed": seed}
        params = {path: distributions[path].encode(point[path]) for path in distributions}
        trial = create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            params=params,
            distributions=in_optuna(distributions),
            value=value,
        )
        trial.number = number
        trials.append(trial)
    return trials


def write_run(directory: Path, study: Study, candidate: Candidate, k: int, value: float, *, epochs: int = 3) -> None:
    folder = repetition(directory, candidate, "confirm", k).directory
    rows = [{"epoch": epoch, "step": epoch, METRIC: value if epoch == 3 else 0.0} for epoch in range(1, epochs + 1)]
    atomic.write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def test_the_base_and_the_best_are_confirmed() -> None:
    study = study_of()
    found = contenders(study, trials_of(study, [(0.1, 0.3), (0.5, 0.5), (0.7, None), (0.6, 0.4)]))
    assert [(c.name, c.trial, c.value) for c in found] == [("base", None, None), ("0001", 1, 0.5), ("0003", 3, 0.4)]
    assert [c.config.loss.margin for c in found if c.config.loss.kind == "discriminate"] == [0.2, 0.5, 0.6]


def test_a_configuration_is_confirmed_once_whatever_its_seed() -> None:
    study = study_of()
    trials = trials_of(study, [(0.5, 0.5), (0.5, 0.6), (0.6, 0.4), (0.7, 0.3)], seeds=[5, 6, 5, 5])
    assert [c.name for c in contenders(study, trials)] == ["base", "0001", "0002"]


def test_a_trial_that_was_the_base_stands_for_it() -> None:
    study = study_of()
    trials = trials_of(study, [(0.2, 0.5), (0.5, 0.6), (0.6, 0.4)])
    assert [(c.name, c.trial) for c in contenders(study, trials)] == [("base", 0), ("0001", 1)]
    assert base_of(study, trials).value == 0.5


def test_seeds_are_fresh_and_the_same_for_everyone() -> None:
    study = study_of()
    base, first, second = contenders(study, trials_of(study, [(0.1, 0.3), (0.5, 0.5)]))
    of_one = [seed_of(base.config, phase, k) for phase in ("confirm", "final") for k in range(50)]
    assert len({*of_one, study.base.seed}) == 101
    for k in range(3):
        runs = [repetition(Path("x"), c, "confirm", k) for c in (base, first, second)]
        assert len({run.config.seed for run in runs}) == 1
        assert runs[0].config.model_copy(update={"seed": 5}) == study.base
    assert seed_of(base.config, "confirm", 0) == 1002604896, "seeds are part of every result: never change them"


def test_the_winner_is_named_from_confirming_runs_only(tmp_path: Path) -> None:
    """The selected trial's own run counts nowhere: it was chosen for being high (defect 12 of the catalogue)."""
    study = study_of()
    trials = trials_of(study, [(0.5, 0.9), (0.6, 0.8)])
    base, first, second = contenders(study, trials)
    for candidate, values in ((base, (0.2, 0.2)), (first, (0.3, 0.3)), (second, (0.2, 0.5))):
        for k, value in enumerate(values):
            assert winner_of(study, tmp_path, trials) is None, "not before the last run"
            write_run(tmp_path, study, candidate, k, value)
    assert winner_of(study, tmp_path, trials) == second
    assert confirmed(study, tmp_path, first) == [0.3, 0.3]
    assert [c.name for c in finalists(study, second, trials)] == ["winner", "base"]
    assert finalists(study, second, trials)[0].config == second.config


def test_the_base_may_win_and_wins_ties(tmp_path: Path) -> None:
    study = study_of()
    trials = trials_of(study, [(0.5, 0.9)])
    for candidate in contenders(study, trials):
        for k in range(2):
            write_run(tmp_path, study, candidate, k, 0.4)
    winner = winner_of(study, tmp_path, trials)
    assert winner is not None
    assert winner.name == "base"
    assert [c.name for c in finalists(study, winner, trials)] == ["base"]


def test_a_run_that_has_not_ended_has_no_value(tmp_path: Path) -> None:
    study = study_of()
    base = base_of(study, [])
    write_run(tmp_path, study, base, 0, 0.4, epochs=2)
    write_run(tmp_path, study, base, 1, 0.4)
    assert confirmed(study, tmp_path, base) == []
    write_run(tmp_path, study, base, 0, 0.3)
    assert confirmed(study, tmp_path, base) == [0.3, 0.4]


def test_without_confirmation_the_best_trial_wins(tmp_path: Path) -> None:
    study = study_of(confirm=None)
    winner = winner_of(study, tmp_path, trials_of(study, [(0.1, 0.3), (0.5, 0.5), (0.7, None)]))
    assert winner is not None
    assert winner.name == "0001"
    assert winner_of(study, tmp_path, trials_of(study, [(0.7, None)])) is None


def test_without_a_complete_trial_there_is_no_winner(tmp_path: Path) -> None:
    study = study_of()
    trials = trials_of(study, [(0.7, None)])
    for k in range(2):
        write_run(tmp_path, study, base_of(study, trials), k, 0.4)
    assert winner_of(study, tmp_path, trials) is None


def test_a_final_run_is_judged_by_the_test_classes(tmp_path: Path) -> None:
    study = study_of()
    base = base_of(study, [])
    folder = repetition(tmp_path, base, "final", 0).directory
    atomic.write_text(folder / "metrics.jsonl", '{"epoch": 3}\n' * 3)
    assert repetition(tmp_path, base, "final", 0).trained()
    assert evaluated(study, tmp_path, base) == []
    atomic.write_json(folder / "evaluation" / "test" / "metrics.json", {"map@r": 0.25, "recall@1": 0.5})
    assert evaluated(study, tmp_path, base) == [0.25]


def test_a_fixed_number_of_seeds() -> None:
    assert list(due(Confirm(seeds=3), [[], []])) == [0, 1, 2]
    assert list(due(Confirm(seeds=3), [[0.1, 0.2], [0.1]])) == [1, 2], "the first that not all have"
    assert list(due(Confirm(seeds=3), [[0.1] * 3, [0.1] * 3])) == []


def test_seeds_until_every_interval_is_narrow() -> None:
    repeats = Final(seeds=5, half_width=0.1, max_seeds=7)
    narrow, wide = [0.5, 0.51, 0.5, 0.51, 0.5], [0.1, 0.9, 0.1, 0.9, 0.1]
    assert list(due(repeats, [narrow, narrow])) == []
    assert list(due(repeats, [narrow, wide])) == [5], "one at a time, for both: they stay paired"
    assert list(due(repeats, [[*narrow, 0.5], [*wide, 0.9]])) == [6]
    assert list(due(repeats, [[*narrow, 0.5, 0.5], [*wide, 0.9, 0.1]])) == [], "an end, however wide"


@given(st.lists(st.floats(0, 1), min_size=0, max_size=12), st.integers(1, 12), st.floats(1e-3, 1))
def test_a_schedule_ends_and_never_skips_a_seed(values: list[float], seeds: int, width: float) -> None:
    repeats = Final(seeds=seeds, half_width=width if seeds >= 5 else None, max_seeds=12)
    places = due(repeats, [values])
    assert not places or places.start == len(values)
    assert not places or places.stop <= repeats.most


def test_a_broken_evaluation_is_named(tmp_path: Path) -> None:
    study = study_of()
    path = repetition(tmp_path, base_of(study, []), "final", 0).directory / "evaluation" / "test" / "metrics.json"
    atomic.write_text(path, '{"map@r": "high"}')
    with pytest.raises(ValueError, match=r"metrics\.json: expected names and finite numbers"):
        evaluated(study, tmp_path, base_of(study, []))

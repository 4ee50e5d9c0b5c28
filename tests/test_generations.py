"""CMA-ES keeps numbers: the same search as Optuna's own, digit for digit, and nothing in a study that runs."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from raydml.config import ConfigError
from raydml.generations import STATE, PlainCmaEsSampler, without_pickles
from raydml.search import open_study
from tests.searches import NUMBERS, Driver, study_of

AXES = ("a", "b", "c")


def searched(sampler: type[CmaEsSampler], seed: int = 3) -> optuna.Study:
    """Thirty trials of a bowl, each drawn by a sampler of its own, as raydml asks them."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    for number in range(30):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = sampler(seed=seed + number, n_startup_trials=2, consider_pruned_trials=True)
        trial = study.ask()
        point = [trial.suggest_float(axis, -1.0, 1.0) for axis in AXES]
        study.tell(trial, sum((x - 0.3) ** 2 for x in point))
    return study


def points(study: optuna.Study) -> list[dict[str, float]]:
    return [trial.params for trial in study.get_trials()]


def test_the_search_is_optunas_own_digit_for_digit() -> None:
    plain, original = searched(PlainCmaEsSampler), searched(CmaEsSampler)
    assert points(plain) == points(original)
    states = [trial for trial in plain.get_trials() if STATE in trial.system_attrs]
    assert len(states) == 3, "generations of seven trials each; the first begins from nothing"
    assert states[-1].system_attrs["cma:generation"] == 3


def test_a_study_holds_nothing_pickled() -> None:
    """And Optuna's own does: where that fails, Optuna has found another way and this module may go."""
    for sampler, any_pickle in ((PlainCmaEsSampler, False), (CmaEsSampler, True)):
        names = {name for trial in searched(sampler).get_trials() for name in trial.system_attrs}
        assert any(name.startswith("cma:optimizer") for name in names) == any_pickle
    [state, *_] = [t.system_attrs[STATE] for t in searched(PlainCmaEsSampler).get_trials() if STATE in t.system_attrs]
    assert json.loads(state)["_g"] == 1


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def armed(study: optuna.Study, path: Path) -> None:
    """Somebody writes to a study's journal."""
    bomb = pickle.dumps(Bomb(path)).hex()
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        study.add_trial(_with(trial, {"cma:optimizer:0": bomb}))


def _with(trial: FrozenTrial, attributes: dict[str, object]) -> FrozenTrial:
    return create_trial(
        params=trial.params, distributions=trial.distributions, value=trial.value, system_attrs=attributes
    )


def test_what_somebody_put_into_a_journal_does_not_run(tmp_path: Path) -> None:
    study = study_of(NUMBERS, sampler="cmaes", startup_trials=1, num_trials=16)
    driver = Driver(study, tmp_path / "journal")
    driver.run()
    memory = open_study(tmp_path / "journal", name="s")
    armed(memory, tmp_path / "exploded")
    longer = study_of(NUMBERS, sampler="cmaes", startup_trials=1, num_trials=40)
    Driver(longer, tmp_path / "journal").run()
    assert not (tmp_path / "exploded").exists()


def test_it_would_have_run(tmp_path: Path) -> None:
    """In Optuna's own sampler, which is why there is another one."""
    study = searched(CmaEsSampler)
    armed(study, tmp_path / "exploded")
    study.ask(dict.fromkeys(AXES, optuna.distributions.FloatDistribution(-1.0, 1.0)))
    assert (tmp_path / "exploded").exists()


def test_trials_lose_only_that() -> None:
    [trial, *_] = searched(CmaEsSampler).get_trials()
    marked = _with(trial, {"cma:optimizer:0": "00", "cma:optimizer:1": "00", "cma:generation": 1, "fixed_params": {}})
    [plain] = without_pickles([marked])
    assert plain.system_attrs == {"cma:generation": 1, "fixed_params": {}}
    assert (plain.params, plain.values, plain.number) == (marked.params, marked.values, marked.number)
    assert "cma:optimizer:0" in marked.system_attrs
    assert without_pickles([plain]) == [plain]


@pytest.mark.parametrize(
    "state",
    [
        "",
        "[]",
        "{}",
        "7",
        "[" * 100_000,
        '{"_g": 1}',
        '{"_g": "import os"}',
        '{"_g": {"dtype": "object", "values": []}}',
        '{"_mean": {"dtype": "float64", "values": ["x"]}}',
        '{"_mean": {"dtype": "float64"}}',
    ],
)
def test_a_state_that_is_none_is_named(state: str) -> None:
    [trial, *_] = searched(PlainCmaEsSampler).get_trials()
    with pytest.raises(ConfigError, match=r"^search\.sampler: cmaes cannot go on from trial -1: no state of a"):
        PlainCmaEsSampler(seed=0)._restore_optimizer([_with(trial, {STATE: state})])

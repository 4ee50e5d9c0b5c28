"""What is said before a search begins: its sampler, its budget, and a package that is missing."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from raydml import cli, plan, tune
from raydml.capacity import Capacity
from raydml.config import ConfigError, SearchConfig
from raydml.config.grammar import validate
from tests.command_lines import STUDY
from tests.searches import NUMBERS, study_of

GP = (
    "sampler: gp, a Gaussian process of the complete trials: it does not see pruned ones; before it 3 trials at random "
    "or from search.start"
)


def lines(**search: object) -> list[str]:
    return list(plan.search_lines(validate(SearchConfig, search)))


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (
            {},
            [
                "sampler: tpe, tree-structured Parzen estimators; before it 6 trials at random or from search.start",
                "budget: 25 trials, no limit of hours",
            ],
        ),
        (
            {"sampler": "qmc", "max_hours": 1.5, "num_trials": 8},
            ["sampler: qmc, a scrambled Sobol sequence", "budget: 8 trials, 1.5 hours, whichever ends first"],
        ),
        ({"sampler": "random"}, ["sampler: random, every trial at random", "budget: 25 trials, no limit of hours"]),
        (
            {"sampler": "gp", "startup_trials": 3, "warm_start": ["runs/a", "runs/b"]},
            [
                GP,
                "warm start: the trials of runs/a, runs/b",
                "budget: 25 trials, no limit of hours",
            ],
        ),
    ],
)
def test_sampler_and_budget_are_told(search: dict[str, object], expected: list[str]) -> None:
    assert lines(**search) == expected


def test_check_tells_them_for_a_search_and_not_for_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", STUDY, "--check", "search.max_hours=2"]) == 0
    out = capsys.readouterr().out
    assert "\nsampler: tpe, " in out
    assert "\nbudget: 12 trials, 2 hours, whichever ends first\n" in out
    assert cli.main(["train", STUDY, "--check"]) == 0
    out = capsys.readouterr().out
    assert "\nsampler: " not in out
    assert "\nbudget: " not in out


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if a package were not installed."""
    real = importlib.util.find_spec

    def found(name: str) -> ModuleSpec | None:
        return None if name == package else real(name)

    monkeypatch.setattr(plan, "find_spec", found)


MISSING = [
    ("cmaes", "cmaes", "pip install 'raydml[cmaes]'"),
    ("gp", "torch", "pip install torch"),
    ("gp", "scipy", "pip install scipy"),
    ("qmc", "scipy", "pip install scipy"),
]


@pytest.mark.parametrize(("sampler", "package", "cure"), MISSING)
@pytest.mark.parametrize("flags", [["--check"], []])
def test_a_missing_package_is_one_line_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sampler: str,
    package: str,
    cure: str,
    flags: list[str],
) -> None:
    without(monkeypatch, package)
    assert cli.main(["tune", STUDY, *flags, f"search.sampler={sampler}", f"storage={tmp_path}"]) == 2
    expected = f"search.sampler: {sampler} needs the package {package}, which is not installed: {cure}"
    assert capsys.readouterr().err == f"error: {expected}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_hears_of_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "cmaes")
    study = study_of(NUMBERS, sampler="cmaes").model_copy(update={"storage": str(tmp_path)})
    with pytest.raises(ConfigError, match="needs the package cmaes"):
        tune.search(study)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_a_sampler_that_does_not_learn_takes_no_warm_start(sampler: str) -> None:
    with pytest.raises(ConfigError, match=rf"search\.warm_start: the sampler {sampler} learns from no trial"):
        study_of(sampler=sampler, warm_start=["runs/a"])


@pytest.mark.parametrize("hours", [0, -1.0])
def test_a_search_has_some_time(hours: float) -> None:
    with pytest.raises(ConfigError, match=r"search\.max_hours: must be greater than 0"):
        study_of(max_hours=hours)


def test_check_tells_with_how_few_workers_a_trial_starts(capsys: pytest.CaptureFixture[str]) -> None:
    setting = "resources={workers_per_trial: 64, min_workers_per_trial: 1, gpus_per_worker: 0}"
    assert cli.main(["tune", STUDY, "--check", setting]) == 0
    out = capsys.readouterr().out
    assert "a trial needs: 1 to 64 workers x 1 CPUs and 0 GPUs\n" in out
    assert out.count(": 1 at a time\n") == 1, "this machine has no 64 cores, and one trial takes all"


@pytest.mark.parametrize(
    ("chosen", "num_trials", "allowed", "at_a_time"),
    [("auto", 25, 25, 8), (3, 25, 3, 3), (100, 25, 25, 8), (1, 25, 1, 1), ("auto", 5, 5, 5), (3, 2, 2, 2)],
)
def test_trials_at_a_time_are_allowed_and_fit(chosen: int | str, num_trials: int, allowed: int, at_a_time: int) -> None:
    study = study_of(max_concurrent=chosen)
    assert plan.at_most(study.search, num_trials) == allowed
    assert plan.trials_at_a_time(study, Capacity.single(8, 0), num_trials) == at_a_time


def test_of_no_trials_one_is_allowed_and_what_fits_nowhere_is_refused() -> None:
    study = study_of()
    assert plan.trials_at_a_time(study, Capacity.single(8, 0), 0) == 1
    with pytest.raises(ConfigError, match=r"^resources: a trial needs "):
        plan.trials_at_a_time(study, Capacity.single(0.5, 0), 3)


@pytest.mark.parametrize(
    ("setting", "gpus"),
    [("auto", "1 where a machine has any, else 0"), ("0.25", "0.25"), ("2", "2")],
)
def test_check_says_nothing_of_machines_that_it_cannot_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str, gpus: str
) -> None:
    """On a machine without a GPU, of a cluster that may have many: nothing is refused, nothing is promised."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    settings = [f"resources.gpus_per_worker={setting}", "resources.cpus_per_worker=512"]
    assert cli.main(["tune", STUDY, "--check", *settings]) == 0
    out = capsys.readouterr().out
    assert f"a trial needs: 1 workers x 512 CPUs and {gpus} GPUs\n" in out
    assert "machines: those of the cluster, which is asked once it is joined\n" in out
    assert "this machine" not in out

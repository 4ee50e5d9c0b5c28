"""Every sampler: exactly resumable, whatever write a kill falls on, and what it does with words and pruned trials."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import qmc

from raydml import seeds
from raydml.config import LEARNING, ConfigError, ExperimentConfig, SamplerName
from raydml.samplers import in_optuna
from raydml.search import open_study
from raydml.space import Study
from tests.searches import NUMBERS, SPACE, Driver, outcome, study_of, value_of

SAMPLERS: tuple[SamplerName, ...] = ("tpe", "cmaes", "gp", "qmc", "random")
ASHA = {"grace_epochs": 1, "reduction_factor": 2}


def study_with(sampler: SamplerName, **search: object) -> Study:
    """A start point, then what the sampler chooses."""
    space = NUMBERS if sampler == "cmaes" else SPACE
    return study_of(space, **{"sampler": sampler, "start": [{"loss.margin": 0.45}], "startup_trials": 2, **search})


def searched(study: Study, path: Path, **driver: Any) -> optuna.Study:  # noqa: ANN401
    found = Driver(study, path, **driver)
    found.run()
    return found.memory


def points(memory: optuna.Study) -> list[dict[str, object]]:
    return [trial.params for trial in memory.get_trials()]


def writes_of(number: int, path: Path) -> range:
    """Places in a journal between the writes of one trial, from its creation to that of the next."""
    created = [place for place, line in enumerate(path.read_bytes().splitlines()) if b'"op_code":4,' in line]
    return range(created[number], created[number + 1] + 1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_kill_between_any_two_writes_changes_nothing(tmp_path: Path, sampler: SamplerName) -> None:
    # Six trials fill the first generation of CMA-ES, so the last ones come from a state that has to be found again.
    study = study_with(sampler, num_trials=10, startup_trials=1, early_stopping=ASHA)
    undisturbed = outcome(searched(study, tmp_path / "journal"))
    lines = (tmp_path / "journal").read_bytes().splitlines(keepends=True)
    for number in (0, 1, 7, 8):
        for place in writes_of(number, tmp_path / "journal"):
            killed = tmp_path / f"killed-{place}"
            killed.write_bytes(b"".join(lines[:place]))
            assert outcome(searched(study, killed)) == undisturbed, f"killed after {lines[place - 1]!r}"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_trials_continue_the_same_sequence(tmp_path: Path, sampler: SamplerName) -> None:
    at_once = searched(study_with(sampler, num_trials=9), tmp_path / "a")
    searched(study_with(sampler, num_trials=5), tmp_path / "b")
    assert outcome(searched(study_with(sampler, num_trials=9), tmp_path / "b")) == outcome(at_once)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_points_are_a_function_of_the_seed(tmp_path: Path, sampler: SamplerName) -> None:
    runs = [points(searched(study_with(sampler, seed=seed), tmp_path / str(i))) for i, seed in enumerate((0, 0, 1))]
    assert runs[0] == runs[1]
    assert runs[0][1:] != runs[2][1:]
    assert runs[0][0] == runs[2][0], "the start point"
    assert len({str(point) for point in runs[0]}) == len(runs[0]), "no point twice"


def worse_near_the_start(experiment: ExperimentConfig, epoch: int) -> float:
    return -value_of(experiment, epoch)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_only_learners_care_for_values(tmp_path: Path, sampler: SamplerName) -> None:
    study = study_with(sampler, num_trials=12)
    one, other = (points(searched(study, tmp_path / str(c), curve=c)) for c in (value_of, worse_near_the_start))
    assert (one != other) == (sampler in LEARNING)


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_learner_comes_near_the_optimum(tmp_path: Path, sampler: SamplerName) -> None:
    def missing(name: SamplerName) -> float:
        """Mean distance of the last ten values from the best there is: a margin of 0.3, a dimension of 64."""
        studies = [study_of(NUMBERS, sampler=name, num_trials=30, startup_trials=4, seed=seed) for seed in range(2)]
        memories = [searched(study, tmp_path / f"{name}-{study.search.seed}") for study in studies]
        return 0.44 - float(np.mean([trial.value for memory in memories for trial in memory.get_trials()[-10:]]))

    assert 0.0 < missing(sampler) < 0.7 * missing("random")


def as_before(study: Study) -> optuna.Study:
    """TPE asked in the study itself, a fresh sampler for every trial: what a kill could still disturb."""
    memory = optuna.create_study(direction="maximize")
    for point in study.start_points():
        memory.enqueue_trial({path: study.distributions()[path].encode(value) for path, value in point.items()})
    for number in range(study.search.num_trials):
        seed = seeds.derive(seeds.Purpose.SAMPLER, study.search.seed, number)
        startup = study.search.startup_trials
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            memory.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True
            )
        trial = memory.ask(in_optuna(study.distributions()))
        point = {path: d.decode(trial.params[path]) for path, d in study.distributions().items()}
        memory.tell(trial, value_of(study.experiment(point), 4))
    return memory


@pytest.mark.parametrize("seed", [0, 1])
def test_asking_a_copy_gives_what_asking_the_study_gives(tmp_path: Path, seed: int) -> None:
    study = study_with("tpe", seed=seed, num_trials=20, startup_trials=4)
    assert points(searched(study, tmp_path / "journal")) == points(as_before(study))


def test_the_sequence_is_sobols_and_start_points_take_none_of_it(tmp_path: Path) -> None:
    study = study_with("qmc", num_trials=9)
    found = points(searched(study, tmp_path / "journal"))[1:]
    seed = seeds.derive(seeds.Purpose.SAMPLER, study.search.seed)
    unit = qmc.Sobol(3, scramble=True, seed=seed).random(8)
    # Optuna's order: numbers as the study names them.
    assert [p["loss.margin"] for p in found] == pytest.approx(unit[:, 0] * 0.5)
    assert [p["model.embedding_dim"] for p in found] == [round(x * 3 - 0.5) for x in unit[:, 1]]
    assert [p["loss.scope"] for p in found] == [("anchor", "batch")[int(x * 2)] for x in unit[:, 2]]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_words_are_drawn_too(tmp_path: Path, sampler: SamplerName) -> None:
    found = points(searched(study_with(sampler, num_trials=12), tmp_path / "journal"))
    assert {point["loss.scope"] for point in found[1:]} == {"anchor", "batch"}


def test_cmaes_refuses_words() -> None:
    with pytest.raises(ConfigError, match=r"search.sampler: cmaes searches numbers only, .* loss.scope .* tpe or gp"):
        study_of(sampler="cmaes")


def test_a_dimension_alone_is_enough_for_cmaes(tmp_path: Path) -> None:
    study = study_of({"loss.margin": NUMBERS["loss.margin"]}, sampler="cmaes", startup_trials=1, num_trials=12)
    assert len({str(point) for point in points(searched(study, tmp_path / "journal"))}) == 12


def generations(memory: optuna.Study) -> list[int]:
    return [t.system_attrs["cma:generation"] for t in memory.get_trials() if "cma:generation" in t.system_attrs]


def test_pruned_trials_count_in_a_generation_of_cmaes(tmp_path: Path) -> None:
    study = study_with("cmaes", num_trials=26, early_stopping=ASHA)
    memory = searched(study, tmp_path / "journal")
    complete = memory.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) < 13, "complete trials alone would not fill the generations"
    found = generations(memory)
    assert found == sorted(found)
    assert [found.count(g) for g in range(4)] == [6, 6, 6, 6]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_that_run_beside_each_other_are_different(tmp_path: Path, sampler: SamplerName) -> None:
    study = study_with(sampler, num_trials=6)
    searched(study, tmp_path / "journal")
    driver = Driver(study, tmp_path / "journal")
    suggested = [driver.searcher.suggest(name) for name in "abc"]
    assert [found["number"] for found in suggested if isinstance(found, dict)] == [6, 7, 8]
    assert len({str(point) for point in points(driver.memory)[6:]}) == 3
    states = [trial.state for trial in driver.memory.get_trials()[6:]]
    assert states == [TrialState.RUNNING] * 3


def test_the_study_keeps_no_trial_that_it_did_not_ask_for(tmp_path: Path) -> None:
    searched(study_with("gp", num_trials=5), tmp_path / "journal")
    trials = open_study(tmp_path / "journal", name="s").get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5

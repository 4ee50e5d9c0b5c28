"""A search with several objectives: exactly resumable with every sampler, told with all values, seen by people."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from raydml import identity, seeds, warm_start
from raydml.budget import Clock
from raydml.config import ConfigError, SamplerName
from raydml.display import SearchDisplay, leaderboard
from raydml.keeper import Keeper
from raydml.record import pareto_front, trial_directory, value_of
from raydml.samplers import in_optuna
from raydml.search import open_study
from raydml.space import Study
from tests.conftest import study_folder
from tests.searches import METRIC, Driver, outcome, seconds_of, study_of
from tests.searches import value_of as curve_of

DIM = "model.embedding_dim"
COLUMN = "\N{BOX DRAWINGS LIGHT VERTICAL}"
DIMS = {0: 16, 1: 32, 2: 64}
SAMPLERS: tuple[SamplerName, ...] = ("tpe", "gp", "qmc", "random")


def study_with(**search: object) -> Study:
    return study_of(**{"minimize": [DIM, "seconds"], "start": [{"loss.margin": 0.45}], "startup_trials": 2, **search})


def searched(study: Study, path: Path) -> optuna.Study:
    found = Driver(study, path)
    found.run()
    return found.memory


def test_a_trial_is_told_with_all_values_and_keeps_the_curve_of_the_metric(tmp_path: Path) -> None:
    study = study_with()
    searched(study, tmp_path / "journal")
    memory = open_study(tmp_path / "journal", name="s", values=("another", "name", "is not asked"))
    assert [direction.name for direction in memory.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert memory.metric_names == [METRIC, DIM, "seconds"]
    trials = memory.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    for trial in trials:
        point = {path: d.decode(trial.params[path]) for path, d in study.distributions().items()}
        curve = [curve_of(study.experiment(point), epoch) for epoch in range(1, 5)]
        assert trial.intermediate_values == dict(enumerate(curve, start=1))
        assert trial.values == [curve[-1], DIMS[trial.params[DIM]], seconds_of(trial.number)]


def test_one_objective_leaves_the_journal_it_always_left(tmp_path: Path) -> None:
    memory = searched(study_of(num_trials=2), tmp_path / "journal")
    assert memory.metric_names is None
    assert [trial.value for trial in memory.get_trials()] == [trial.values[0] for trial in memory.get_trials()]


def writes_of(number: int, path: Path) -> range:
    """Places in a journal between the writes of one trial, from its creation to that of the next."""
    created = [place for place, line in enumerate(path.read_bytes().splitlines()) if b'"op_code":4,' in line]
    return range(created[number], created[number + 1] + 1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_kill_between_any_two_writes_changes_nothing(tmp_path: Path, sampler: SamplerName) -> None:
    study = study_with(sampler=sampler, num_trials=5, startup_trials=2)
    undisturbed = outcome(searched(study, tmp_path / "journal"))
    lines = (tmp_path / "journal").read_bytes().splitlines(keepends=True)
    for place in (1, 2, *writes_of(3, tmp_path / "journal")):
        killed = tmp_path / f"killed-{place}"
        killed.write_bytes(b"".join(lines[:place]))
        memory = searched(study, killed)
        assert outcome(memory) == undisturbed, f"killed after {place} lines"
        assert memory.metric_names == [METRIC, DIM, "seconds"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_learners_care_for_the_further_objectives(tmp_path: Path, sampler: SamplerName) -> None:
    studies = [study_with(sampler=sampler, minimize=minimize, num_trials=5) for minimize in ([], [DIM])]
    alone, both = (
        [trial.params for trial in searched(study, tmp_path / str(index)).get_trials()]
        for index, study in enumerate(studies)
    )
    assert (alone != both) == (sampler in ("tpe", "gp"))


@pytest.mark.parametrize(("sampler", "num_trials"), [("tpe", 24), ("gp", 14)])
def test_learners_find_small_models_too(tmp_path: Path, sampler: SamplerName, num_trials: int) -> None:
    """By the metric alone a dimension of 64 is the best; the front has all three."""
    study = study_with(sampler=sampler, minimize=[DIM], num_trials=num_trials, startup_trials=4)
    trials = searched(study, tmp_path / "journal").get_trials()
    assert {DIMS[trial.params[DIM]] for trial in pareto_front(trials)} == {16, 32, 64}
    learnt = [DIMS[trial.params[DIM]] for trial in trials[4:]]
    assert min(learnt.count(dim) for dim in (16, 32, 64)) >= 2


def asked_in_the_study_itself(study: Study) -> list[dict[str, object]]:
    memory = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for point in study.start_points():
        memory.enqueue_trial({path: study.distributions()[path].encode(value) for path, value in point.items()})
    for number in range(study.search.num_trials):
        seed = seeds.derive(seeds.Purpose.SAMPLER, study.search.seed, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            memory.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=study.search.startup_trials, multivariate=True, constant_liar=True
            )
        trial = memory.ask(in_optuna(study.distributions()))
        point = {path: d.decode(trial.params[path]) for path, d in study.distributions().items()}
        memory.tell(trial, [curve_of(study.experiment(point), 4), float(point[DIM]), seconds_of(number)])
    return [trial.params for trial in memory.get_trials()]


def test_asking_a_copy_gives_what_asking_the_study_gives(tmp_path: Path) -> None:
    study = study_with(num_trials=16)
    found = [trial.params for trial in searched(study, tmp_path / "journal").get_trials()]
    assert found == asked_in_the_study_itself(study)


def finished(folder: Path, study: Study) -> Path:
    """A study searched to its end, on disk as a search leaves it."""
    folder.mkdir()
    identity.write(folder, identity.identity_of(study, "f"))
    searched(study, folder / "optuna.journal")
    return folder


def gathered(study: Study, folder: Path) -> warm_start.WarmStart:
    folder.mkdir(exist_ok=True)
    return warm_start.gather(study, folder, identity.identity_of(study, "f"))


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_study_of_the_same_objectives_is_a_warm_start(tmp_path: Path, sampler: SamplerName) -> None:
    source = finished(tmp_path / "source", study_with(sampler="random", num_trials=12))
    study = study_with(sampler=sampler, warm_start=[str(source)], num_trials=4)
    theirs = open_study(source / "optuna.journal", name="s").get_trials()
    for copied in (False, True):
        warm = gathered(study, tmp_path / "warm").trials
        assert [trial.values for trial in warm] == [trial.values for trial in theirs], f"copied: {copied}"
    warm = gathered(study, tmp_path / "warm").trials
    cold, warmed = Driver(study, tmp_path / "a"), Driver(study, tmp_path / "b", warm=warm)
    cold.run()
    warmed.run()
    assert outcome(cold.memory)[1:] != outcome(warmed.memory)[1:]


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ([], ["seconds"], "minimize is None there and ['seconds'] here"),
        (["seconds"], [], "minimize is ['seconds'] there and None here"),
        ([DIM, "seconds"], ["seconds", DIM], f"minimize is ['{DIM}', 'seconds'] there and ['seconds', '{DIM}'] here"),
    ],
)
def test_a_study_of_other_objectives_is_no_warm_start(
    tmp_path: Path, theirs: list[str], ours: list[str], message: str
) -> None:
    source = finished(tmp_path / "source", study_with(minimize=theirs, num_trials=1))
    with pytest.raises(ConfigError) as caught:
        gathered(study_with(minimize=ours, warm_start=[str(source)]), tmp_path / "warm")
    assert str(caught.value) == f"search.warm_start: values of {source} cannot be compared: {message}"


def test_lines_of_a_log_have_every_objective(tmp_path: Path) -> None:
    study = study_with(num_trials=3)
    trials = searched(study, tmp_path / "journal").get_trials()
    console = Console(file=io.StringIO(), width=250)
    with SearchDisplay(study, console, earlier=[], note="") as display:
        for trial in trials:
            display.started(trial.number, {}, 4, resumed=False)
            display.epoch(trial.number, {"epoch": 4, METRIC: value_of(trial)})
            display.ended(trial)
    assert isinstance(console.file, io.StringIO)
    ended = console.file.getvalue().splitlines()[1::2]
    best = max(trials[:2], key=lambda trial: trial.values[0])
    assert ended[1] == (
        f"trial   1 complete at epoch 4/4: {METRIC}={trials[1].values[0]:.4f} {DIM}={DIMS[trials[1].params[DIM]]} "
        f"seconds=2 [2/3 trials, best {best.values[0]:.4f} (trial {best.number})]"
    )


@pytest.mark.parametrize("kept", [1, 2])
def test_checkpoints_are_kept_of_the_best_by_the_metric(tmp_path: Path, kept: int) -> None:
    study = study_with(num_trials=5, keep_checkpoints=kept)
    memory = searched(study, tmp_path / "journal")
    trials = memory.get_trials()
    for trial in trials:
        (trial_directory(tmp_path, trial.number) / "checkpoint").mkdir(parents=True)
    display = SearchDisplay(study, Console(file=io.StringIO()), earlier=[], note="")
    display.started(4, {}, 4, resumed=False)
    keeper = Keeper(study, study_folder(tmp_path), memory, display, Clock(tmp_path / "clock.json"))
    keeper.ended(trials[4])
    assert (tmp_path / "trials" / "0004" / "checkpoint").exists(), "its process may not have ended"
    keeper.drop_checkpoints()
    best = sorted(trials, key=lambda trial: -trial.values[0])[:kept]
    assert best[0].number != 0, "the first is not the best, or this would say nothing"
    left = {int(folder.parent.name) for folder in tmp_path.glob("trials/*/checkpoint")}
    assert left == {trial.number for trial in best}


def test_a_large_whole_number_is_shown_whole(tmp_path: Path) -> None:
    path = "training.steps_per_epoch"
    study = study_of({path: {"choices": [12345, 54321]}}, minimize=[path], num_trials=1)
    [trial] = searched(study, tmp_path / "journal").get_trials()
    console = Console(file=io.StringIO(), width=250)
    with SearchDisplay(study, console, earlier=[], note="") as display:
        display.started(0, {}, 4, resumed=False)
        display.ended(trial)
    assert isinstance(console.file, io.StringIO)
    assert f"={trial.values[0]:.4f} {path}={trial.values[1]:.0f} [" in console.file.getvalue()


def test_tables_have_a_column_for_what_is_measured_and_name_the_front(tmp_path: Path) -> None:
    study = study_with(num_trials=4)
    driver = Driver(study, tmp_path / "journal")
    driver.run(stop_after=9)  # the third is running
    driver.searcher.suggest("failing")
    driver.searcher.on_trial_complete("failing", {"failure": "out of memory"})
    trials = driver.memory.get_trials()
    table = leaderboard(study, trials)
    headings = [str(column.header) for column in table.columns]
    assert headings == ["trial", "state", "epoch", METRIC, "seconds", "loss.margin", DIM, "loss.scope"]
    cells = list(zip(*(map(str, column.cells) for column in table.columns), strict=True))
    by_number = {int(row[0]): row for row in cells}
    for number, row in by_number.items():
        assert row[4] == (f"{seconds_of(number):.4g}" if number < 2 else "")
    assert by_number[3][1:4] == ("failed", "", "out of memory")
    front = ", ".join(str(trial.number) for trial in pareto_front(trials))
    assert str(table.caption) == f"Pareto front of large {METRIC}, small {DIM}, small seconds: trials {front}"
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with SearchDisplay(study, console, earlier=trials, note="") as display:
        display.started(2, {"loss.margin": 0.125, DIM: 16, "loss.scope": "anchor"}, 4, resumed=True)
    assert isinstance(console.file, io.StringIO)
    [running] = {line for line in console.file.getvalue().splitlines() if "running" in line}
    assert [cell.strip() for cell in running.split(COLUMN)][5:9] == ["", "0.125", "16", "anchor"]

"""Which objectives a study may have beside its metric, what that makes of it, and which trials are on the front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from raydml import identity, objectives, yamlfile
from raydml.config import ConfigError, EarlyStopping, SearchConfig, dump
from raydml.config.grammar import validate
from raydml.plan import search_lines
from raydml.record import best_of, pareto_front, ranked, value_of
from raydml.repeats import contenders
from raydml.space import Study, read_with_notes
from tests.searches import SPACE, study_of

DIM = "model.embedding_dim"


def study_file(folder: Path, **search: object) -> Path:
    path = folder / "s.yaml"
    path.write_text(yamlfile.dumps(study_of(minimize=[DIM, "seconds"], **search)), encoding="utf-8")
    return path


KNOWN = "known: loss.margin, model.embedding_dim, seconds"
REFUSED: list[tuple[list[str], str]] = [
    (["secnds"], f"0: unknown objective 'secnds'; {KNOWN}; did you mean 'seconds'?"),
    (["seconds", "model.embeding_dim"], f"1: unknown objective 'model.embeding_dim'; {KNOWN}; did you mean '{DIM}'?"),
    (["val/map@r"], f"0: unknown objective 'val/map@r'; {KNOWN}"),
    (["loss"], f"0: unknown objective 'loss'; {KNOWN}; did you mean 'loss.margin'?"),
    (["divide.num_learners"], f"0: divide.num_learners is not searched: it is 1 in every trial; {KNOWN}"),
    (["loss.scope"], f"0: the values of loss.scope have no order, so none is smaller; {KNOWN}"),
    (["seconds", DIM, "seconds"], "2: seconds is an objective already"),
]


@pytest.mark.parametrize(("minimize", "message"), REFUSED)
def test_what_cannot_be_an_objective_is_refused(minimize: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(minimize=minimize)
    assert str(caught.value) == f"search.minimize.{message}"


def test_pruning_by_one_of_several_objectives_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(minimize=["seconds"], early_stopping={"grace_epochs": 1, "reduction_factor": 2})
    expected = (
        "search.early_stopping must be null where there is search.minimize: it would judge by val/map@r alone and stop "
        "what is good at seconds, but got grace_epochs=1, reduction_factor=2.0"
    )
    assert str(caught.value) == expected


def test_cmaes_has_one_objective() -> None:
    numbers = {path: limits for path, limits in SPACE.items() if path != "loss.scope"}
    with pytest.raises(
        ConfigError, match=r"search.sampler: cmaes has one objective, .* names seconds besides val/map@r"
    ):
        study_of(numbers, sampler="cmaes", minimize=["seconds"])


def test_without_a_word_of_early_stopping_there_is_none_with_several_objectives() -> None:
    assert validate(SearchConfig, {}).early_stopping == EarlyStopping()
    found = validate(SearchConfig, {"minimize": ["seconds"]})
    assert found.early_stopping is None
    assert found.minimize == ("seconds",)
    assert validate(SearchConfig, dump(found)) == found


def test_pinning_an_objective_on_the_command_line_drops_it(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    assert read_with_notes(path)[0].search.minimize == (DIM, "seconds")
    study, notes = read_with_notes(path, ["model.embedding_dim=32"])
    assert study.search.minimize == ("seconds",)
    assert f"{DIM} is searched no longer: it is no objective of search.minimize" in notes
    with pytest.raises(ConfigError, match=r"command line: search.minimize.0: loss.scale is not searched"):
        read_with_notes(path, ["search.minimize=[loss.scale]"])


def test_other_objectives_are_another_study_and_none_change_no_identity() -> None:
    def marks(**search: object) -> dict[str, object]:
        return identity.identity_of(study_of(**search), "f")

    assert set(marks()) == {"base", "space", "protocol", "metric", "data_fingerprint"}
    assert marks(minimize=["seconds"]) == {**marks(), "minimize": ["seconds"]}
    hashes = [marks(), marks(minimize=["seconds"]), marks(minimize=[DIM]), marks(minimize=[DIM, "seconds"])]
    assert len(set(map(identity.hash_of, hashes))) == 4


def test_check_names_the_objectives() -> None:
    first = next(iter(search_lines(study_of(minimize=[DIM, "seconds"]).search)))
    assert first == (
        "objectives: large val/map@r, small model.embedding_dim, small seconds; the best trial is the best by val/map@r"
    )
    assert not any("objectives" in line for line in search_lines(study_of().search))


def test_values_are_the_metric_then_the_objectives_in_their_order() -> None:
    point: dict[str, Any] = {DIM: 64, "loss.margin": 0.25}
    search = study_of(minimize=["seconds", DIM]).search
    assert objectives.values_of(search, 0.5, point, lambda: 12.5) == [0.5, 12.5, 64.0]
    alone = study_of().search
    assert objectives.values_of(alone, 0.5, point, lambda: pytest.fail("the time is no objective")) == [0.5]


def made_of(values: Sequence[Sequence[float]], *others: FrozenTrial) -> optuna.Study:
    memory = optuna.create_study(directions=objectives.directions(["metric"] * len(values[0])))
    memory.add_trials([trial_with(list(of_trial)) for of_trial in values])
    memory.add_trials(others)
    return memory


def trial_with(values: list[float] | None, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    return create_trial(state=state, values=values, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)})


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_front_is_optunas(count: int) -> None:
    values = np.random.default_rng(count).integers(0, 6, size=(60, count)).astype(float)  # with ties and equal ones
    failed = [trial_with(None, TrialState.FAIL), trial_with(None, TrialState.RUNNING)]
    memory = made_of(values.tolist(), *failed)
    found = pareto_front(memory.get_trials())
    assert {trial.number for trial in found} == {trial.number for trial in memory.best_trials}
    assert [value_of(trial) for trial in found] == sorted((t.values[0] for t in found), reverse=True)
    best = best_of(memory.get_trials())
    assert best is not None
    assert best.number == found[0].number


def test_the_best_is_the_best_by_the_metric_and_of_equal_ones_the_smaller() -> None:
    memory = made_of([(0.5, 64, 1), (0.4, 8, 1), (0.5, 32, 9), (0.5, 32, 9)], trial_with(None, TrialState.FAIL))
    trials = memory.get_trials()
    assert [trial.number for trial in ranked(trials)] == [2, 3, 0, 1, 4]
    assert [trial.number for trial in pareto_front(trials)] == [2, 3, 0, 1]
    assert value_of(trials[4]) is None


def complete(margin: float, place: int, values: list[float]) -> FrozenTrial:
    """A trial of the space of `study_of`: a margin, a place among the dimensions."""
    params = {"loss.margin": margin, "model.embedding_dim": place}
    return create_trial(
        values=values,
        params=params,
        distributions={"loss.margin": FloatDistribution(0.0, 0.5), "model.embedding_dim": IntDistribution(0, 2)},
    )


def test_the_front_is_confirmed_by_the_metric() -> None:
    space = {path: SPACE[path] for path in ("loss.margin", DIM)}
    study = study_of(space, minimize=[DIM])
    confirm = {"confirm": {"top": 2, "seeds": 1}}
    study = validate(Study, {**dump(study), "protocol": {"folds_run": 1, **confirm}})
    memory = optuna.create_study(directions=["maximize", "minimize"])
    memory.add_trials(
        [
            complete(0.1, 2, [0.9, 64]),
            complete(0.3, 2, [0.8, 64]),  # the second by the metric, but beaten by the first in everything
            complete(0.4, 1, [0.7, 32]),
            complete(0.5, 0, [0.2, 16]),
        ]
    )
    found = contenders(study, memory.get_trials())
    assert [(c.name, c.value) for c in found] == [("base", None), ("0000", 0.9), ("0002", 0.7)]
    alone = study.model_copy(update={"search": study.search.model_copy(update={"minimize": ()})})
    assert [c.name for c in contenders(alone, memory.get_trials())] == ["base", "0000", "0001"]

"""Studies with confirming and final runs, made of drawn numbers: the files that a search with a protocol leaves.

The search is a real one, but for the training: its journal, its study.yaml and its identity are written by the
functions that a search itself uses. What follows is written here, as the folders are described.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raydml import atomic, identity, yamlfile
from raydml.checkpoint import versions
from raydml.config import ExperimentConfig, Scalar, dump
from raydml.config.grammar import validate
from raydml.config.protocol import with_preset
from raydml.data.opening import fingerprint
from raydml.looks import looks_of, note_look
from raydml.record import trial_directory
from raydml.repeats import Candidate, Repetition, contenders, finalists, repetition, winner_of
from raydml.search import StudySearcher, enqueue_start_points, make_scheduler, open_study
from raydml.space import Study, metric_names
from tests.conftest import changed, tiny_experiment
from tests.report_cases import Quiet, Row

SEARCH_VALUES = (0.30, 0.41, 0.37, 0.39, 0.28)
"""Of the trials 0 (the base itself) to 4, before noise: 1 is the best, then 3, then 2."""
EFFECTS = {"base": 0.0, "0001": 0.01, "0003": 0.05, "0002": -0.02, "winner": 0.04}
"""What fresh seeds find, relative to the base: the search preferred 1, the winner is 3."""
BASE_WINS = {**EFFECTS, "base": 0.2}
NUM_TEST_CLASSES = 9


def study_with(cache: Path, protocol: Mapping[str, Any], *, name: str = "small", seed: int = 0) -> Study:
    """Five trials around an experiment of two epochs; the first is the base."""
    base = changed(tiny_experiment(cache), training__num_epochs=2, training__steps_per_epoch=2, seed=seed)
    raw = {
        "name": name,
        "base": dump(base),
        "space": {
            "loss.margin": {"low": 0.0, "high": 0.6},
            "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "search": {"num_trials": 5, "sampler": "random", "start": [{"loss.margin": 0.2}], "early_stopping": None},
        "protocol": {"folds_run": 2, **protocol},
    }
    return validate(Study, with_preset(raw))


def mlrc() -> dict[str, Any]:
    """The preset, smaller."""
    return {"preset": "mlrc", "final": {"seeds": 3, "models": "folds"}}


def legacy() -> dict[str, Any]:
    """The preset, smaller."""
    return {"preset": "legacy", "final": {"seeds": 3, "best_epoch_on_test": True}}


def honest(seeds: int = 3, **confirm: object) -> dict[str, Any]:
    """The preset, smaller."""
    return {"preset": "honest", "confirm": {"top": 3, "seeds": seeds, **confirm}, "final": {"seeds": seeds}}


def _draws(*words: object) -> np.random.Generator:
    return np.random.default_rng(list("/".join(map(str, words)).encode()))


def write_search(study: Study, folder: Path, values: Sequence[float] = SEARCH_VALUES) -> Path:
    """A search that has ended; what its trials found but for noise."""
    directory = folder / study.name
    atomic.make_folder(directory)
    atomic.write_text(directory / "study.yaml", yamlfile.dumps(study))
    marks = identity.identity_of(study, fingerprint(study.base.data))
    identity.write(directory, marks, versions=versions(), commit="0123abc")
    memory = open_study(directory / "optuna.journal", name=study.name)
    enqueue_start_points(memory, study)
    scheduler = make_scheduler(study)
    searcher = StudySearcher(
        study, memory, scheduler=scheduler, make_config=_of_trial, listener=Quiet(), seconds_of=lambda number: 0.0
    )
    for number, value in enumerate(values):
        config = searcher.suggest(f"t{number}")
        assert isinstance(config, dict)
        rows = drawn_rows(study, value, _draws("search", number))
        write_run(trial_directory(directory, number), config["experiment"], rows)
        for row in rows[:-1]:
            searcher.on_trial_result(f"t{number}", {**row, "training_iteration": row["epoch"]})
        searcher.on_trial_complete(f"t{number}", {**rows[-1], "training_iteration": rows[-1]["epoch"]})
    return directory


def _of_trial(number: int, experiment: ExperimentConfig, point: dict[str, Scalar]) -> Row:
    return {"experiment": experiment, "number": number, "point": point}


def drawn_rows(study: Study, level: float, draws: np.random.Generator) -> list[Row]:
    """metrics.jsonl of a run over the folds, rising to a level."""
    epochs = study.base.training.num_epochs
    rows = []
    for epoch in range(1, epochs + 1):
        folds = {
            fold: {f"val/{name}": level * epoch / epochs + draws.normal(0, 0.01) for name in metric_names(study.base)}
            for fold in study.folds
        }
        first = folds[study.folds[0]]
        means = {name: float(np.mean([of[name] for of in folds.values()])) for name in first}
        several = {f"fold{fold}/{k}": v for fold, of in folds.items() for k, v in of.items()} if len(folds) > 1 else {}
        seconds = float(draws.uniform(1, 2))
        rows.append({"epoch": epoch, "step": 2 * epoch, "seconds": seconds, "train/loss": 1.0, **means, **several})
    return rows


def write_run(directory: Path, config: ExperimentConfig, rows: Sequence[Row]) -> None:
    """config.yaml and metrics.jsonl."""
    atomic.make_folder(directory)
    atomic.write_text(directory / "config.yaml", yamlfile.dumps(config))
    atomic.write_text(directory / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def trials_of(study: Study, directory: Path) -> list[Any]:
    """Of the journal."""
    return open_study(directory / "optuna.journal", name=study.name).get_trials()


def write_confirm(study: Study, directory: Path, effects: Mapping[str, float] = EFFECTS) -> None:
    """Every confirming run of every candidate."""
    assert study.protocol.confirm is not None
    for candidate in contenders(study, trials_of(study, directory)):
        for index in range(study.protocol.confirm.seeds):
            one = repetition(directory, candidate, "confirm", index)
            level = 0.33 + effects[candidate.name]
            write_run(one.directory, one.config, drawn_rows(study, level, _draws("confirm", candidate.name, index)))


def write_final(study: Study, directory: Path, effects: Mapping[str, float] = EFFECTS) -> None:
    """Every final run, evaluated; each look noted."""
    final = study.protocol.final
    winner = winner_of(study, directory, trials_of(study, directory))
    assert final is not None
    assert winner is not None
    for candidate in finalists(study, winner, trials_of(study, directory)):
        for index in range(final.seeds):
            write_final_run(study, candidate, repetition(directory, candidate, "final", index), effects)


def write_final_run(
    study: Study, candidate: Candidate, one: Repetition, effects: Mapping[str, float] = EFFECTS
) -> None:
    """A final run of one model, or of one for each fold."""
    assert study.protocol.final is not None
    draws, level = _draws("final", candidate.name, one.index, study.name), 0.4 + effects[candidate.name]
    rows: list[Row] = [
        {"epoch": epoch, "step": 2 * epoch, "seconds": 1.5, "train/loss": 1 / epoch}
        for epoch in range(1, study.base.training.num_epochs + 1)
    ]
    by_fold = study.protocol.final.models == "folds"
    places = [one.directory, *(one.directory / f"fold{fold}" for fold in study.folds if by_fold)]
    levels = [level + (0.1 if place == places[0] else 0.0) for place in places]
    last, *_ = [
        write_evaluation(place / "evaluation" / "test", study, at, draws)
        for place, at in zip(places, levels, strict=True)
    ]
    if study.protocol.final.best_epoch_on_test:
        for row, shift in zip(rows, (0.02, 0.0), strict=True):
            row |= {f"test/{k}": v + (shift if k == "map@r" else 0) for k, v in last.items()}
    write_run(one.directory, one.config, rows)
    study_folder = one.directory.parents[1]
    times = len(rows) if "test/map@r" in rows[0] else 1
    look(study_folder, one.directory.relative_to(study_folder).as_posix(), times=times)


def write_evaluation(folder: Path, study: Study, level: float, draws: np.random.Generator) -> dict[str, float]:
    """metrics.json and per_class.csv: drawn classes, and their means over queries."""
    atomic.make_folder(folder)
    names = metric_names(study.base)
    sizes = [3 + place % 4 for place in range(NUM_TEST_CLASSES)]
    spread = np.random.default_rng(7).normal(0, 0.08, (NUM_TEST_CLASSES, 1))
    classes = np.clip(level + spread + draws.normal(0, 0.03, (NUM_TEST_CLASSES, len(names))), 0, 1)
    with (folder / "per_class.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "num_queries", *names])
        writer.writerows([12 + place, sizes[place], *map(float, row)] for place, row in enumerate(classes))
    metrics = dict(zip(names, map(float, np.average(classes, axis=0, weights=sizes)), strict=True))
    more = {"tied_queries": 0.0, "num_queries": float(sum(sizes)), "num_queries_without_positive": 0.0}
    atomic.write_text(folder / "metrics.json", json.dumps({**metrics, **more}))
    return metrics


def look(directory: Path, run: str, *, times: int = 1) -> None:
    """Notes looks at the test classes, each at other numbers."""
    already = looks_of(directory).get(run, 0)
    for number in range(times):
        note_look(directory, directory / run / "checkpoint", {"map@r": 0.4 + 0.01 * (already + number)})


def finished_study(
    cache: Path,
    folder: Path,
    protocol: Mapping[str, Any],
    effects: Mapping[str, float] = EFFECTS,
    *,
    name: str = "small",
    seed: int = 0,
    values: Sequence[float] = SEARCH_VALUES,
) -> Path:
    """A study whose phases have all ended."""
    made = study_with(cache, protocol, name=name, seed=seed)
    directory = write_search(made, folder, values)
    if made.protocol.confirm is not None:
        write_confirm(made, directory, effects)
    if made.protocol.final is not None:
        write_final(made, directory, effects)
    return directory

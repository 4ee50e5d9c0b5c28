"""Small real searches and trainings, without Ray's processes: written by the functions that a search itself uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from optuna.trial import FrozenTrial
from ray.tune.schedulers import TrialScheduler

from raydml import atomic, identity, objectives, yamlfile
from raydml.baseline import raw_pixel_metrics
from raydml.checkpoint import versions
from raydml.config import ExperimentConfig, Scalar, dump
from raydml.config.grammar import validate
from raydml.data.opening import fingerprint, open_images
from raydml.data.subsets import fold_subsets
from raydml.history import read_history, seconds_of
from raydml.record import trial_directory
from raydml.search import StudySearcher, enqueue_start_points, make_scheduler, open_study
from raydml.space import Study
from raydml.train import run_spec
from raydml.training import Run, RunSpec
from tests.conftest import changed, tiny_experiment
from tests.training_cases import train

HOST = torch.device("cpu")
Row = dict[str, Any]


def search_of(cache: Path, **search: object) -> Study:
    """Six trials over two folds, of which ASHA prunes some."""
    base = changed(tiny_experiment(cache), training__num_epochs=2, training__steps_per_epoch=2)
    return validate(
        Study,
        {
            "name": "small",
            "base": dump(base),
            "space": {
                "loss.margin": {"low": 0.0, "high": 0.6},
                "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
                "model.embedding_dim": {"choices": [8, 16]},
            },
            "search": {
                "num_trials": 6,
                "startup_trials": 3,
                "start": [{"loss.margin": 0.2}],
                "early_stopping": {"grace_epochs": 1, "reduction_factor": 2},
                **search,
            },
            "protocol": {"folds_run": 2},
        },
    )


class Quiet:
    """A listener that hears nothing."""

    def started(self, number: int, point: Mapping[str, Scalar], num_epochs: int, *, resumed: bool) -> None:
        pass

    def epoch(self, number: int, row: Mapping[str, Any]) -> None:
        pass

    def ended(self, trial: FrozenTrial) -> None:
        pass

    def paused(self, trial: FrozenTrial) -> None:
        pass


def run_search(study: Study, folder: Path, *, failures: Mapping[int, str], trials: int | None = None) -> Path:
    """What `python -m raydml.tune` leaves; some trials fail after their first epoch, the rest are begun by no one."""
    directory = folder / study.name
    atomic.make_folder(directory)
    atomic.write_text(directory / "study.yaml", yamlfile.dumps(study))
    marks = identity.identity_of(study, fingerprint(study.base.data))
    identity.write(directory, marks, versions=versions(), commit="0123abc")
    memory = open_study(directory / "optuna.journal", name=study.name, values=objectives.names(study.search))
    enqueue_start_points(memory, study)
    atomic.write_json(directory / "baseline.json", raw_pixels(study))
    scheduler = make_scheduler(study)
    searcher = StudySearcher(
        study,
        memory,
        scheduler=scheduler,
        make_config=_config,
        listener=Quiet(),
        seconds_of=lambda number: seconds_of(read_history(trial_directory(directory, number))),
    )
    for number in range(study.search.num_trials if trials is None else trials):
        _run_trial(study, searcher, scheduler, directory, number, failures.get(number))
    return directory


def _config(number: int, experiment: ExperimentConfig, point: dict[str, Scalar]) -> Row:
    return {"number": number, "experiment": experiment}


def _run_trial(
    study: Study, searcher: StudySearcher, scheduler: TrialScheduler, directory: Path, number: int, failure: str | None
) -> None:
    config = searcher.suggest(f"t{number}")
    assert isinstance(config, dict)
    trial = SimpleNamespace(trial_id=f"t{number}")
    scheduler.on_trial_add(None, trial)
    folds = study.folds
    run = Run(RunSpec(config["experiment"], trial_directory(directory, number), "train", folds), device=HOST)
    while (row := run.advance()) is not None:
        result: Row = {**row, "training_iteration": int(row["epoch"])}
        if failure is not None:
            result = {"failure": failure, "done": True}
        stop = failure is not None or scheduler.on_trial_result(None, trial, result) == "STOP"
        if stop or row["epoch"] == run.num_epochs:
            searcher.on_trial_complete(trial.trial_id, result)
            break
        searcher.on_trial_result(trial.trial_id, result)
    run.close()


def raw_pixels(study: Study) -> dict[str, float]:
    """Mean metrics of raw pixels over the folds."""
    images = open_images(study.base.data)
    folds = study.folds
    rows = [raw_pixel_metrics(images, fold_subsets(images, study.base.data, fold)[1]) for fold in folds]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def run_training(
    config: ExperimentConfig, storage: Path, *, name: str = "seeds", fold: int | None = None, all_classes: bool = False
) -> Path:
    """What `python -m raydml.train` leaves."""
    split: Any = "trainval" if all_classes else "train"
    spec = run_spec(config, storage=str(storage), name=name, split=split, fold=fold)
    train(spec, device=HOST, report=lambda row: None)
    return spec.directory


def rows_of(directory: Path) -> list[Row]:
    """metrics.jsonl, read as anyone would."""
    text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def files_of(directory: Path) -> dict[str, bytes]:
    """Everything below a folder, but for reports."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "report" not in path.relative_to(directory).parts
    }

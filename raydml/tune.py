"""A search with Ray Tune and Optuna: `python -m raydml.tune STUDY.yaml`. The same command goes on after any kill."""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports: bad input and --check need neither torch nor Ray. And not behind them: what is defined in
    # __main__ would travel to workers by value, as other classes than those of the importable module.
    import sys

    from raydml.cli import main

    sys.exit(main(["tune", *sys.argv[1:]]))

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from raydml import atomic, checkpoint, identity, objectives, tensorboard, warm_start, yamlfile
from raydml.baseline import raw_pixel_metrics
from raydml.budget import Clock
from raydml.capacity import Capacity, Worker, surely_without_gpu, told, worker_of
from raydml.caveats import stamp
from raydml.config import ConfigError, ExperimentConfig, Scalar
from raydml.data.cache import ImageSet
from raydml.data.opening import fingerprint, known_for
from raydml.data.subsets import fold_subsets
from raydml.data_display import Images
from raydml.display import SearchDisplay
from raydml.keeper import Keeper
from raydml.phases import PhaseFailedError, checkpoint_of, failures_of, follow
from raydml.plan import require_packages
from raydml.record import best_of, point_of, trial_directory
from raydml.recorded import Task
from raydml.repeats import Candidate, winner_of
from raydml.search import StudySearcher, enqueue_start_points, make_scheduler, open_study
from raydml.session import capacity_ahead, connected, joins_cluster
from raydml.space import Study, metric_names
from raydml.study_folder import StudyFolder
from raydml.training import RunSpec, require_trainable
from raydml.tuner import run_trials, task_config

__all__ = ["PhaseFailedError", "SearchResult", "search"]


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves."""

    folder: StudyFolder
    """That of the study."""
    trials: Sequence[FrozenTrial]
    """Optuna's record of every trial."""
    best: FrozenTrial | None
    """The complete trial with the best value; none where no trial completed."""
    baseline: Mapping[str, float]
    """Metrics of raw pixels on the same validation classes, without a split in their names."""
    seconds: float
    """Time of the search, all invocations together."""
    winner: Candidate | None
    """Who won the confirmation, or the best trial where there is none; None before that."""
    failures: tuple[str, ...]
    """Confirming and final runs that failed and would fail again, with the reason."""

    @property
    def directory(self) -> Path:
        """Folder of the study on this machine."""
        return self.folder.path


def search(study: Study, *, console: Console | None = None, verbose: bool = False) -> SearchResult:
    """Runs a search, or goes on with it, until it has as many trials as asked for or its hours are over.

    Once it has them, the phases of the protocol follow: confirm, final.

    Raises ConfigError for bad input: an empty space, a folder that holds a different study, data that cannot be read,
    machines that can never hold a trial. Raises PhaseFailedError where a confirming or final run failed.
    """
    console = console or Console(stderr=False)
    if not study.space:
        raise ConfigError("space: there is nothing to search; train one experiment with python -m raydml.train")
    require_packages(study.search)
    folder = StudyFolder(study.storage, study.name)
    with folder.naming():
        return _opened(study, folder, console, verbose=verbose)


def _opened(study: Study, folder: StudyFolder, console: Console, *, verbose: bool) -> SearchResult:
    folder.open()
    directory = folder.path
    with Images(console, "decoded") as progress:
        marks = identity.identity_of(study, fingerprint(study.base.data, progress=progress))
    identity.require_same(directory, marks)
    atomic.make_folder(directory)
    lock = FileLock(directory / ".lock")
    try:
        with lock.acquire(timeout=0):
            return _search(study, folder, marks, console, verbose=verbose)
    except Timeout:
        raise ConfigError(f"{directory}: another process is running this study") from None


def _search(
    study: Study, folder: StudyFolder, marks: Mapping[str, object], console: Console, *, verbose: bool
) -> SearchResult:
    directory = folder.path
    # First what may be refused: a folder that bears a study's identity takes no corrected one.
    images = _trainable_images(study, str(marks["data_fingerprint"]))
    clock = Clock(directory / "clock.json")
    warm = warm_start.gather(study, directory, marks)
    atomic.write_text(directory / "study.yaml", yamlfile.dumps(study))
    identity.write(directory, marks, versions=checkpoint.versions(), commit=identity.commit())
    memory = open_study(directory / "optuna.journal", name=study.name, values=objectives.names(study.search))
    enqueue_start_points(memory, study)
    baseline = _baseline(study, directory, images)
    metrics = [f"val/{name}" for name in metric_names(study.base)]
    tensorboard.write_experiment(directory, space=study.distributions(), metrics=metrics)
    note = f"{study.base.data.kind}: raw pixels {_metric_of(study, baseline):.4f} {study.search.metric}; {stamp(study)}"
    for line in warm.notes:
        console.print(line, highlight=False, soft_wrap=True)
    display = SearchDisplay(study, console, earlier=memory.get_trials(), note=note)
    keeper = Keeper(study, folder, memory, display, clock)
    with ExitStack() as until_the_end:

        def machines() -> Capacity:
            return until_the_end.enter_context(connected(verbose=verbose))

        if _remaining(study, memory) and not keeper.out_of_time():
            with clock, display:
                capacity = machines()
                if joins_cluster():
                    console.print(told(capacity), highlight=False, soft_wrap=True)
                _run(study, folder, memory, capacity, keeper, warm.trials)
        keeper.drop_checkpoints()
        trials = memory.get_trials()
        best = best_of(trials)
        if best is not None and winner_of(study, directory, trials) is None:
            # Until a winner is confirmed.
            _write_best(study, directory, best)
        winner = None
        if best is not None and not _remaining(study, memory):
            winner = follow(study, folder, trials, machines, console)
            _write_winner(study, folder, winner, trials)
        folder.save()
    return SearchResult(folder, trials, best, baseline, clock.seconds(), winner, failures_of(directory))


def _run(
    study: Study,
    folder: StudyFolder,
    memory: optuna.Study,
    capacity: Capacity,
    keeper: Keeper,
    warm: Sequence[FrozenTrial],
) -> None:
    worker = worker_of(study.resources, capacity)
    scheduler = make_scheduler(study)
    searcher = StudySearcher(
        study,
        memory,
        scheduler=scheduler,
        make_config=lambda number, experiment, point: _trial_config(study, folder, worker, number, experiment, point),
        listener=keeper,
        seconds_of=keeper.seconds_of,
        warm=warm,
        out_of_time=keeper.out_of_time,
    )
    run_trials(
        study,
        folder.path,
        searcher,
        num_trials=searcher.num_to_run,
        capacity=capacity,
        say=keeper.waiting,
        scheduler=scheduler,
        stop=searcher.stop,
        over=keeper.out_of_time,
    )
    if _remaining(study, memory) and not keeper.out_of_time():
        # Tune catches the first Ctrl-C itself and returns as if it had finished.
        raise KeyboardInterrupt


def _trial_config(
    study: Study,
    folder: StudyFolder,
    worker: Worker,
    number: int,
    experiment: ExperimentConfig,
    point: dict[str, Scalar],
) -> dict[str, Any]:
    at_a_time = study.resources.folds_at_a_time
    spec = RunSpec(
        experiment,
        trial_directory(folder.path, number),
        "train",
        study.folds,
        at_a_time,
        fingerprint=known_for(experiment.data, study.base.data, identity.fingerprint_in(folder.path)),
    )
    return task_config(study, Task(spec, point, worker, folder.uri_of(spec.directory)))


def _remaining(study: Study, memory: optuna.Study) -> bool:
    trials = memory.get_trials(deepcopy=False)
    ended = sum(t.state.is_finished() for t in trials)
    return ended < study.search.num_trials or any(t.state == TrialState.RUNNING for t in trials)


def _write_best(study: Study, directory: Path, best: FrozenTrial) -> None:
    """best.yaml of the best trial."""
    experiment = study.experiment(point_of(best, study.distributions()))
    spec = RunSpec(experiment, trial_directory(directory, best.number), "train", study.folds)
    _write_experiment(study, directory, experiment, spec.checkpoints()[0])


def _write_winner(study: Study, folder: StudyFolder, winner: Candidate | None, trials: Sequence[FrozenTrial]) -> None:
    """best.yaml of the winner with the model that is kept; of a search that confirms nothing the best trial's."""
    best = best_of(trials)
    kept = None if winner is None else checkpoint_of(study, folder, winner, trials)
    if winner is not None and kept is not None:
        _write_experiment(study, folder.path, winner.config, kept)
    elif best is not None:
        _write_best(study, folder.path, best)


def _write_experiment(study: Study, directory: Path, experiment: ExperimentConfig, kept: Path) -> None:
    """An experiment as a study with an empty space, with its checkpoint."""
    found = study.model_copy(
        update={
            "base": experiment,
            "space": {},
            "search": study.search.model_copy(update={"start": (), "warm_start": (), "minimize": ()}),
            "checkpoint": kept.relative_to(directory).as_posix(),
        }
    )
    atomic.write_text(directory / "best.yaml", yamlfile.dumps(found))


def _trainable_images(study: Study, known: str) -> ImageSet:
    """The images of a study, every network and loss of which can be built. Raises ConfigError."""
    on_cpu, structures = surely_without_gpu(study.resources, capacity_ahead()), study.structures()
    # Its images were listed a moment ago.
    return require_trainable(*structures, on_cpu=on_cpu, known=known_for(structures[0].data, study.base.data, known))


def _baseline(study: Study, directory: Path, images: ImageSet) -> dict[str, float]:
    """Mean metrics of raw pixels over the folds that are run; kept in the study's folder."""
    wanted = study.base.evaluation.wanted
    rows = [
        raw_pixel_metrics(images, fold_subsets(images, study.base.data, fold)[1], wanted=wanted) for fold in study.folds
    ]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    atomic.write_json(directory / "baseline.json", means)
    return means


def _metric_of(study: Study, metrics: Mapping[str, float]) -> float:
    return metrics[study.search.metric.removeprefix("val/")]

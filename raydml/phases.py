"""What follows a search: the best trials and the base with fresh seeds, then winner and base on the test classes.

Every run is a folder; one that has ended is not run again, so the same command goes on after any kill. No test image is
opened here: trained models are evaluated by `raydml.evaluate` in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optuna.trial import FrozenTrial
from rich.console import Console

from raydml import jsonfile, yamlfile
from raydml.capacity import worker_of
from raydml.config import ExperimentConfig, parse
from raydml.data.opening import known_for
from raydml.history import read_history
from raydml.identity import fingerprint_in, without_places
from raydml.looks import note_curve
from raydml.phase_display import PhaseDisplay
from raydml.repeating import Machines, run_repetitions
from raydml.repeats import (
    BASE,
    FAILED_FILE,
    WINNER,
    Candidate,
    Phase,
    Repetition,
    confirmed,
    contenders,
    due,
    evaluated,
    finalists,
    folds_on_test,
    repetition,
    standing,
    winner_of,
)
from raydml.session import joining
from raydml.space import Study
from raydml.study_folder import StudyFolder
from raydml.training import RunSpec


class PhaseFailedError(RuntimeError):
    """A run of a phase failed; the message says which and why."""


def follow(
    study: Study, folder: StudyFolder, trials: Sequence[FrozenTrial], machines: Machines, console: Console
) -> Candidate | None:
    """Confirms, names the winner and shows it the test classes, as far as the protocol asks for it; the winner.

    Raises PhaseFailedError where a run failed: the same command tries it again.
    """
    if study.protocol.confirm is not None:
        _confirm(study, folder, contenders(study, trials), machines, console)
    winner = winner_of(study, folder.path, trials)
    if winner is not None and study.protocol.final is not None:
        _final(study, folder, winner, finalists(study, winner, trials), machines, console)
    if winner is not None:
        _drop_checkpoints(study, folder, winner)
    return winner


def failures_of(directory: Path) -> tuple[str, ...]:
    """Repetitions that failed and would fail again, with the reason."""
    found = [path for phase in ("confirm", "final") for path in sorted((directory / phase).glob(f"*/{FAILED_FILE}"))]
    return tuple(f"{path.parent.relative_to(directory)}: {jsonfile.load(path)['reason']}" for path in found)


def checkpoint_of(study: Study, folder: StudyFolder, winner: Candidate, trials: Sequence[FrozenTrial]) -> Path | None:
    """The first model of the winner that the phases have left; None where they have not come so far."""
    runs = [repetition(folder.path, winner, "confirm", 0)]
    if study.protocol.final is not None:
        runs.insert(0, repetition(folder.path, finalists(study, winner, trials)[0], "final", 0))
    found = [spec_of(study, run).checkpoints()[0] for run in runs]
    return next((place for place in found if folder.has_checkpoint(place)), None)


def spec_of(study: Study, run: Repetition) -> RunSpec:
    """The training that a repetition is."""
    final = study.protocol.final
    if run.phase == "final" and final is not None and final.models == "one":
        return RunSpec(run.config, run.directory, "trainval", (), test_every_epoch=final.best_epoch_on_test)
    return RunSpec(run.config, run.directory, "train", study.folds, study.resources.folds_at_a_time)


def _confirm(
    study: Study, folder: StudyFolder, candidates: Sequence[Candidate], machines: Machines, console: Console
) -> None:
    repeats = study.protocol.confirm
    assert repeats is not None
    while standing_ones := standing(folder.path, repeats, candidates, "confirm"):
        places = due(repeats, [confirmed(study, folder.path, candidate) for candidate in standing_ones])
        if not places:
            break
        runs = [repetition(folder.path, candidate, "confirm", k) for k in places for candidate in standing_ones]
        _train(study, folder, "confirm", runs, machines, console)


def _final(
    study: Study,
    folder: StudyFolder,
    winner: Candidate,
    candidates: Sequence[Candidate],
    machines: Machines,
    console: Console,
) -> None:
    repeats = study.protocol.final
    assert repeats is not None
    _note_every_epoch(folder)
    put_earlier_winner_aside(folder, winner)
    while standing_ones := standing(folder.path, repeats, candidates, "final"):
        places = due(repeats, [evaluated(study, folder.path, candidate) for candidate in standing_ones])
        if not places:
            break
        runs = [repetition(folder.path, candidate, "final", k) for k in places for candidate in standing_ones]
        try:
            _train(study, folder, "final", runs, machines, console)
        finally:
            _note_every_epoch(folder)
        _evaluate(study, folder, [run for run in runs if run.trained() and run.result() is None], machines, console)


def _drop_checkpoints(study: Study, folder: StudyFolder, winner: Candidate) -> None:
    """Of the confirming runs only the winner's first, and none once the final ones have theirs."""
    final = study.protocol.final
    for run in sorted((folder.path / "confirm").glob("*-seed*")):
        if final is not None or run != repetition(folder.path, winner, "confirm", 0).directory:
            folder.drop_models(run)
    # The base keeps its first models as well: with more trials it may be the winner yet.
    kept = {f"{name}-seed{k}" for name in (WINNER, BASE) for k in range(study.search.keep_checkpoints)}
    for run in sorted((folder.path / "final").glob("*-seed*")):
        if run.name not in kept:
            folder.drop_models(run)


def _train(
    study: Study, folder: StudyFolder, phase: Phase, runs: Sequence[Repetition], machines: Machines, console: Console
) -> None:
    with PhaseDisplay(console, study, runs) as display:
        specs = [(run, _knowing(study, folder.path, spec_of(study, run))) for run in runs]
        failures = run_repetitions(study, folder, specs, machines, display)
    if failures:
        reasons = "; ".join(f"{run.name}: {reason}" for run, reason in sorted(failures.items()))
        raise PhaseFailedError(f"{phase}: {len(failures)} of {len(runs)} runs failed: {reasons}")


def _knowing(study: Study, directory: Path, spec: RunSpec) -> RunSpec:
    """With the fingerprint of the images that the study's identity has."""
    return replace(spec, fingerprint=known_for(spec.config.data, study.base.data, fingerprint_in(directory)))


def put_earlier_winner_aside(folder: StudyFolder, winner: Candidate) -> None:
    """More trials may have another winner: what the earlier one showed on the test classes stays on record.

    Its folder bears a name made of its configuration, so that a kill in between finds it again.
    """
    final = folder.path / "final"
    for run in sorted(final.glob(f"{WINNER}-seed*")):
        if not (run / "config.yaml").exists():
            continue
        earlier = _without_seed(parse(yamlfile.load(run / "config.yaml")))
        if earlier == _without_seed(winner.config):
            continue
        digest = hashlib.sha256(json.dumps(earlier, sort_keys=True).encode()).hexdigest()[:8]
        folder.move(run, final / f"earlier-{digest}" / run.name)


def _without_seed(config: ExperimentConfig) -> dict[str, object]:
    return {key: value for key, value in without_places(config).items() if key != "seed"}


def _note_every_epoch(folder: StudyFolder) -> None:
    """A curve on test classes, where the protocol asks for it, is a look after every epoch."""
    for run in sorted((folder.path / "final").glob("*-seed*")):
        note_curve(folder.path, run / "checkpoint", read_history(run))
    folder.save()


def _evaluate(
    study: Study, folder: StudyFolder, runs: Sequence[Repetition], machines: Machines, console: Console
) -> None:
    """The one look of each run at the test classes, in a process that is given nothing but the models."""
    if not runs:
        return
    worker = worker_of(study.resources, machines())
    settings = ["split=test", f"resources.cpus_per_worker={worker.cpus}", f"resources.gpus_per_worker={worker.gpus}"]
    if folds_on_test(study):
        settings.append("fold=all")
    for run in runs:
        folder.take(run.directory, models=True)
    folders = [str(run.directory) for run in runs]
    console.print(f"final: {len(runs)} models meet the test classes, once", highlight=False)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "raydml.evaluate", *folders, *settings],
        env={**os.environ, **joining()},
        capture_output=True,
        text=True,
        check=False,
    )
    # The looks first: no number without its look.
    folder.save()
    for run in runs:
        folder.keep(run.directory)
    if done.returncode == 130:
        raise KeyboardInterrupt
    missing = [run.directory.name for run in runs if run.result() is None]
    if done.returncode != 0 or missing:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise PhaseFailedError(f"final: the evaluation of {', '.join(missing) or 'the models'} failed: {last}")

"""Configurations that are trained again with fresh seeds: which ones, with which seeds, where, and who wins.

A search reports its luckiest trial. So the best trials and the untuned base are trained again, all with the same fresh
seeds, and the winner is named from these runs alone (confirm); then winner and base are trained on all training classes
and meet the test classes (final). Reads folders, writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from raydml import jsonfile, seeds
from raydml.config import ConfigError, ExperimentConfig, Repeats
from raydml.history import Row, numbers, read_history
from raydml.record import pareto_front, point_of, ranked, value_of
from raydml.space import Study
from raydml.statistics import enough

Phase = Literal["confirm", "final"]
BASE, WINNER = "base", "winner"
FAILED_FILE = "failure.json"
_PURPOSE: Mapping[Phase, seeds.Purpose] = {"confirm": seeds.Purpose.CONFIRM, "final": seeds.Purpose.FINAL}


@dataclass(frozen=True)
class Candidate:
    """A configuration to train again."""

    name: str
    """`base`, `winner`, or the trial's number with four digits: the first part of its folders."""
    config: ExperimentConfig
    """With the seed of the study; that of a repetition is `seed_of`."""
    trial: int | None
    """The trial of the search that had this configuration; of the base often none."""
    value: float | None
    """What the search found for it: inflated, because it was chosen by it."""


@dataclass(frozen=True)
class Repetition:
    """One training of a candidate with a fresh seed."""

    candidate: Candidate
    phase: Phase
    index: int
    """0, 1, 2 ...: the k of the folder; equal ones have the same seed."""
    directory: Path

    @property
    def config(self) -> ExperimentConfig:
        """The candidate's, with the fresh seed."""
        return self.candidate.config.model_copy(update={"seed": seed_of(self.candidate.config, self.phase, self.index)})

    def trained(self) -> bool:
        """Whether it has reached its last epoch."""
        return self.last_row() is not None

    def last_row(self) -> Row | None:
        """The last epoch's metrics; None where it has not reached it."""
        rows = read_history(self.directory)
        return rows[-1] if len(rows) >= self.candidate.config.training.num_epochs else None

    def failure(self) -> str | None:
        """Why it stopped where it would always stop; None where it did not."""
        path = self.directory / FAILED_FILE
        return str(jsonfile.load(path)["reason"]) if path.exists() else None

    def result(self) -> Row | None:
        """What it is judged by: the last epoch's metrics, or what the test classes said; None where it is not there."""
        if self.phase == "final":
            return read_evaluation(self.directory / "evaluation" / "test")
        return self.last_row()


def read_evaluation(directory: Path) -> Row | None:
    """The metrics of an evaluation of test classes as `test/...`; None where there is none. Raises ConfigError."""
    path = directory / "metrics.json"
    if not path.exists():
        return None
    return {f"test/{name}": value for name, value in numbers(jsonfile.load(path), f"{path}").items()}


def seed_of(config: ExperimentConfig, phase: Phase, index: int) -> int:
    """A seed that the search has not used: a function of the experiment's seed, the phase and the place."""
    return seeds.derive(_PURPOSE[phase], config.seed, index)


def repetition(directory: Path, candidate: Candidate, phase: Phase, index: int) -> Repetition:
    """The k-th repetition of a candidate, `<study>/<phase>/<name>-seed<k>`."""
    return Repetition(candidate, phase, index, directory / phase / f"{candidate.name}-seed{index}")


def base_of(study: Study, trials: Iterable[FrozenTrial]) -> Candidate:
    """The untuned base, with the value of the trial that was it, if one was."""
    same = [c for c in _complete(study, trials) if c.config == study.base]
    return Candidate(BASE, study.base, same[0].trial if same else None, same[0].value if same else None)


def contenders(study: Study, trials: Sequence[FrozenTrial]) -> tuple[Candidate, ...]:
    """The untuned base, then the best configurations of a search, each once; those of `protocol.confirm.top`.

    With several objectives those that are best by the metric on the Pareto front. Trials that differ in their seed only
    are one configuration: the best of them stands for it.
    """
    top = study.protocol.confirm.top if study.protocol.confirm is not None else 1
    base = base_of(study, trials)
    chosen: dict[str, Candidate] = {}
    for candidate in _complete(study, pareto_front(trials) if study.search.minimize else trials):
        chosen.setdefault(candidate.config.model_dump_json(), candidate)
    best = list(chosen.values())[:top]
    return (base, *(candidate for candidate in best if candidate.config != base.config))


def _complete(study: Study, trials: Iterable[FrozenTrial]) -> list[Candidate]:
    """Every complete trial, best first, with the base's seed: another one is no other configuration."""
    distributions = study.distributions()
    return [
        Candidate(
            f"{trial.number:04d}",
            study.experiment(point_of(trial, distributions)).model_copy(update={"seed": study.base.seed}),
            trial.number,
            value_of(trial),
        )
        for trial in ranked(trials)
        if trial.state == TrialState.COMPLETE
    ]


def winner_of(study: Study, directory: Path, trials: Sequence[FrozenTrial]) -> Candidate | None:
    """The configuration with the best mean over its confirming runs, of equal ones the first; the base may win.

    One that failed with a fresh seed cannot. Without a confirm phase the best trial. None where no trial is complete or
    a confirming run is missing.
    """
    complete = _complete(study, trials)
    if study.protocol.confirm is None or not complete:
        return complete[0] if complete else None
    found = standing(directory, study.protocol.confirm, contenders(study, trials), "confirm")
    values = [confirmed(study, directory, candidate) for candidate in found]
    if not found or due(study.protocol.confirm, values):
        return None
    common = min(map(len, values))
    means = [float(np.mean(of_candidate[:common])) for of_candidate in values]
    return found[means.index(max(means))]


def standing(directory: Path, repeats: Repeats, candidates: Iterable[Candidate], phase: Phase) -> tuple[Candidate, ...]:
    """Candidates none of whose repetitions failed."""
    return tuple(
        candidate
        for candidate in candidates
        if not any(repetition(directory, candidate, phase, k).failure() for k in range(repeats.most))
    )


def finalists(study: Study, winner: Candidate, trials: Sequence[FrozenTrial]) -> tuple[Candidate, ...]:
    """Winner and base; the base alone where nothing was better."""
    base = base_of(study, trials)
    return (base,) if winner.config == base.config else (replace(winner, name=WINNER), base)


def folds_on_test(study: Study) -> tuple[int, ...]:
    """The folds whose models meet the test classes one by one and together; none where there is one model."""
    final = study.protocol.final
    return study.folds if final is not None and final.models == "folds" and len(study.folds) > 1 else ()


def confirmed(study: Study, directory: Path, candidate: Candidate) -> list[float]:
    """The searched metric after the last epoch of the confirming runs 0, 1 ..., up to the first that has not ended."""
    assert study.protocol.confirm is not None
    return values_of(study.protocol.confirm, directory, candidate, "confirm", study.search.metric)


def evaluated(study: Study, directory: Path, candidate: Candidate) -> list[float]:
    """The searched metric on the test classes, of the final runs 0, 1 ..., up to the first without an evaluation."""
    assert study.protocol.final is not None
    metric = study.search.metric.replace("val/", "test/", 1)
    return values_of(study.protocol.final, directory, candidate, "final", metric)


def values_of(repeats: Repeats, directory: Path, candidate: Candidate, phase: Phase, metric: str) -> list[float]:
    """A metric of the repetitions 0, 1 ... of a candidate, up to the first that has no result."""
    values: list[float] = []
    for index in range(repeats.most):
        run = repetition(directory, candidate, phase, index)
        row = run.result()
        if row is None:
            break
        if metric not in row:
            raise ConfigError(f"{run.directory}: its result has no {metric}")
        values.append(row[metric])
    return values


def due(repeats: Repeats, values: Sequence[Sequence[float]]) -> range:
    """The places k to run next, given the values of every candidate; an empty range where the schedule has ended."""
    done = min(map(len, values))
    if done < repeats.seeds:
        return range(done, repeats.seeds)
    narrow = repeats.half_width is None or all(
        enough(of_one[:done], repeats.half_width, least=repeats.seeds) for of_one in values
    )
    return range(0) if narrow or done >= repeats.max_seeds else range(done, done + 1)

"""What a search tries next: Optuna's samplers, each a function of the seed, the trial's number and the study so far.

A sampler is made anew for every trial and asked in a copy of the study, in memory; its answer enters the study in one
write, as a waiting trial with all its values. So no sampler has a state of its own to restore, and a kill finds a trial
whole or not at all: asked in the study itself, one killed between two values would draw the second anew (random, TPE),
use up another point of its sequence (QMC) or take itself for a running neighbour (GP).

With several objectives TPE splits the trials by the ranks of their fronts, the Gaussian process (one for each) looks
for the greatest gain in hypervolume; CMA-ES has no form for them.

Pruned trials: TPE and CMA-ES rank them by their last value, the Gaussian process does not see them. CMA-ES keeps the
state of a generation in the trial that begins it (`raydml.generations`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from raydml import objectives, seeds
from raydml.config import Distribution
from raydml.generations import PlainCmaEsSampler, without_pickles
from raydml.space import Study

START = "start"
"""Attribute of a start point: its place in the list."""


def in_optuna(distributions: Mapping[str, Distribution]) -> dict[str, BaseDistribution]:
    """Distributions as Optuna's. Numbers from a list are drawn by their place in it."""
    return {path: _in_optuna(distribution) for path, distribution in distributions.items()}


def _in_optuna(d: Distribution) -> BaseDistribution:
    match d.kind:
        case "float":
            return FloatDistribution(d.low, d.high, log=d.log, step=d.step)
        case "int":
            return IntDistribution(int(d.low), int(d.high), log=d.log, step=int(d.step or 1))
        case "ordered":
            return IntDistribution(0, len(d.choices) - 1)
        case "categorical":
            return CategoricalDistribution(d.choices)


def next_trial(study: Study, earlier: Sequence[FrozenTrial], warm: Sequence[FrozenTrial]) -> FrozenTrial:
    """A waiting trial with all its values: what the sampler answers after the study's trials, none of them waiting.

    `warm` are trials of other studies: they come before the study's own.
    """
    if study.search.sampler == "qmc":
        return _waiting(_point_of_sequence(study, earlier))
    return _waiting(*_answer(study, earlier, warm))


def _waiting(values: Mapping[str, Any], marks: Mapping[str, Any] | None = None) -> FrozenTrial:
    return create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(values), **(marks or {})})


def _answer(
    study: Study, earlier: Sequence[FrozenTrial], warm: Sequence[FrozenTrial]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values, and what the sampler must find in the trial later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        directions = objectives.directions(objectives.names(study.search))
        copy = optuna.create_study(directions=directions, sampler=_sampler(study, len(earlier), warm))
        copy.add_trials(without_pickles([*warm, *earlier]))
        copy.ask(in_optuna(study.distributions()))
    asked = copy.get_trials(deepcopy=False)[-1]
    return asked.params, asked.system_attrs


def _sampler(study: Study, number: int, warm: Sequence[FrozenTrial]) -> BaseSampler:
    search = study.search
    seed = seeds.derive(seeds.Purpose.SAMPLER, search.seed, number)
    match search.sampler:
        case "tpe":
            return TPESampler(seed=seed, n_startup_trials=search.startup_trials, multivariate=True, constant_liar=True)
        case "cmaes":
            return PlainCmaEsSampler(
                seed=seed,
                n_startup_trials=search.startup_trials,
                # A generation of which ASHA stops two thirds would never be full without them.
                consider_pruned_trials=True,
                source_trials=_sources(warm),
                warn_independent_sampling=False,
            )
        case "gp":
            # It asks for a package that would change the last digits of its answers.
            logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
            return GPSampler(seed=seed, n_startup_trials=search.startup_trials, warn_independent_sampling=False)
        case "random":
            return RandomSampler(seed=seed)
        case "qmc":
            raise AssertionError("a sequence has no sampler of a single trial")


def _sources(warm: Sequence[FrozenTrial]) -> list[FrozenTrial] | None:
    """Trials whose best tenth gives CMA-ES its first mean and covariance, without dimensions of a single value."""
    found = []
    for trial in warm:
        kept = {path: d for path, d in trial.distributions.items() if not d.single()}
        params = {path: trial.params[path] for path in kept}
        found.append(create_trial(state=trial.state, params=params, distributions=kept, value=trial.value))
    return found or None


def _point_of_sequence(study: Study, earlier: Sequence[FrozenTrial]) -> dict[str, Any]:
    """The next point of a Sobol sequence, of which start points take none. Scrambled, or it would begin in a corner."""
    index = sum(START not in trial.user_attrs for trial in earlier)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = QMCSampler(scramble=True, seed=seeds.derive(seeds.Purpose.SAMPLER, study.search.seed))
    memory, space = optuna.create_study(), in_optuna(study.distributions())
    # The sampler counts the points it has given away in the study it is asked in: here nobody else does.
    for _ in range(index):
        sampler.sample_relative(memory, create_trial(state=TrialState.WAITING), space)
    return sampler.sample_relative(memory, create_trial(state=TrialState.WAITING), space)

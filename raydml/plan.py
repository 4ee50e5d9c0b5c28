"""What a command is about to do, told before it begins: the packages it needs, the machines, the lines of `--check`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from rich.console import Console

from raydml import yamlfile
from raydml.capacity import concurrency, fitting_trials, this_machine, worker_of
from raydml.config import LEARNING, ConfigError, SamplerName, SearchConfig
from raydml.objectives import described
from raydml.session import joins_cluster
from raydml.space import Study

_NEEDED: dict[SamplerName, tuple[str, ...]] = {"cmaes": ("cmaes",), "gp": ("torch", "scipy"), "qmc": ("scipy",)}
_SAMPLERS: dict[SamplerName, str] = {
    "tpe": "tree-structured Parzen estimators",
    "cmaes": "CMA-ES",
    "gp": "a Gaussian process of the complete trials: it does not see pruned ones",
    "qmc": "a scrambled Sobol sequence",
    "random": "every trial at random",
}


def require_machine(study: Study) -> None:
    """Refuses what this machine can never hold, before Ray starts; a cluster is asked once it is joined."""
    if not joins_cluster():
        fitting_trials(study.resources, this_machine())


def require_packages(search: SearchConfig) -> None:
    """Raises ConfigError where the sampler needs a package that is not installed. Imports none of them."""
    for package in _NEEDED.get(search.sampler, ()):
        if find_spec(package) is None:
            extra = "'raydml[cmaes]'" if package == "cmaes" else package
            raise ConfigError(
                f"search.sampler: {search.sampler} needs the package {package}, which is not installed: "
                f"pip install {extra}"
            )


def print_plan(study: Study, console: Console, *, trainings: int, folds: int, searched: bool) -> None:
    """The resolved study, what it comes to and what fits on this machine. `searched`: the space, not one training."""
    console.print(yamlfile.dumps(study), highlight=False, soft_wrap=True, end="")
    console.print()
    models = trainings * folds
    epochs = models * study.base.training.num_epochs
    for line in (
        f"trainings: {models} ({trainings} x {folds} folds), at most {epochs} epochs",
        *(search_lines(study.search) if searched else ()),
        *_machine_lines(study, trainings),
    ):
        console.print(line, highlight=False, soft_wrap=True)


def search_lines(search: SearchConfig) -> Iterator[str]:
    """Objectives where there are several, sampler, warm start and budget."""
    if search.minimize:
        yield f"objectives: {described(search)}; the best trial is the best by {search.metric}"
    learns = search.sampler in LEARNING
    before = f"; before it {search.startup_trials} trials at random or from search.start" if learns else ""
    yield f"sampler: {search.sampler}, {_SAMPLERS[search.sampler]}{before}"
    if search.warm_start:
        yield f"warm start: the trials of {', '.join(search.warm_start)}"
    hours = "no limit of hours" if search.max_hours is None else f"{search.max_hours:g} hours, whichever ends first"
    yield f"budget: {search.num_trials} trials, {hours}"


def _machine_lines(study: Study, num_trials: int) -> Iterator[str]:
    capacity = this_machine()
    worker = worker_of(study.resources, capacity)
    workers = study.resources.workers_per_trial
    yield f"a trial needs: {workers} workers x {worker.cpus:g} CPUs and {worker.gpus:g} GPUs"
    if not joins_cluster():
        chosen = study.search.max_concurrent
        limit = None if chosen == "auto" else chosen
        at_a_time = concurrency(study.resources, capacity, limit=limit, num_trials=num_trials)
        yield f"this machine: {capacity.cpus:g} CPUs, {capacity.gpus:g} GPUs: {at_a_time} at a time"

"""What a command is about to do, told before it begins: the packages it needs, the machines, the lines of `--check`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from rich.console import Console
from rich.table import Table

from raydml import price, yamlfile
from raydml.capacity import Capacity, fitting_trials, this_machine, worker_of, workers_told
from raydml.caveats import opening_lines
from raydml.config import LEARNING, ConfigError, Resources, SamplerName, SearchConfig
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


def at_most(search: SearchConfig, num_trials: int) -> int:
    """Trials at a time that `search.max_concurrent` allows, whatever the machines; one where there are none."""
    chosen = search.max_concurrent
    return max(1, num_trials if chosen == "auto" else min(chosen, num_trials))


def trials_at_a_time(study: Study, capacity: Capacity, num_trials: int) -> int:
    """What the machines hold, as far as it is allowed. Raises ConfigError where they can never hold one."""
    return min(fitting_trials(study.resources, capacity), at_most(study.search, num_trials))


def print_plan(study: Study, console: Console, *, trainings: int, folds: int, searched: bool) -> None:
    """The resolved study, what it comes to and what fits on this machine. `searched`: the space, not one training."""
    console.print(yamlfile.dumps(study), highlight=False, soft_wrap=True, end="")
    console.print()
    models = trainings * folds
    epochs = models * (price.longest(study) if searched else study.base.training.num_epochs)
    for line in (
        f"trainings: {models} ({trainings} x {folds} folds), at most {epochs} epochs",
        *(_later_lines(study) if searched else ()),
        *(search_lines(study.search) if searched else ()),
        *_machine_lines(study, trainings),
        *(opening_lines(study) if searched else ()),
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _later_lines(study: Study) -> Iterator[str]:
    """What comes after the search."""
    for phase in price.phases(study)[1:]:
        on = ", on all training classes" if phase.whole else ""
        yield (
            f"{phase.name}: at most {phase.trainings} more ({phase.what}), at most {phase.trainings * phase.epochs} "
            f"epochs{on}"
        )


def print_estimate(study: Study, speed: price.Speed, console: Console, *, at_a_time: int) -> None:
    """Hours and cost of every phase, and what they hold for."""
    rate = study.resources.price_per_hour
    table = Table(title=f"{study.name}: an estimate, {at_a_time} at a time")
    cost = [] if rate is None else ["cost at most"]
    for heading in ("phase", "trainings", "epochs at most", "at most", "with pruning", *cost):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for bill in price.bills(study, speed, at_a_time=at_a_time):
        cost = [] if rate is None else [f"{bill.hours * rate:.2f}"]
        times = (_duration(bill.hours), _duration(bill.expected))
        table.add_row(bill.name, str(bill.trainings), str(bill.epochs), *times, *cost)
    console.print(table)
    for line in _estimate_lines(study, speed):
        console.print(line, highlight=False, soft_wrap=True)


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _estimate_lines(study: Study, speed: price.Speed) -> Iterator[str]:
    yield (
        f"measured in {speed.seconds:.0f} s on {speed.machine}, {speed.measured}: {speed.step_s:.3g} s a step, "
        f"{speed.epoch_s:.3g} s an epoch besides, {speed.run_s:.3g} s a run, {speed.start_s:.3g} s a worker's start"
    )
    yield "it is the speed of the base, in its second epoch, and of these machines when as busy as now"
    felt = price.felt(study)
    if felt:
        yield f"searched, and faster or slower than the base: {', '.join(felt)}"
    if "training.num_epochs" in study.space:
        yield f"training.num_epochs is searched: the most, {price.longest(study)}, are reckoned with"
    yield "not in it: decoding images, raw pixels, evaluations of the test classes, what is done already"


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
    resources, capacity = study.resources, this_machine()
    if joins_cluster():
        # What the cluster's machines are is asked once it is joined.
        gpus = "1 where a machine has any, else 0" if resources.gpus_per_worker == "auto" else resources.gpus_per_worker
        yield _needed(resources, gpus if isinstance(gpus, str) else f"{gpus:g}")
        yield "machines: those of the cluster, which is asked once it is joined"
        return
    yield _needed(resources, f"{worker_of(resources, capacity).gpus:g}")
    at_a_time = trials_at_a_time(study, capacity, num_trials)
    yield f"this machine: {capacity.cpus:g} CPUs, {capacity.gpus:g} GPUs: {at_a_time} at a time"


def _needed(resources: Resources, gpus: str) -> str:
    return f"a trial needs: {workers_told(resources)} workers x {resources.cpus_per_worker:g} CPUs and {gpus} GPUs"

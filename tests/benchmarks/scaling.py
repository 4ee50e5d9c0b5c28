"""How a search scales from 1 to 256 GPUs, on paper: a simulation with the driver's measured costs.

    python -m tests.benchmarks.scaling [--measure] [--trials 1024] [--epochs 60] [--epoch-s 30] ...

With --measure the driver's costs come from this machine, now, and real searches are compared with what the simulator
says of them (three minutes, a quiet machine only). All other numbers are assumptions, printed below the tables. What
is not in it: with more trials at a time a sampler that learns knows less of those before.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from raydml.config import EarlyStopping
from raydml.session import connected
from tests.benchmarks.scaling_check import Check, Size, checks, waited_for
from tests.benchmarks.scaling_measure import measured_driver
from tests.benchmarks.scaling_model import Cluster, Driver, Outcome, What, Work, random_work
from tests.benchmarks.scaling_simulation import simulate

_GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SEEDS = range(3)
_RECORDED = Driver((10, 100, 1000), (0.039, 0.061, 0.261), (0.0088, 0.0101, 0.0128), (0.0078, 0.0114, 0.0387))
"""Of --measure on two cores that others used too: rather too much than too little."""


@dataclass(frozen=True)
class Scenario:
    """What is searched, on what. Every field is an option of the command, and a line below the tables."""

    trials: int = 1024
    epochs: int = 60
    epoch_s: float = 30.0
    open_s: float = 5.0
    checkpoint_mb: float = 307.0
    upload_mb_s: float = 100.0
    grace_epochs: int = 2
    reduction_factor: float = 3.0
    gpus_per_node: int = 1
    trials_per_gpu: int = 1
    packed_factor: float = 2.5
    boot_s: float = 180.0
    decode_s: float = 10.0
    actor_s: float = 10.0
    starting: int = 0
    losses_per_hour: float = 0.05
    detect_s: float = 15.0
    idle_s: float = 300.0

    def cluster(self, gpus: int) -> Cluster:
        """So many GPUs."""
        return Cluster(
            gpus=gpus,
            gpus_per_node=self.gpus_per_node,
            trials_per_gpu=self.trials_per_gpu,
            packed_factor=self.packed_factor if self.trials_per_gpu > 1 else 1.0,
            boot_s=self.boot_s,
            decode_s=self.decode_s,
            actor_s=self.actor_s,
            starting=self.starting or None,
            losses_per_hour=self.losses_per_hour,
            detect_s=self.detect_s,
            idle_s=self.idle_s,
        )

    def work(self, seed: int) -> Work:
        """Random curves."""
        curves, factors = random_work(self.trials, self.epochs, seed=seed)
        stopping = EarlyStopping(grace_epochs=self.grace_epochs, reduction_factor=self.reduction_factor)
        upload_s = self.checkpoint_mb / self.upload_mb_s
        return Work(curves, factors, self.epoch_s, self.open_s, upload_s, stopping)


_SOURCES = {
    "trials": "trials; of the search",
    "epochs": "epochs of a trial that is not pruned",
    "epoch_s": "s an epoch alone on a GPU, validation included, +- 10 %; assumed: 5,900 images at 224, ResNet-50",
    "open_s": "s from a trial's start to its first step: data, model, checkpoint; assumed",
    "checkpoint_mb": "MB a checkpoint: a ResNet-50 and the two moments of AdamW in float32",
    "upload_mb_s": "MB/s of one upload to a bucket, before the epoch is reported; assumed",
    "grace_epochs": "epochs to the first rung of ASHA: the default",
    "reduction_factor": "1 / share that passes a rung: the default",
    "gpus_per_node": "GPUs of a node; assumed: the cheapest spot machines have one",
    "trials_per_gpu": "trials at a time on a GPU: 1 / gpus_per_worker",
    "packed_factor": "times slower is an epoch beside the others of its GPU, where there are any; assumed",
    "boot_s": "s from the wish for a node to its first actor: machine, image, ray start; assumed",
    "decode_s": "s to decode the images, once a node: 11,800 photographs, 4 cores, 300 a second on each (measured)",
    "actor_s": "s from an actor's start to its first trial: imports, CUDA; assumed; 4 to 8 s measured on a CPU",
    "starting": "actors waited for at a time, 0: any number; TUNE_MAX_PENDING_TRIALS_PG of raydml.session",
    "losses_per_hour": "times an hour is a spot node lost; assumed",
    "detect_s": "s until a lost node is known to be lost; 14 s measured (specs/ray.md, 4.4)",
    "idle_s": "s until a node without a trial is given back: idle_timeout_minutes of cluster/",
}


def mean_of(outcomes: Sequence[Outcome], what: What) -> float:
    """Mean share of the time of all slots."""
    return fmean(outcome.share(what) for outcome in outcomes)


def outcomes_of(scenario: Scenario, gpus: int, driver: Driver) -> list[Outcome]:
    """One for each seed of curves and losses."""
    return [simulate(scenario.work(seed), scenario.cluster(gpus), driver, seed=seed) for seed in _SEEDS]


def sizes_table(scenario: Scenario, driver: Driver) -> Table:
    """One line a size of the cluster."""
    table = Table(title=f"{scenario.trials} trials of {scenario.epochs} epochs with ASHA, mean of {len(_SEEDS)} seeds")
    headings = ("GPUs", "hours", "speed-up", "GPU hours", "trials / h", "GPUs train", "upload", "start", "idle")
    for heading in (*headings, "driver busy", "epochs", "done again"):
        table.add_column(heading, justify="right")
    alone = None
    for gpus in _GPUS:
        found = outcomes_of(scenario, gpus, driver)
        wall = fmean(o.wall_s for o in found)
        alone = alone or wall
        table.add_row(
            str(gpus),
            f"{wall / 3600:.2f}",
            f"{alone / wall:.1f}",
            f"{fmean(o.billed_s for o in found) / 3600:.0f}",
            f"{scenario.trials * 3600 / wall:.0f}",
            *(f"{mean_of(found, what):.1%}" for what in ("training", "upload", "start", "idle")),
            f"{fmean(o.driver_s / o.wall_s for o in found):.1%}",
            f"{fmean(o.epochs for o in found):.0f}",
            f"{fmean(o.seconds['repeated'] / scenario.epoch_s for o in found):.1f}",
        )
    return table


def variants(scenario: Scenario, driver: Driver) -> Iterator[tuple[str, Scenario, Driver]]:
    """The scenario with one thing changed."""
    yield "as above", scenario, driver
    yield "one actor waited for at a time", replace(scenario, starting=1), driver
    yield "any number of actors waited for", replace(scenario, starting=0), driver
    yield "uploads cost nothing", replace(scenario, checkpoint_mb=0.0), driver
    yield "starts and boots cost nothing", replace(scenario, boot_s=0.0, actor_s=0.0, open_s=0.0, decode_s=0.0), driver
    yield "the driver costs nothing", scenario, Driver()
    yield "the driver costs 10 times as much", scenario, _times(driver, 10.0)
    yield "no node is lost", replace(scenario, losses_per_hour=0.0), driver
    yield "every node is lost once an hour", replace(scenario, losses_per_hour=1.0), driver
    yield "8 GPUs a node", replace(scenario, gpus_per_node=8), driver
    yield "4 times the trials: a quarter of its hours", replace(scenario, trials=4 * scenario.trials), driver
    packed = replace(scenario, trials_per_gpu=4)
    yield f"4 trials a GPU, each {packed.packed_factor:g} times slower", packed, driver


def _times(driver: Driver, factor: float) -> Driver:
    costs = ([factor * cost for cost in column] for column in (driver.start_s, driver.report_s, driver.end_s))
    return Driver(driver.trials, *costs)


def limits_table(scenario: Scenario, driver: Driver, sizes: Sequence[int] = (16, 256)) -> Table:
    """What a change is worth, on few GPUs and on many."""
    table = Table(title="Hours and GPU hours, with one thing changed")
    table.add_column("what", no_wrap=True)
    for gpus in sizes:
        for heading in (f"{gpus} GPUs: hours", "GPU hours", "GPUs train", "driver busy"):
            table.add_column(heading, justify="right")
    for what, changed, costs in variants(scenario, driver):
        cells: list[str] = []
        for gpus in sizes:
            found = outcomes_of(changed, gpus, costs)
            share = scenario.trials / changed.trials
            hours, billed = (
                share * fmean(x) / 3600 for x in zip(*((o.wall_s, o.billed_s) for o in found), strict=True)
            )
            busy = fmean(o.driver_s / o.wall_s for o in found)
            cells += [f"{hours:.2f}", f"{billed:.0f}", f"{mean_of(found, 'training'):.1%}", f"{busy:.1%}"]
        table.add_row(what, *cells)
    return table


def checks_table(found: Sequence[Check]) -> Table:
    """The simulator beside real searches."""
    table = Table(title="Real searches on this machine and their simulations, seconds")
    for heading in ("search", "measured", "predicted", "ratio", "from its own epochs", "ratio", "epochs", "predicted"):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    for check in found:
        ratios = [outcome.wall_s / check.wall_s for outcome in (check.predicted, check.explained)]
        table.add_row(
            check.what,
            f"{check.wall_s:.1f}",
            f"{check.predicted.wall_s:.1f}",
            f"{ratios[0]:.2f}{'' if 0.8 <= ratios[0] <= 1.2 else ' (outside 20 %)'}",
            f"{check.explained.wall_s:.1f}",
            f"{ratios[1]:.2f}{'' if 0.8 <= ratios[1] <= 1.2 else ' (outside 20 %)'}",
            str(check.epochs),
            str(check.predicted.epochs),
        )
    return table


def driver_lines(driver: Driver, source: str) -> Iterator[str]:
    """The costs of Tune's loop."""
    for what, costs in (("start", driver.start_s), ("report", driver.report_s), ("end", driver.end_s)):
        values = ", ".join(f"{1000 * cost:.1f}" for cost in costs)
        yield f"  driver, ms a {what}: {values} after {', '.join(map(str, driver.trials))} trials; {source}"


def measure(console: Console, size: Size) -> Driver:
    """The driver's costs; prints how real searches compare with their simulations."""
    with tempfile.TemporaryDirectory() as name, connected():
        folder = Path(name)
        driver = measured_driver(folder)
        found, speed, checkpoint_bytes = checks(folder, driver, size)
    console.print(checks_table(found))
    epoch_s = speed.epoch_s + speed.steps * speed.step_s
    console.print(
        f"a trial alone: {epoch_s:.2f} s an epoch, {speed.run_s:.2f} s before its first, {speed.start_s:.1f} s its "
        f"actor's start, {checkpoint_bytes / 1e6:.1f} MB its checkpoint; {speed.machine}, {speed.measured}"
    )
    return driver


def main() -> None:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="the driver's costs, and real searches")
    for each in fields(Scenario):
        default = waited_for() or 0 if each.name == "starting" else each.default
        kind = type(each.default)
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=default, help=_SOURCES[each.name])
    options = vars(parser.parse_args())
    console = Console(width=160)
    measured = options.pop("measure")
    scenario = Scenario(**options)
    driver = measure(console, Size()) if measured else _RECORDED
    console.print(sizes_table(scenario, driver))
    console.print(limits_table(scenario, driver))
    print("assumptions:")
    for name, source in _SOURCES.items():
        print(f"  {name} = {getattr(scenario, name):g} {source}")
    for line in driver_lines(driver, "measured now" if measured else "measured before, two cores"):
        print(line)


if __name__ == "__main__":
    main()

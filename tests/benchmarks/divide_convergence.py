"""Table of trainings over seeds and learners: `python -m tests.benchmarks.divide_convergence RUN`.

RUN is the folder of a finished `search_spaces/divide_convergence.yaml`. Final value and epochs to 95 % of the best
value of one learner with the same seed; means with 95 % t-intervals.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from raydml import yamlfile
from raydml.history import read_history

_METRIC = "val/map@r"
_SHARE = 0.95

Curves = dict[int, dict[int, list[float]]]


def curves_of(study: Path) -> Curves:
    """Learners -> seed -> the metric of every epoch."""
    found: Curves = defaultdict(dict)
    for trial in sorted((study / "trials").iterdir()):
        config = yamlfile.load(trial / "config.yaml")
        divide = config["divide"]
        assert isinstance(divide, dict)
        found[divide["num_learners"]][int(str(config["seed"]))] = [row[_METRIC] for row in read_history(trial)]
    return dict(sorted(found.items()))


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % t-interval."""
    mean, n = float(np.mean(values)), len(values)
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return f"{mean:.4f} +- {half:.4f}"


def epochs_to(curve: list[float], goal: float) -> int | None:
    """The first epoch (from 1) that reaches the goal."""
    return next((epoch for epoch, value in enumerate(curve, start=1) if value >= goal), None)


def table_of(curves: Curves) -> Table:
    """One row for each number of learners."""
    table = Table(title=f"{_METRIC}, {len(curves[1])} seeds, paired")
    for heading in (
        "learners",
        "final",
        "final - one learner",
        f"epochs to {_SHARE:.0%} of one learner's best",
        "never",
    ):
        table.add_column(heading, justify="right")
    for learners, of_seed in curves.items():
        reached = {seed: epochs_to(curve, _SHARE * max(curves[1][seed])) for seed, curve in of_seed.items()}
        epochs = [float(epoch) for epoch in reached.values() if epoch is not None]
        differences = [curve[-1] - curves[1][seed][-1] for seed, curve in of_seed.items()]
        table.add_row(
            str(learners),
            interval([curve[-1] for curve in of_seed.values()]),
            interval(differences) if learners > 1 else "",
            interval(epochs) if epochs else "",
            str(len(reached) - len(epochs)),
        )
    return table


if __name__ == "__main__":
    Console(width=140).print(table_of(curves_of(Path(sys.argv[1]))))

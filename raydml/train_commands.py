"""`python -m raydml.train STUDY.yaml`, from a study to an exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console

from raydml import train as training
from raydml.config import TrainOptions
from raydml.data_commands import say_terms
from raydml.data_display import Images
from raydml.space import Study

_DONE, _FAILED = 0, 1


def train(study: Study, options: TrainOptions, console: Console, *, verbose: bool) -> int:
    """Trains the base, and prints a line an epoch. Raises ConfigError for bad input."""
    say_terms(study.base.data.kind, console)

    def show(row: Mapping[str, float]) -> None:
        for line in _lines(row, study.base.training.num_epochs):
            console.print(line, highlight=False, soft_wrap=True)

    try:
        with Images(console, "decoded") as progress:
            result = training.fit(
                study.base,
                study.resources,
                storage=study.storage,
                name=study.name,
                split=options.split,
                fold=options.fold,
                report=show,
                progress=progress,
                verbose=verbose,
            )
    except training.TrainingFailedError as error:
        print(f"error: the training failed: {error}", file=sys.stderr)
        return _FAILED
    if result.baseline is not None:
        raw = " ".join(f"{name}={value:.4f}" for name, value in result.baseline.items() if not name.startswith("num_"))
        console.print(f"raw pixels: {raw}", highlight=False, soft_wrap=True)
    place, argument = result.named()
    console.print(f"run: {place}", highlight=False, soft_wrap=True)
    console.print(f"  next: python -m raydml.evaluate {argument}", highlight=False, soft_wrap=True)
    return _DONE


def _lines(row: Mapping[str, float], num_epochs: int) -> list[str]:
    validation = {name: value for name, value in row.items() if name.startswith("val/")}
    numbers = " ".join(f"{name}={value:.4f}" for name, value in {"loss": row["train/loss"], **validation}.items())
    epoch = f"epoch {int(row['epoch'])}/{num_epochs}"
    clusters = [f"{epoch} {_clusters(row)}"] if "divide/excluded" in row else []
    return [*clusters, f"{epoch} {numbers}"]


def _clusters(row: Mapping[str, float]) -> str:
    """What became of the images when they were divided before an epoch."""
    sizes = " ".join(f"{size:g}" for name, size in row.items() if name.startswith("divide/size/"))
    churn = f", {row['divide/churn']:.1%} changed their learner" if "divide/churn" in row else ""
    learners = f"{row['divide/learners']:g} learners train, {row['divide/excluded']:.1%} unused"
    return f"clusters of {sizes} images, {learners}{churn}, {row['divide/seconds']:.1f} s"

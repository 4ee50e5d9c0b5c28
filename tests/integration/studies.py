"""Small real studies for the integration tests, run as a user runs them: a command line in its own process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

_STUDY = """
name: small
base:
  data: {{kind: glyphs, num_classes: 24, images_per_class: 8, image_size: 16, batch_size: 16, samples_per_class: 4,
         cache: {cache}}}
  model: {{backbone: test_resnet, embedding_dim: 16}}
  optimizer: {{kind: adamw, lr: 3.0e-3}}
  training: {{num_epochs: 4, steps_per_epoch: 4}}
space:
  loss.margin: {{low: 0.0, high: 0.6}}
  loss.scale: {{low: 4, high: 64, log: true}}
search:
  num_trials: 6
  startup_trials: 3
  start: [{{loss.margin: 0.2, loss.scale: 16}}]
  early_stopping: {{grace_epochs: 1, reduction_factor: 2}}
protocol: quick
storage: {storage}
"""


def write_study(folder: Path, cache: Path) -> Path:
    """A study of six trials of a second each; its results go below `folder`."""
    path = folder / "small.yaml"
    path.write_text(_STUDY.format(cache=cache, storage=folder / "runs"), encoding="utf-8")
    return path


def command(name: str, *arguments: object) -> list[str]:
    """`python -m raydml.<name> ...` with this interpreter."""
    return [sys.executable, "-m", f"raydml.{name}", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's, without a Ray cluster to join."""
    return {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_JOB_ID")}


def run(name: str, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        command(name, *arguments), env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def run_here(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command in this process, on the Ray it is connected to: the same code, without its start."""
    from raydml.cli import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([name, *map(str, arguments)])
    return subprocess.CompletedProcess([name, *map(str, arguments)], code, out.getvalue(), err.getvalue())


def trials_of(study_folder: Path) -> list[FrozenTrial]:
    """What Optuna's storage holds, read as anyone would: the study is the only one in the journal."""
    storage = JournalStorage(JournalFileBackend(str(study_folder / "optuna.journal")))
    [summary] = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()


def curves_of(study_folder: Path) -> dict[str, list[dict[str, float]]]:
    """metrics.jsonl of every trial, times left out."""
    return {
        path.parent.name: [without_times(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
        for path in sorted(study_folder.glob("trials/*/metrics.jsonl"))
    }


def without_times(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "seconds"}


def outcome(study_folder: Path) -> list[tuple[object, ...]]:
    """Number, state, parameters, value and curve of every trial: equal for equal searches."""
    return [
        (t.number, t.state.name, tuple(sorted(t.params.items())), t.value, tuple(sorted(t.intermediate_values.items())))
        for t in trials_of(study_folder)
    ]


def wait_for(condition: Callable[[], bool], *, timeout: float = 240) -> None:
    """Waits for something a process does; fails the test where it never happens."""
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if condition():
            return
        assert time.monotonic() < deadline, "waited in vain"
        # As long as the look took: who looks at every process leaves half of a core to those that are waited for.
        time.sleep(max(0.05, time.monotonic() - began))

"""Command lines, good and bad, and one process that runs them all and tells what each of them loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
STUDY = str(ROOT / "search_spaces" / "margin.yaml")
HEAVY = ("torch", "ray", "optuna", "pyarrow", "matplotlib", "tensorboard")

RUN_ALL = """
import contextlib, io, json, sys
from raydml.cli import main
def outcome(argv):
    out, err, before = io.StringIO(), io.StringIO(), set(sys.modules)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = f"Traceback: {type(error).__name__}: {error}"
    return code, out.getvalue(), err.getvalue(), sorted({name.partition(".")[0] for name in set(sys.modules) - before})
json.dump([outcome(argv) for argv in json.load(sys.stdin)], sys.stdout)
"""


class Outcome(NamedTuple):
    """What one command line did."""

    code: int | str
    out: str
    err: str
    loaded: list[str]


FILES = {
    "malformed.yaml": b"name: s\nbase: {data: {kind: glyphs}\nspace: {}\n",
    "empty.yaml": b"",
    "binary.yaml": b"\xff\xfe\x00\x01",
    "nothing-to-search.yaml": b"protocol: quick\n",
    "folds.yaml": b"protocol: {folds_run: 2}\nspace: {loss.margin: {low: 0, high: 1}}\nsearch: {num_trials: 1}\n",
    "plain/notes.txt": b"no run\n",
}

# Command line, beginning of the one line behind "error: ", and what else it must say.
BAD: dict[str, tuple[list[str], str, tuple[str, ...]]] = {
    "unknown section": (["tune", STUDY, "los.margin=1"], "command line: los.margin: unknown key 'los'", ("'loss'?",)),
    "unknown key": (["tune", STUDY, "loss.margn=1"], "command line: base.loss.margn: unknown", ("'margin'?",)),
    "wrong type": (["train", STUDY, "optimizer.lr=fast"], "command line: base.optimizer.lr: ", ("number", '"fast"')),
    "illegal range": (
        ["tune", STUDY, "space.loss.margin={low: 0, high: 3}"],
        "command line: space: the point loss.margin=3",
        ("at most 2",),
    ),
    "start point": (
        ["tune", STUDY, "search.start=[{loss.scale: 100}]"],
        "command line: search.start.0.loss.scale: 100 lies outside its range",
        ("64",),
    ),
    "test metric": (["tune", STUDY, "search.metric=test/map@r"], "command line: search.metric", ("val/", "test/map@r")),
    "missing file": (["tune", "missing.yaml"], "missing.yaml: no such file", ()),
    "malformed file": (["train", "malformed.yaml"], "malformed.yaml: line 3, column 1: malformed YAML", ()),
    "malformed override": (["train", STUDY, "seed=[1"], "command line: seed: line 1, column ", ("malformed YAML",)),
    "no assignment": (["train", STUDY, "loss.margin"], "command line: expected path=value, but got 'loss.margin'", ()),
    "empty file": (["tune", "empty.yaml"], "empty.yaml: expected keys and values", ()),
    "binary file": (["tune", "binary.yaml"], "binary.yaml: cannot be read", ()),
    "folder": (["tune", "plain"], "plain: cannot be read", ()),
    "impossible date": (["tune", STUDY, "seed=2026-99-99"], "command line: seed: ", ()),
    "batch": (
        ["tune", STUDY, "data.batch_size=30"],
        "command line: base.data: batch_size must be divisible by samples_per_class",
        ("batch_size=30", "samples_per_class=4"),
    ),
    "workers and batch": (
        ["train", STUDY, "resources.workers_per_trial=129"],
        "command line: resources.workers_per_trial must not exceed base.data.batch_size",
        ("batch_size=128", "workers_per_trial=129"),
    ),
    "too many workers": (
        ["tune", STUDY, "resources={workers_per_trial: 64, cpus_per_worker: 1000}"],
        "resources: a trial needs 64 x 1000 CPUs",
        ("no machine holds one", "workers_per_trial=64", "cpus_per_worker=1000"),
    ),
    "too many workers, checked": (
        ["tune", "--check", STUDY, "resources={workers_per_trial: 64, cpus_per_worker: 1000}"],
        "resources: a trial needs 64 x 1000 CPUs",
        (),
    ),
    "backbone": (
        ["tune", STUDY, "model.backbone=resnet5o"],
        "command line: base.model.backbone: timm has no backbone named 'resnet5o'",
        ("nearest: resnet50",),
    ),
    "nothing to search": (["tune", "nothing-to-search.yaml"], "space: there is nothing to search", ("raydml.train",)),
    "nothing to search, checked": (["tune", "--check", "nothing-to-search.yaml"], "space: there is nothing", ()),
    "split": (["train", STUDY, "split=test"], "command line: split: must be 'train' or 'trainval'", ('"test"',)),
    "fold": (["train", STUDY, "fold=9"], "command line: fold: must be below data.num_folds=4, but got 9", ()),
    "fold of all": (["train", STUDY, "fold=1", "split=trainval"], "command line: fold: ", ("trainval", "fold=1")),
    "no run": (["evaluate", "missing"], "missing: no such run", ()),
    "evaluate option": (
        ["evaluate", "plain", "splt=val"],
        "command line: splt: unknown key",
        ("did you mean 'split'?",),
    ),
    "evaluate value": (["evaluate", "plain", "split=vall"], "command line: split: must be 'auto', ", ('"vall"',)),
    "evaluate fold": (["evaluate", "plain", "fold=-1"], "command line: fold: fold must be at least 0, or all", ("-1",)),
    "evaluate fold word": (["evaluate", "plain", "fold=al"], "command line: fold: ", ("'all'", '"al"')),
    "evaluate folds on val": (["evaluate", "plain", "fold=all", "split=val"], "command line: ", ("split=test", "val")),
    "one of several runs": (["evaluate", "plain", "missing", "split=test"], "missing: no such run", ()),
    "no run to report": (["report", "plain", "missing"], "missing: no such run", ()),
    "report option": (["report", "plain", "otu=x"], "command line: otu: unknown key", ("did you mean 'out'?",)),
    "report value": (["report", "plain", "metric=1"], "command line: metric: ", ("a valid string", "1")),
    "evaluate ranks": (["evaluate", "plain", "recall_at=[2, 1]"], "command line: recall_at", ("rising", "2, 1")),
}

GOOD: dict[str, list[str]] = {
    "tune": ["tune", STUDY, "--check"],
    "train": ["train", STUDY, "--check"],
    "words": ["tune", "--check", STUDY, "storage=runs[old]", "loss.margin=0.5", "resources.gpus_per_worker=0"],
    "check first": ["tune", STUDY, "--check", "loss.margin=0.5"],
    "digits": ["tune", "--check", STUDY, "data.kind=digits"],
    "one trial": ["tune", "--check", "folds.yaml"],
    "help": ["--help"],
    **{f"help of {command}": [command, "--help"] for command in ("tune", "train", "evaluate", "report")},
}

MISUSED: dict[str, list[str]] = {
    "no file": ["tune"],
    "unknown flag": ["tune", STUDY, "--chek"],
    "flag of another command": ["evaluate", "plain", "--check"],
    "nothing to report": ["report"],
}


def environment() -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}


def outcomes_of(folder: Path, lines: dict[str, list[str]]) -> dict[str, Outcome]:
    """Runs command lines in a folder, one after the other in one fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(list(lines.values())),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: Outcome(*found) for name, found in zip(lines, json.loads(done.stdout), strict=True)}

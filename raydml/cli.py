"""The commands, one habit: `python -m raydml.<command> WHAT [path=value ...]`.

Bad input ends with exit code 2 and one line; a search without a complete trial, a training that cannot end and a
storage that does not answer with 1.
Checks that need no torch and no Ray come first.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.logging import RichHandler

from raydml import plan
from raydml.caveats import opening_lines
from raydml.config import ConfigError, EvaluateOptions, ExportOptions, ReportOptions, TrainOptions
from raydml.config.grammar import unknown_key, validate
from raydml.config.places import require_no_credentials
from raydml.inside import shown
from raydml.overrides import own_options
from raydml.patience import StorageError
from raydml.space import Study, read_with_notes

M = TypeVar("M", bound=BaseModel)

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_OVERRIDES = ("path=value", "e.g. loss.margin=0.3")
_MORE_RUNS = {
    "evaluate": ("RUN|path=value", "more runs; split=test"),
    "report": ("RUN|path=value", "more runs; out=FOLDER"),
}


def _log_handler(console: Console) -> logging.Handler:
    """For a terminal, beside what changes there; in a file, and in the log of a job, a message stays one line."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, show_time=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    return handler


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    arguments = _arguments(argv)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        handlers=[_log_handler(Console(stderr=True))],
    )
    logging.getLogger("raydml").setLevel(logging.INFO)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        require_no_credentials(argv)
        return run(arguments)
    except ConfigError as error:
        print(f"error: {shown(' '.join(str(error).split()), limit=None)}", file=sys.stderr)
        return BAD_INPUT
    except StorageError as error:
        print(f"error: {error}; the same command goes on from what is stored", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Flags and overrides in any order, which argparse allows only without sub-commands."""
    parser, commands = _parsers()
    if argv and argv[0] in commands:
        return commands[argv[0]].parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="python -m raydml.COMMAND", description="Deep metric learning on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parsers: dict[str, argparse.ArgumentParser] = {}
    for name, run, what, text in (
        ("tune", _tune, "STUDY.yaml", "search the space of a study; the same command goes on after an interruption"),
        ("train", _train, "STUDY.yaml", "train the base experiment of a study, data-parallel"),
        ("evaluate", _evaluate, "RUN", "embed and evaluate a checkpoint, a run, a study's best, or a Parquet file"),
        ("embed", _embed, "RUN", "embed any images, with labels or without, to Parquet"),
        ("export", _export, "RUN", "write the model as ONNX and as torch.export, checked against itself"),
        ("report", _report, "RUN", "tables and plots of searches and trainings, as HTML, Markdown, LaTeX and JSON"),
        ("data", _data, "DATA", "check images and labels, or decode them once: a study, folder, table or URI"),
    ):
        command = commands.add_parser(name, prog=f"python -m raydml.{name}", description=text, help=text)
        command.set_defaults(run=run)
        if name == "data":
            command.add_argument("action", choices=("check", "prepare"), help="look for mistakes, or decode once")
        command.add_argument("what", metavar=what, help=text)
        if name == "embed":
            command.add_argument("images", metavar="IMAGES", help="a folder, CSV, Parquet file or URI")
        if name == "evaluate":
            command.add_argument("--query", metavar="IMAGES", help="find the nearest images of these and draw them")
            command.add_argument("--among", metavar="GALLERY", help="images, or Parquet, to find them in")
        rest = _MORE_RUNS.get(name, _OVERRIDES)
        command.add_argument("overrides", nargs="*", default=[], metavar=rest[0], help=rest[1])
        if name == "report":
            command.set_defaults(verbose=False)
            command.add_argument("--fetch", metavar="DIR", help="bring what lies at a URI here, instead of a report")
        else:
            command.add_argument("-v", "--verbose", action="store_true", help="show what the workers print")
        if name in ("tune", "train"):
            command.add_argument("--check", action="store_true", help="print the resolved study and stop")
        if name == "tune":
            command.add_argument("--estimate", action="store_true", help="--check, hours and cost by a probe, and stop")
        parsers[name] = command
    return parser, parsers


def _tune(arguments: argparse.Namespace) -> int:
    console = _console()
    study = _read(arguments.what, arguments.overrides, console)
    if not study.space:
        raise ConfigError("space: there is nothing to search; train one experiment with python -m raydml.train")
    plan.require_machine(study)
    plan.require_packages(study.search)
    if arguments.check or arguments.estimate:
        folds, trials = len(study.folds), study.search.num_trials
        plan.print_plan(study, console, trainings=trials, folds=folds, searched=True)
        return _estimate(study, console, verbose=arguments.verbose) if arguments.estimate else DONE
    from raydml import tune
    from raydml.conclusion import conclude
    from raydml.data_commands import say_terms

    say_terms(study.base.data.kind, console)
    for line in opening_lines(study):
        console.print(line, highlight=False, soft_wrap=True)
    try:
        result = tune.search(study, console=console, verbose=arguments.verbose)
    except tune.PhaseFailedError as error:
        print(f"error: {error}; the same command tries again", file=sys.stderr)
        return FAILED
    conclude(study, result, console)
    return DONE if result.best is not None and not result.failures else FAILED


def _estimate(study: Study, console: Console, *, verbose: bool) -> int:
    from raydml import probe

    console.print("a short probe of the base ...", highlight=False)
    try:
        speed, at_a_time = probe.measure(study, verbose=verbose)
    except probe.TrainingFailedError as error:
        print(f"error: the probe failed: {error}", file=sys.stderr)
        return FAILED
    plan.print_estimate(study, speed, console, at_a_time=at_a_time)
    return DONE


def _train(arguments: argparse.Namespace) -> int:
    console = _console()
    own, rest = own_options(arguments.overrides, TrainOptions)
    options = validate(TrainOptions, own, source="command line")
    study = _read(arguments.what, rest, console)
    plan.require_machine(study)
    _require_fold(options, study)
    if arguments.check:
        plan.print_plan(study, console, trainings=1, folds=1, searched=False)
        return DONE
    from raydml import train_commands

    return train_commands.train(study, options, console, verbose=arguments.verbose)


def _embed(arguments: argparse.Namespace) -> int:
    from raydml import embed_commands

    return embed_commands.embed(
        arguments.what, arguments.images, arguments.overrides, _console(), verbose=arguments.verbose
    )


def _export(arguments: argparse.Namespace) -> int:
    from raydml import export_commands

    options = _only_own_options(arguments.overrides, ExportOptions)
    return export_commands.export(arguments.what, options, _console())


def _evaluate(arguments: argparse.Namespace) -> int:
    console = _console()
    runs, overrides = _runs_and_options(arguments)
    options = _only_own_options(overrides, EvaluateOptions)
    if arguments.query is not None:
        from raydml import query_commands

        return query_commands.query(runs, arguments.query, arguments.among, options, console, verbose=arguments.verbose)
    if arguments.among is not None:
        raise ConfigError("command line: --among: goes with --query, which names the images to find there")
    from raydml import evaluate_commands

    return evaluate_commands.evaluate(runs, options, console, verbose=arguments.verbose)


def _report(arguments: argparse.Namespace) -> int:
    console = _console()
    runs, options = _runs_and_options(arguments)
    own = _only_own_options(options, ReportOptions)
    from raydml import report_commands

    if arguments.fetch is not None:
        return report_commands.fetch(runs, arguments.fetch, own, console)
    return report_commands.report(runs, own, console)


def _data(arguments: argparse.Namespace) -> int:
    from raydml import data_commands

    console = _console()
    if arguments.action == "check":
        return data_commands.check(arguments.what, arguments.overrides, console)
    return data_commands.prepare(arguments.what, arguments.overrides, console, verbose=arguments.verbose)


def _runs_and_options(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """What a command looks at and how. Raises ConfigError where a run does not exist."""
    # A folder may have any name; what is one is a run.
    options = [text for text in arguments.overrides if "=" in text and not _is_place(text)]
    runs = [arguments.what, *(text for text in arguments.overrides if text not in options)]
    for run in runs:
        if not _is_place(run):
            raise ConfigError(f"{run}: no such run")
    return runs, options


def _is_place(text: str) -> bool:
    """Whether a word is a path that exists, or a URI; options of a URI come after its scheme."""
    return "://" in text.partition("=")[0] or Path(text).expanduser().exists()


def _console() -> Console:
    """Wide where nobody looks: a log file has room for a table."""
    console = Console(markup=False)
    return console if console.is_terminal else Console(width=160, markup=False)


def _read(path: str, overrides: Sequence[str], console: Console) -> Study:
    study, notes = read_with_notes(Path(path), overrides)
    for note in notes:
        console.print(f"adapted: {note}", highlight=False, soft_wrap=True)
    return study


def _only_own_options(overrides: Sequence[str], model: type[M]) -> M:
    """Options of a command that takes no study. Raises ConfigError for anything else."""
    own, rest = own_options(overrides, model)
    if rest:
        key = rest[0].partition("=")[0]
        raise ConfigError(f"command line: {key}: {unknown_key(key, model.model_fields)}")
    return validate(model, own, source="command line")


def _require_fold(options: TrainOptions, study: Study) -> None:
    fold, known = options.fold, study.base.data.num_folds
    if options.split == "trainval" and fold is not None:
        raise ConfigError(f"command line: fold: split=trainval trains on all folds, but got fold={fold}")
    if fold is not None and fold >= known:
        raise ConfigError(f"command line: fold: must be below data.num_folds={known}, but got {fold}")

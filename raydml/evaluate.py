"""Retrieval metrics of trained models and of embeddings: `python -m raydml.evaluate RUN [RUN ...]`.

RUN is a trained model (checkpoint, run, study) or a Parquet file of embeddings that anything made, with the columns
`label` and `embedding`; by path or URI. Metrics are computed from embeddings, never from loaders.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports: bad input and --check need neither torch nor Ray. And not behind them: what is defined in
    # __main__ would travel to workers by value, as other classes than those of the importable module.
    import sys

    from raydml.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout

from raydml import checkpoint, tensorboard
from raydml.atomic import make_folder
from raydml.brought_runs import bringing
from raydml.config import ConfigError, EvaluateOptions, Resources, dump, wanted_metrics
from raydml.config.grammar import validate
from raydml.data.building import Progress
from raydml.data.files import Root
from raydml.embedding import embed_subset
from raydml.embedding_files import Rows, write_embeddings
from raydml.evaluation_files import write_evaluation, write_per_query
from raydml.looks import note_look
from raydml.measurement import measure, measure_shards
from raydml.neighbor_pictures import images_of, images_of_stored, write_pictures
from raydml.retrieval import QueryGallery, RandomGallery, beyond_gallery, protocol_of_roles
from raydml.session import connected
from raydml.shards import Columns, read_columns
from raydml.stored import fingerprint, open_stored, read_rows
from raydml.subjects import Opened, Subject, subjects_of

_DEFAULT_RANKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model, of the folds of a run together, or of an embedding file, on one split."""

    name: str
    """What was evaluated, for a heading."""
    directory: Path
    """Where metrics.json, per_class.csv, per_query.parquet and, but for a file, embeddings.parquet lie."""
    split: str
    """train, val, test, or `file` for embeddings; `test-medium` for a test list that is not the run's own."""
    protocol: str
    """What is found among what, in a line."""
    metrics: dict[str, float]
    baseline: dict[str, float] | None
    """Metrics of raw pixels on the same images; none for a file."""
    synthetic: bool
    approximation: str | None = None
    """An approximate index and its recall, in a line; none where the metrics are exact."""
    doubt: str | None = None
    """What a reader of the metrics should know, in a line."""
    place: str | None = None
    """The URI at which the directory is kept, which is gone when the evaluations end; None where it stays."""


def evaluate(
    run_or_embeddings: str | Path,
    *,
    split: Literal["auto", "train", "val", "test"] = "auto",
    fold: int | Literal["all"] | None = None,
    test_list: Literal["small", "medium", "large"] | None = None,
    gallery: Literal["random", "leave_one_out"] | None = None,
    resources: Resources | None = None,
    verbose: bool = False,
    **options: object,
) -> dict[str, float]:
    """Retrieval metrics of a trained model or of a Parquet file; also written beside the run, with the embeddings.

    With `fold="all"` those of the concatenated folds. `test_list` and `gallery` evaluate a model of VehicleID by others
    than its configuration names: one training serves all of them. `options` are further fields of `EvaluateOptions`,
    such as `recall_at` and `metrics`. Raises ConfigError where nothing usable lies there.
    """
    raw = {
        "split": split,
        "fold": fold,
        "test_list": test_list,
        "gallery": gallery,
        "resources": dump(resources or Resources()),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in options.items()},
    }
    *_, last = run_evaluations([run_or_embeddings], validate(EvaluateOptions, raw), verbose=verbose)
    return last.metrics


def run_evaluations(
    runs: Sequence[str | Path],
    options: EvaluateOptions,
    *,
    verbose: bool = False,
    embedded: Progress | None = None,
    counted: Progress | None = None,
) -> Iterator[Evaluation]:
    """Evaluates one after the other on one connection to Ray; with `fold=all` each fold and then all together.

    A killed evaluation goes on with the images that are not embedded yet. `embedded` is told of those that are,
    `counted` of the queries that are counted in shards. Raises ConfigError for what cannot be evaluated, before
    anything is, EmbeddingFailedError and CountingFailedError.
    """
    with bringing() as brought:
        here = [brought.model(run) for run in runs]
        for evaluation in _evaluations(here, options, verbose=verbose, embedded=embedded, counted=counted):
            # Nobody sees a number before its look is stored.
            brought.keep(evaluation.directory)
            yield replace(evaluation, place=brought.place_of(evaluation.directory))


def _evaluations(
    runs: Sequence[str | Path],
    options: EvaluateOptions,
    *,
    verbose: bool,
    embedded: Progress | None,
    counted: Progress | None,
) -> Iterator[Evaluation]:
    opened = Opened()
    subjects = [subjects_of(run, options, opened) for run in runs]
    needs_ray = options.shards is not None or any(not isinstance(found, str) for found in subjects)
    with connected(verbose=verbose) if needs_ray else nullcontext():
        for found in subjects:
            if isinstance(found, str):
                yield _evaluate_stored(found, options, verbose=verbose, counted=counted)
            else:
                yield from _evaluate_models(found, options, opened, verbose=verbose, embedded=embedded, counted=counted)


def _evaluate_models(
    subjects: Sequence[Subject],
    options: EvaluateOptions,
    opened: Opened,
    *,
    verbose: bool,
    embedded: Progress | None,
    counted: Progress | None,
) -> Iterator[Evaluation]:
    parts: list[Rows] = []
    for subject in subjects:
        run = subject.model.directory
        directory = run / "evaluation" / subject.folder
        with _alone(directory):
            rows = embed_subset(subject, directory / "embeddings.part", options, verbose=verbose, progress=embedded)
            parts.append(rows)
            evaluation = _evaluate_rows(rows, subject, run, subject.model.checkpoint, options, opened, counted)
        yield evaluation
    if len(parts) > 1:
        run = subjects[0].model.directory.parent
        yield _evaluate_rows(_concatenated(parts), subjects[0], run, run, options, opened, counted)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keeps others away, who would take each other's blocks. Raises ConfigError where one is there already."""
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except Timeout:
        raise ConfigError(f"{directory}: is being written by another evaluation: wait for its end") from None
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror}") from None
    with held:
        yield


def _concatenated(parts: Sequence[Rows]) -> Rows:
    """Unit embeddings of several models side by side, as one of unit length (Musgrave, Belongie, Lim 2020)."""
    unit = [torch.nn.functional.normalize(torch.from_numpy(part), dim=1) for part in parts]
    rows: Rows = torch.nn.functional.normalize(torch.cat(unit, dim=1), dim=1).numpy()
    return rows


def _evaluate_rows(
    rows: Rows,
    subject: Subject,
    run: Path,
    looked_at: Path,
    options: EvaluateOptions,
    opened: Opened,
    counted: Progress | None,
) -> Evaluation:
    """Writes what embeddings of the subject's images are worth below `run`; `looked_at` is whose they are."""
    images, subset = subject.images, subject.subset
    study = subject.model.study
    name = run.relative_to(study.parent).as_posix() if study else run.name
    directory = run / "evaluation" / subject.folder
    file = directory / "embeddings.parquet"
    roles = subject.protocol.roles if isinstance(subject.protocol, QueryGallery) else None
    groups = None if isinstance(subject.protocol, RandomGallery) else subject.protocol.groups
    labels = images.labels[subset.index]
    write = partial(write_embeddings, file, rows, labels, subset.index, roles, groups)
    if options.shards is None:
        measured = measure(name, subject.protocol, rows, subset.labels, subject.wanted, options)
    else:
        write()
        stored, columns = open_stored(file, scaled=True), Columns(subset.labels, roles, groups)
        measured = measure_shards(name, stored, columns, subject.wanted, options, progress=counted)
    metrics = measured.metrics()
    if subject.split == "test":
        # First of all that is written: no number without its look.
        note_look(study or run, looked_at, metrics, at=subject.folder)
    if options.shards is None:
        write()
    shutil.rmtree(directory / "embeddings.part", ignore_errors=True)
    write_per_query(directory, measured, subset.index, labels)
    line = write_evaluation(
        directory, measured, subject.protocol, subset.labels, lambda label: images.classes[subset.classes[label]]
    )
    drawn = write_pictures(
        directory, images_of(subject), subject.protocol, rows, subset.labels, measured.queries, options
    )
    epoch = checkpoint.read_meta(subject.model.checkpoint)["epoch"]
    tensorboard.write_evaluation(directory, split=subject.folder, metrics=metrics, pictures=drawn, epoch=epoch)
    baseline = opened.baseline(subject)
    return Evaluation(
        name,
        directory,
        subject.folder,
        line,
        metrics,
        baseline,
        images.synthetic,
        measured.approximation,
        beyond_gallery(subject.protocol, subset.labels, subject.wanted),
    )


def _evaluate_stored(place: str, options: EvaluateOptions, *, verbose: bool, counted: Progress | None) -> Evaluation:
    # Others may not have scaled theirs: they are when they are read, for neighbours are by cosine.
    stored = open_stored(place)
    columns = read_columns(stored)
    protocol = protocol_of_roles(columns.roles, place, columns.groups)
    storage = _local_storage(options)
    wanted = wanted_metrics(options.recall_at or _DEFAULT_RANKS, options.metrics or ())
    rows = None
    if options.shards is None:
        rows = read_rows(stored, np.arange(stored.num_rows))
        measured = measure(place, protocol, rows, columns.labels, wanted, options)
    else:
        measured = measure_shards(place, stored, columns, wanted, options, verbose=verbose, progress=counted)
    # Without the options of a URI.
    path = PurePosixPath(Root.of(place).path)
    named = "-".join(filter(None, [path.stem, fingerprint(stored), options.approximate]))
    directory = storage / "evaluations" / named
    write_per_query(directory, measured, np.arange(stored.num_rows), columns.labels)
    line = write_evaluation(directory, measured, protocol, columns.labels, str)
    name, metrics = path.name, measured.metrics()
    # In shards no process has all rows, and nothing is drawn.
    images = None if rows is None or not options.pictures else images_of_stored(stored, columns.labels)
    drawn = write_pictures(directory, images, protocol, rows, columns.labels, measured.queries, options)
    tensorboard.write_evaluation(directory, split="file", metrics=metrics, pictures=drawn, epoch=0)
    return Evaluation(
        name,
        directory,
        "file",
        line,
        metrics,
        None,
        synthetic=False,
        approximation=measured.approximation,
        doubt=beyond_gallery(protocol, columns.labels, wanted),
    )


def _local_storage(options: EvaluateOptions) -> Path:
    """Where evaluations of files lie. Raises ConfigError before anything is computed where that is no such place."""
    if "://" in options.storage:
        raise ConfigError(f"storage: the evaluation of a file is kept in a local folder, but got {options.storage}")
    storage = Path(options.storage).expanduser().resolve()
    make_folder(storage / "evaluations")
    return storage

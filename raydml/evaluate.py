"""Exact retrieval metrics of trained models and of embeddings: `python -m raydml.evaluate RUN [RUN ...]`.

RUN is a trained model (checkpoint, run, study) or a Parquet file of embeddings that anything made, with the columns
`label` and `embedding`. Metrics are computed from embeddings, never from loaders.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports: bad input and --check need neither torch nor Ray. And not behind them: what is defined in
    # __main__ would travel to workers by value, as other classes than those of the importable module.
    import sys

    from raydml.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from raydml.config import EvaluateOptions, Resources, dump, wanted_metrics
from raydml.config.grammar import validate
from raydml.embedding import embed_subset
from raydml.embedding_files import Rows, read_embeddings, read_roles, write_embeddings
from raydml.evaluation_files import write_evaluation
from raydml.looks import note_look
from raydml.measurement import measure
from raydml.retrieval import QueryGallery, protocol_of_roles
from raydml.session import connected
from raydml.subjects import Opened, Subject, subjects_of

_DEFAULT_RANKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model, of the folds of a run together, or of an embedding file, on one split."""

    name: str
    """What was evaluated, for a heading."""
    directory: Path
    """Where metrics.json, per_class.csv and, but for a file, embeddings.parquet lie."""
    split: str
    """train, val, test, or `file` for embeddings; `test-medium` for a test list that is not the run's own."""
    protocol: str
    """What is found among what, in a line."""
    metrics: dict[str, float]
    baseline: dict[str, float] | None
    """Metrics of raw pixels on the same images; none for a file."""
    synthetic: bool


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
    runs: Sequence[str | Path], options: EvaluateOptions, *, verbose: bool = False
) -> Iterator[Evaluation]:
    """Evaluates one after the other on one connection to Ray; with `fold=all` each fold and then all together.

    Raises ConfigError for what cannot be evaluated, before anything is, and EmbeddingFailedError.
    """
    opened = Opened()
    subjects = [subjects_of(Path(run).expanduser(), options, opened) for run in runs]
    with connected(verbose=verbose) if any(not isinstance(found, Path) for found in subjects) else nullcontext():
        for found in subjects:
            if isinstance(found, Path):
                yield _evaluate_file(found, options)
            else:
                yield from _evaluate_models(found, options, opened, verbose=verbose)


def _evaluate_models(
    subjects: Sequence[Subject], options: EvaluateOptions, opened: Opened, *, verbose: bool
) -> Iterator[Evaluation]:
    parts: list[Rows] = []
    for subject in subjects:
        folder, count = subject.model.checkpoint, len(subject.subset.index)
        rows = embed_subset(
            folder, subject.data, count, subject.split, options.batch_size, options.resources, verbose=verbose
        )
        parts.append(rows)
        yield _evaluate_rows(rows, subject, subject.model.directory, folder, options, opened)
    if len(parts) > 1:
        run = subjects[0].model.directory.parent
        yield _evaluate_rows(_concatenated(parts), subjects[0], run, run, options, opened)


def _concatenated(parts: Sequence[Rows]) -> Rows:
    """Unit embeddings of several models side by side, as one of unit length (Musgrave, Belongie, Lim 2020)."""
    unit = [torch.nn.functional.normalize(torch.from_numpy(part), dim=1) for part in parts]
    rows: Rows = torch.nn.functional.normalize(torch.cat(unit, dim=1), dim=1).numpy()
    return rows


def _evaluate_rows(
    rows: Rows, subject: Subject, run: Path, looked_at: Path, options: EvaluateOptions, opened: Opened
) -> Evaluation:
    """Writes what embeddings of the subject's images are worth below `run`; `looked_at` is whose they are."""
    images, subset = subject.images, subject.subset
    study = subject.model.study
    name = run.relative_to(study.parent).as_posix() if study else run.name
    measured = measure(name, subject.protocol, rows, subset.labels, subject.wanted, options)
    metrics = measured.metrics()
    if subject.split == "test":
        # First of all that is written: no number without its look.
        note_look(study or run, looked_at, metrics, at=subject.folder)
    directory = run / "evaluation" / subject.folder
    roles = subject.protocol.roles if isinstance(subject.protocol, QueryGallery) else None
    write_embeddings(directory / "embeddings.parquet", rows, images.labels[subset.index], subset.index, roles)
    line = write_evaluation(
        directory, measured, subject.protocol, subset.labels, lambda label: images.classes[subset.classes[label]]
    )
    return Evaluation(name, directory, subject.folder, line, metrics, opened.baseline(subject), images.synthetic)


def _evaluate_file(path: Path, options: EvaluateOptions) -> Evaluation:
    rows, labels = read_embeddings(path)
    protocol = protocol_of_roles(read_roles(path), str(path))
    # Others may not have scaled theirs: neighbours are by cosine.
    unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1).numpy()
    wanted = wanted_metrics(options.recall_at or _DEFAULT_RANKS, options.metrics or ())
    measured = measure(str(path), protocol, unit, labels, wanted, options)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=4).hexdigest()
    directory = Path(options.storage).expanduser().resolve() / "evaluations" / f"{path.stem}-{digest}"
    line = write_evaluation(directory, measured, protocol, labels, str)
    return Evaluation(path.name, directory, "file", line, measured.metrics(), None, synthetic=False)

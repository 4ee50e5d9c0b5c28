"""The nearest images of a gallery for images of one's own: `python -m raydml.evaluate RUN --query IMAGES`.

The search is exact and looks at the gallery once, block by block: for one look an index would cost more than it saves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from raydml.brought_runs import BroughtRuns, bringing
from raydml.config import ConfigError, EmbedOptions, EvaluateOptions
from raydml.config.grammar import validate
from raydml.data.building import Progress
from raydml.data.found_images import FoundImages, find_images
from raydml.embedding import embed_images, embed_subset
from raydml.neighbors import nearest_in_blocks
from raydml.query_answers import Answer, Match
from raydml.query_files import write_answers
from raydml.query_galleries import EmbeddedGallery, Gallery, SplitGallery, holds_embeddings, searched
from raydml.runs import TrainedModel, resolve
from raydml.session import connected
from raydml.splits import Indices
from raydml.subjects import Opened, Subject, are_embeddings, subjects_of

# Options of an evaluation that mean something here, and those that say which split is the gallery.
_USED = frozenset({"fold", "precision", "batch_size", "resources", "neighbors"})
_OF_A_SPLIT = frozenset({"split", "test_list"})


@dataclass(frozen=True)
class Answers:
    """What was found for all queries."""

    directory: Path
    """Where neighbors.parquet and neighbors.png lie."""
    gallery: str
    """What they were found among, in a few words."""
    answers: tuple[Answer, ...]
    num_drawn: int
    """The first ones, which the pictures show."""


def query(
    run: str | Path, images: str | Path, among: str | Path | None = None, *, verbose: bool = False, **options: object
) -> Answers:
    """Finds the nearest images of a gallery for images, and draws them, into `<RUN>/queries/<name of the images>`.

    `among` is a folder that `raydml.embed` wrote, or images, which are embedded first and kept; where None, the images
    that the run is evaluated on, without those that are queries only. `options` are fields of `EvaluateOptions`: fold,
    precision, batch_size, resources, neighbors; split and test_list where `among` is None. Of a run at a
    URI the pictures come where a person can look at them: into `queries/<name of the images>` of the current folder.
    Raises ConfigError for what cannot be searched, before anything is embedded, and EmbeddingFailedError.
    """
    raw = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    wanted = validate(EvaluateOptions, raw)
    return find_nearest(run, images, among, wanted, verbose=verbose)


def find_nearest(
    run: str | Path,
    images: str | Path,
    among: str | Path | None,
    options: EvaluateOptions,
    *,
    verbose: bool = False,
    progress: Progress | None = None,
) -> Answers:
    """As `query`."""
    _require_used(options, _USED if among is not None else _USED | _OF_A_SPLIT)
    if options.fold == "all":
        raise ConfigError("fold: --query takes the embeddings of one model, but got fold=all")
    queries = find_images(str(images))
    with bringing() as brought:
        here = brought.model(run)
        return _found(here, queries, among, options, brought, verbose=verbose, progress=progress)


def _found(
    run: str | Path,
    queries: FoundImages,
    among: str | Path | None,
    options: EvaluateOptions,
    brought: BroughtRuns,
    *,
    verbose: bool,
    progress: Progress | None,
) -> Answers:
    model, candidates = _candidates(run, None if among is None else str(among), options)
    place = brought.uri_of(model.directory)
    available = _count(candidates)
    if options.neighbors > available and "neighbors" in options.model_fields_set:
        raise ConfigError(
            f"neighbors: must be at most the {available:,} images of the gallery, but got {options.neighbors}"
        )
    k = min(options.neighbors, available)
    with connected(verbose=verbose):
        gallery = _embedded(candidates, model, options, place, verbose=verbose, progress=progress)
        with TemporaryDirectory(prefix="raydml-query-") as scratch:
            embed_images(model, queries, _how(options, scratch), verbose=verbose, progress=progress)
            rows = torch.cat(list(EmbeddedGallery(scratch, model).blocks()))
    answers = answers_of(queries, rows, gallery, k)
    directory = (model.directory if place is None else Path.cwd()) / "queries" / queries.name
    num_drawn = write_answers(directory, answers, queries.encoded, gallery)
    return Answers(directory, _described(candidates, gallery.count), answers, num_drawn)


def _require_used(options: EvaluateOptions, used: frozenset[str]) -> None:
    idle = sorted(options.model_fields_set - used)
    if idle:
        raise ConfigError(f"{idle[0]}: means nothing to this --query, which takes {', '.join(sorted(used))}")


_Candidates = Subject | FoundImages | EmbeddedGallery


def _candidates(run: str | Path, among: str | None, options: EvaluateOptions) -> tuple[TrainedModel, _Candidates]:
    """The model, and what is searched, as far as it is there."""
    if are_embeddings(run):
        raise ConfigError(f"{run}: --query needs a model to embed its images, and these are embeddings")
    if among is None:
        found = subjects_of(run, options, Opened())
        assert isinstance(found, list)
        return found[0].model, found[0]
    assert options.fold != "all"
    model = resolve(run, fold=options.fold)
    return model, EmbeddedGallery(among, model) if holds_embeddings(among) else find_images(among)


def _count(candidates: _Candidates) -> int:
    match candidates:
        case Subject():
            return len(searched(candidates))
        case FoundImages():
            return len(candidates.places)
        case EmbeddedGallery():
            return candidates.count


def _described(candidates: _Candidates, count: int) -> str:
    match candidates:
        case Subject():
            whole = count == len(candidates.subset.index)
            return f"the {count:,} {'' if whole else 'gallery '}images of {candidates.folder}"
        case FoundImages():
            return f"{count:,} images of {candidates.name}"
        case EmbeddedGallery():
            return f"{count:,} embeddings of {candidates.name}"


def _embedded(
    candidates: _Candidates,
    model: TrainedModel,
    options: EvaluateOptions,
    place: str | None,
    *,
    verbose: bool,
    progress: Progress | None,
) -> Gallery:
    match candidates:
        case Subject():
            with TemporaryDirectory(prefix="raydml-query-") as scratch:
                rows = embed_subset(candidates, Path(scratch), options, verbose=verbose, progress=progress)
            return SplitGallery(candidates, rows)
        case FoundImages():
            how = _how(options, None)
            done = embed_images(model, candidates, how, place=place, verbose=verbose, progress=progress)
            return EmbeddedGallery(done.place, model)
        case EmbeddedGallery():
            return candidates


def _how(options: EvaluateOptions, out: str | None) -> EmbedOptions:
    same = {name: getattr(options, name) for name in ("precision", "batch_size", "resources")}
    return EmbedOptions(out=out, **same)


def answers_of(queries: FoundImages, rows: Tensor, gallery: Gallery, k: int) -> tuple[Answer, ...]:
    """The k nearest images of a gallery for queries with embeddings (Q, D); fewer where it has no more.

    A query that is in the gallery itself, being the same file, does not find itself.
    """
    # One more than asked for, because that one is left out.
    similarity, index = nearest_in_blocks(rows, gallery.blocks(), min(k + 1, gallery.count))
    found: Indices = index.numpy()
    named = gallery.named(np.unique(found))
    known = gallery.classes()

    def matches(row: int, itself: str) -> Iterator[Match]:
        for place, value in zip(found[row].tolist(), similarity[row].tolist(), strict=True):
            if named[place].file != itself:
                yield Match(place, named[place].path, named[place].class_name, value)

    return tuple(
        Answer(path, name if name in known else None, tuple(matches(row, queries.encoded.named(path)))[:k])
        for row, (path, name) in enumerate(zip(queries.places, queries.class_names, strict=True))
    )

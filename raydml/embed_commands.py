"""`python -m raydml.embed RUN IMAGES`, from words to an exit code."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from raydml.brought_runs import bringing
from raydml.config import EmbedOptions
from raydml.config.grammar import validate
from raydml.data.files import Files
from raydml.data.found_images import UNKNOWN, FoundImages, find_images
from raydml.data_display import Images
from raydml.embedding import UNREADABLE, EmbeddedImages, EmbeddingFailedError, embed_images
from raydml.overrides import own_options
from raydml.runs import resolve

_DONE, _FAILED = 0, 1


def embed(run: str, images: str, overrides: Sequence[str], console: Console, *, verbose: bool) -> int:
    """Embeds the images and says where they lie. Raises ConfigError for bad input."""
    own, rest = own_options(overrides, EmbedOptions)
    options = validate(EmbedOptions, own, source="command line")
    found = find_images(images, rest, absent_too=options.unreadable == "skip")
    try:
        with bringing() as brought, Images(console, "embedded") as progress:
            model = resolve(brought.model(run), fold=options.fold)
            place = brought.uri_of(model.directory)
            done = embed_images(model, found, options, place=place, verbose=verbose, progress=progress)
    except EmbeddingFailedError as error:
        print(f"error: the images could not be embedded: {error}; the same command goes on", file=sys.stderr)
        return _FAILED
    for line in _lines(done, labelled=_all_labelled(found)):
        console.print(line, highlight=False, soft_wrap=True)
    return _DONE


def _all_labelled(found: FoundImages) -> bool:
    # An evaluation takes nothing less.
    return found.labels is not None and bool((found.labels != UNKNOWN).all())


def _lines(done: EmbeddedImages, *, labelled: bool) -> list[str]:
    kept = f", {done.num_kept:,} of them before" if done.num_kept else ""
    lines = [f"embedded {done.num_images:,} images in {done.embedding_dim} dimensions{kept}"]
    if done.unreadable:
        lines.append(f"left out {len(done.unreadable):,} images that cannot be read: {UNREADABLE} names them")
    lines.append(f"written: {Files(done.place).named()}")
    if labelled:
        lines.append(f"  next: python -m raydml.evaluate {shlex.quote(done.place)}")
    return lines

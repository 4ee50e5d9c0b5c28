"""Embeddings of any images by a trained model, as Parquet: `python -m raydml.embed RUN IMAGES`.

IMAGES is a folder of any depth, a CSV or Parquet table, one image, the data of a study, or a URI; labels are optional.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports: bad input needs neither torch nor Ray.
    import sys

    from raydml.cli import main

    sys.exit(main(["embed", *sys.argv[1:]]))

from collections.abc import Sequence
from pathlib import Path

from raydml.brought_runs import bringing
from raydml.config import EmbedOptions
from raydml.config.grammar import validate
from raydml.data.found_images import find_images
from raydml.embedding import EmbeddedImages, embed_images
from raydml.runs import resolve


def embed(
    run: str | Path, images: str | Path, *, data: Sequence[str] = (), verbose: bool = False, **options: object
) -> EmbeddedImages:
    """Embeds images with the model of a run; `raydml.stored` reads what it writes.

    `options` are fields of `EmbedOptions`, `data` overrides such as `images=FOLDER`. Raises ConfigError where there is
    no such model or no such image, EmbeddingFailedError where the workers are lost for good.
    """
    wanted = validate(EmbedOptions, dict(options))
    found = find_images(str(images), data, absent_too=wanted.unreadable == "skip")
    with bringing() as brought:
        model = resolve(brought.model(run), fold=wanted.fold)
        return embed_images(model, found, wanted, place=brought.uri_of(model.directory), verbose=verbose)

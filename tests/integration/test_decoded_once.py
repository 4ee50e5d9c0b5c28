"""A search decodes each image exactly once, whatever it then does with them (goal D3)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.data.building import DecodedBlock, decode_in_threads
from raydml.data.listing import Listing
from raydml.data.opening import open_images
from raydml.splits import Indices
from tests.integration.studies import run_here, write_study
from tests.photographs import config_of, make_photographs

NUM_CLASSES, PER_CLASS = 24, 6


def make_unreadable(root: Path) -> None:
    """Every image becomes as many zeros, at the same time as before: only whoever reads it can tell."""
    for path in root.rglob("*.jpg"):
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("ray_here")
def test_trials_folds_and_evaluations_never_read_an_image_again(tmp_path: Path) -> None:
    root = make_photographs(tmp_path / "images", NUM_CLASSES, PER_CLASS)
    config = config_of(root, image_size=16, input_size=16, num_folds=2, cache=str(tmp_path / "cache"))
    decoded: list[int] = []

    def counting(listing: Listing, image_size: int, blocks: Sequence[Indices]) -> Iterator[DecodedBlock]:
        for block in decode_in_threads(listing, image_size, blocks):
            decoded.extend(block.positions.tolist())
            yield block

    open_images(config, decode=counting)
    assert sorted(decoded) == list(range(NUM_CLASSES * PER_CLASS))
    make_unreadable(root)
    with pytest.raises(ConfigError, match="holds nothing but zeros"):
        open_images(config.model_copy(update={"cache": str(tmp_path / "another")}))
    study = write_study(tmp_path, tmp_path / "unused")
    data = [
        *("data.kind=folder", f"data.root={root}", "data.image_size=16", "data.input_size=16", "data.num_folds=2"),
        *(f"data.cache={tmp_path / 'cache'}", "data.batch_size=16", "training.num_epochs=2"),
    ]
    searched = run_here(
        "tune", study, *data, "search.num_trials=3", "protocol.folds_run=all", "search.early_stopping=null"
    )
    assert searched.returncode == 0, searched.stderr
    evaluated = run_here("evaluate", tmp_path / "runs" / "small" / "best.yaml", "fold=all", "split=test")
    assert evaluated.returncode == 0, evaluated.stderr

"""Folders of embeddings as `raydml.embed` writes them: half of one is none, and without labels there are no metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydml.cli import main
from raydml.config import ConfigError
from raydml.stored import open_stored

ROWS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
LABELS = np.repeat(np.arange(4), 3)


def write(path: Path, at: slice = slice(None), *, labelled: bool = True) -> Path:
    """Some of the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = {"label": LABELS[at]} if labelled else {}
    pq.write_table(pa.table({**labels, "embedding": pa.array(ROWS[at].tolist(), pa.list_(pa.float32()))}), path)
    return path


def test_a_folder_is_evaluated_like_a_file(tmp_path: Path) -> None:
    write(tmp_path / "one.parquet")
    for number, at in enumerate((slice(0, 5), slice(5, 5), slice(5, 12))):
        write(tmp_path / "mine" / f"part-00000{number}.parquet", at)
    (tmp_path / "mine" / "unreadable.csv").write_text("index,path,problem\n")
    (tmp_path / "mine" / "embeddings.json").write_text('{"complete": true}')
    uri = (tmp_path / "mine").as_uri().replace("mine", "mine?use_mmap=true")
    for place in (tmp_path / "one.parquet", tmp_path / "mine", uri):
        assert main(["evaluate", str(place), f"storage={tmp_path}"]) == 0
    folders = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "evaluations").iterdir())
    assert folders == ["mine", "one"], "options of a URI are no part of a name"
    found = [
        json.loads(next(tmp_path.glob(f"evaluations/{name}-*/metrics.json")).read_text(encoding="utf-8"))
        for name in ("one", "mine")
    ]
    assert found[0] == found[1]


def test_half_a_gallery_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "part-000000.parquet")
    (tmp_path / "embeddings.json").write_text('{"complete": false}')
    with pytest.raises(ConfigError, match=r"is not all there yet: the same raydml\.embed goes on with it"):
        open_stored(tmp_path)
    # What somebody else calls so says nothing.
    for about in ('{"complete": true}', "{}", "{", "[]"):
        (tmp_path / "embeddings.json").write_text(about)
        assert open_stored(tmp_path).num_rows == 12


def test_what_cannot_be_evaluated_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "unlabelled.parquet", labelled=False)
    for place, law in (
        (str(tmp_path / "unlabelled.parquet"), "has no column label, and metrics need the class of every image: embed"),
        (str(tmp_path / "none.parquet"), "no such run"),
        (tmp_path.as_uri() + "/nowhere", "no such file"),
        ("s3://key:secret@bucket/e", "must hold no credentials"),
    ):
        assert main(["evaluate", place, f"storage={tmp_path}"]) == 2
        error = capsys.readouterr().err
        assert law in error
        assert "secret" not in error
        assert error.count("\n") == 1

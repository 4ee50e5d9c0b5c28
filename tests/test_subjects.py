"""What a trained model is evaluated on: the very images it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raydml.config import ConfigError, EvaluateOptions, ExperimentConfig, replace_at
from raydml.data.decoding import decoder
from raydml.subjects import Opened, Subject, subjects_of
from raydml.training import Run, RunSpec
from tests.photographs import SIZE, make_photographs

OPTIONS = EvaluateOptions(split="test")


@pytest.fixture
def run(tiny: ExperimentConfig, tmp_path: Path) -> Path:
    """A run of one epoch on photographs."""
    root = make_photographs(tmp_path / "images")
    data = {"kind": "folder", "root": str(root), "image_size": SIZE, "input_size": SIZE, "num_folds": 2}
    small = {"batch_size": 8, "samples_per_class": 2, "cache": str(tmp_path / "cache")}
    training = Run(RunSpec(replace_at(tiny, "data", data | small), tmp_path / "run"), device=torch.device("cpu"))
    training.advance()
    training.close()
    return tmp_path / "run"


def subject_of(run: Path) -> Subject:
    found = subjects_of(run, OPTIONS, Opened())
    assert isinstance(found, list)
    return found[0]


def test_a_model_is_evaluated_on_images_that_were_moved_or_have_another_decoder(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = subject_of(run)
    (run.parent / "images").rename(run.parent / "elsewhere")
    monkeypatch.setattr("raydml.data.addresses.decoder", lambda: f"{decoder()} of another year")
    after = subject_of(run)
    assert np.array_equal(before.images.images, after.images.images)
    assert np.array_equal(before.subset.index, after.subset.index)


def test_a_model_is_not_evaluated_on_other_images(run: Path, tmp_path: Path) -> None:
    [cached] = (path for path in (tmp_path / "cache").iterdir() if (path / "meta.json").exists())
    cached.rename(tmp_path / "gone")
    spoilt = sorted((tmp_path / "images").rglob("*.jpg"))
    spoilt[0].write_bytes(spoilt[1].read_bytes())
    with pytest.raises(ConfigError, match=rf"^{run}/checkpoint: data: the images changed since this run began"):
        subject_of(run)


def test_files_folders_and_uris_of_embeddings_are_places_and_runs_are_not(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    with pytest.raises(ConfigError):
        subjects_of(folder, OPTIONS, Opened())
    (folder / ".part-000000.parquet").touch()
    with pytest.raises(ConfigError):
        subjects_of(folder, OPTIONS, Opened())
    (folder / "part-000000.parquet").touch()
    for place in (str(folder), str(folder / "part-000000.parquet"), "s3://bucket/embeddings"):
        assert subjects_of(place, OPTIONS, Opened()) == place
    assert isinstance(subjects_of(run, OPTIONS, Opened()), list)


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"shards": 0}, "greater than or equal to 1"),
        ({"shards": 2, "engine": "faiss"}, "shards=2 needs engine=rank, but got engine=faiss"),
        ({"shards": 2, "metrics": ("map", "nmi")}, "shards=2 knows metrics of queries only, but got nmi"),
    ],
)
def test_shards_are_counted_exactly_and_know_queries_only(options: dict[str, object], law: str) -> None:
    with pytest.raises(ValueError, match=law):
        EvaluateOptions(**options)  # type: ignore[arg-type]

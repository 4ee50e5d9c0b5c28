"""What a URI names: by the lists of files that lie there, above it and below it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.patience import Patience, StorageError
from raydml.remote_runs import Located, located
from raydml.storage import RemoteFolder
from tests.remote_cases import store, write

SEARCH = (
    *(
        "study.yaml",
        "best.yaml",
        "report/report.md",
        "trials/0007/config.yaml",
        "trials/0007/fold0/checkpoint/meta.json",
    ),
    *("trials/0007/fold0/evaluation/val/metrics.json", "final/earlier-ab/winner-seed0/config.yaml"),
)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """Below a folder that is called as folders of runs are; with a search, and trainings that nothing else is with."""
    uri = (tmp_path / "train" / "with space").as_uri()
    store(write(tmp_path / "margin", *SEARCH), uri, at=tmp_path / "copy")
    store(write(tmp_path / "single", "train/aa/config.yaml", "train/bb/config.yaml"), uri, at=tmp_path / "copy")
    return uri


@pytest.mark.parametrize(
    ("named", "study", "path", "run"),
    [
        ("margin", "margin", "", None),
        ("margin/", "margin", "", None),
        ("margin/best.yaml", "margin", "best.yaml", None),
        ("margin/trials", "margin", "trials", None),
        ("margin/trials/0007", "margin", "trials/0007", "trials/0007"),
        ("margin/trials/0007/fold0/checkpoint", "margin", "trials/0007/fold0/checkpoint", "trials/0007"),
        (
            "margin/trials/0007/fold0/evaluation/val/embeddings.parquet",
            "margin",
            "trials/0007/fold0/evaluation/val/embeddings.parquet",
            "trials/0007",
        ),
        (
            "margin/final/earlier-ab/winner-seed0",
            "margin",
            "final/earlier-ab/winner-seed0",
            "final/earlier-ab/winner-seed0",
        ),
        ("margin/report", "margin", "report", None),
        ("margin/nothing%20here", "margin", "nothing here", None),
        ("single", "single", "", None),
        ("single/train", "single", "train", None),
        ("single/train/aa", "single", "train/aa", "train/aa"),
    ],
)
def test_a_study_a_run_and_what_lies_in_them(storage: str, named: str, study: str, path: str, run: str | None) -> None:
    found = located(f"{storage}/{named}")
    assert found is not None
    assert found._replace(study=found.study.rstrip("/")) == Located(f"{storage}/{study}", path, run)


def test_embeddings_and_nothing_are_no_runs(storage: str, tmp_path: Path) -> None:
    gallery = write(tmp_path / "margin-gallery", "part-0.parquet")
    assert located(gallery.as_uri()) is None
    assert located(f"{gallery.as_uri()}/part-0.parquet") is None
    assert located((tmp_path / "nowhere").as_uri()) is None
    below_run = tmp_path / "train" / "with space" / "margin" / "trials" / "0007" / "embeddings" / "gallery"
    write(below_run, "part-0.parquet")
    assert located(below_run.as_uri()) is None, "what raydml.embed writes there is files for anybody"


def test_a_folder_of_studies_names_them(storage: str) -> None:
    with pytest.raises(ConfigError, match="with%20space: holds studies: name one of margin, single"):
        located(storage)


def test_a_run_must_lie_in_a_study(tmp_path: Path) -> None:
    RemoteFolder((tmp_path / "there").as_uri(), write(tmp_path / "alone", "config.yaml")).push()
    # The folders of pytest are not called train, nor final.
    with pytest.raises(ConfigError, match="there: a run that lies in no study"):
        located((tmp_path / "there").as_uri())


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/margin", "s3://bucket/margin?secret_key=abc"])
def test_credentials_are_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(ConfigError, match="RUN: must hold no credentials") as error:
        located(uri)
    assert "secret@" not in str(error.value)
    assert "abc" not in str(error.value)


def test_a_path_that_leaves_its_folder_is_refused(storage: str) -> None:
    with pytest.raises(ConfigError, match="RUN: names no file below a folder"):
        located(f"{storage}/margin/..%2F..%2Fpasswd")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_lies_above_may_be_closed(storage: str, tmp_path: Path) -> None:
    (tmp_path / "train").chmod(0)
    assert located(f"{storage}/margin", patience=Patience(seconds=0.0)) is None


def test_a_storage_that_does_not_answer_is_said(tmp_path: Path) -> None:
    uri = "s3://data/margin?endpoint_override=localhost:9&scheme=http&region=us-east-1"
    with pytest.raises(StorageError, match="storage: s3://data/margin failed 1 times"):
        located(uri, patience=Patience(seconds=0.0))

"""A search whose storage fails for a while, and whose driver dies with its disk: nothing is lost or changed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from raydml.fetching import fetch
from raydml.layout import of_others
from raydml.storage import RemoteFolder
from tests.integration.buckets import Bucket
from tests.integration.conftest import FinishedSearch
from tests.integration.gates import Gate, Shut
from tests.integration.studies import (
    command,
    curves_of,
    environment,
    outcome,
    run_here,
    trials_of,
    wait_for,
    write_study,
)
from tests.photographs import make_photographs


def uri_through(gate: Gate, bucket: Bucket, path: str) -> str:
    return bucket._replace(host=f"localhost:{gate.port}").uri(path)


def start(path: Path, storage: str, disk: Path) -> subprocess.Popen[bytes]:
    """A search in the background, one trial at a time, on a machine that has nothing but its disk."""
    with (disk.parent / "log").open("ab") as log:
        return subprocess.Popen(
            command("tune", path, "search.max_concurrent=1", f"storage={storage}"),
            env=environment() | {"XDG_CACHE_HOME": str(disk)},
            stdout=log,
            stderr=log,
        )


def is_stored(bucket: Bucket, path: str) -> bool:
    return bool(bucket.filesystem().get_file_info(f"data/{path}/snapshot.json").type == fs.FileType.File)


@pytest.mark.endurance
def test_outages_and_a_driver_that_dies_with_its_disk_change_nothing(
    finished: FinishedSearch, bucket: Bucket, gate: Gate, tmp_path: Path, cache: Path
) -> None:
    storage, path = uri_through(gate, bucket, "runs"), write_study(tmp_path, cache)
    driver = start(path, storage, tmp_path / "first")
    wait_for(lambda: is_stored(bucket, "runs/small/trials/0000"))
    gate.shut_for("refuses", 5.0)
    wait_for(lambda: is_stored(bucket, "runs/small/trials/0002"))
    assert driver.poll() is None, (tmp_path / "log").read_text()
    driver.kill()
    driver.wait()
    assert list((tmp_path / "first").rglob("optuna.journal")), "its disk had what is removed now"
    shutil.rmtree(tmp_path / "first")
    driver = start(path, storage, tmp_path / "second")
    wait_for(lambda: is_stored(bucket, "runs/small/trials/0004") or driver.poll() is not None)
    gate.shut_for("hangs", 5.0)
    assert driver.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    fetch(f"{bucket.uri('runs/small')}", tmp_path / "here")
    assert outcome(tmp_path / "here") == outcome(finished.folder)
    assert curves_of(tmp_path / "here") == curves_of(finished.folder)


@pytest.mark.endurance
@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_storage_that_fails_twice_for_half_a_minute(
    finished: FinishedSearch, bucket: Bucket, gate: Gate, tmp_path: Path, cache: Path, how: Shut
) -> None:
    folder = f"endurance-{how}"
    driver = start(write_study(tmp_path, cache), uri_through(gate, bucket, folder), tmp_path / "disk")
    for trial in ("0000", "0003"):
        wait_for(lambda trial=trial: is_stored(bucket, f"{folder}/small/trials/{trial}"))  # type: ignore[misc]
        gate.shut_for(how, 30.0)
    assert driver.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    fetch(bucket.uri(f"{folder}/small"), tmp_path / "here")
    assert outcome(tmp_path / "here") == outcome(finished.folder)
    assert curves_of(tmp_path / "here") == curves_of(finished.folder)


@pytest.mark.usefixtures("ray_here")
def test_the_commands_take_what_lies_in_the_bucket(
    bucket: Bucket, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, evaluate on the test classes, report, fetch, embed and query: each on what the one before has stored."""
    path = write_study(tmp_path, cache)
    trained = run_here("train", path, f"storage={bucket.uri('trained')}", "training.num_epochs=1")
    assert trained.returncode == 0, trained.stderr
    assert "run: s3://data/trained/small/train/" in trained.stdout
    study = bucket.uri("trained/small")
    evaluated = run_here("evaluate", study, "split=test", "pictures=0")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "written: s3://data/trained/small/train/" in evaluated.stdout
    reported = run_here("report", study)
    assert reported.returncode == 0, reported.stderr
    assert "written: s3://data/trained/small/report/report.html" in reported.stdout
    fetched = run_here("report", study, "--fetch", tmp_path / "here")
    assert fetched.returncode == 0, fetched.stderr
    [metrics] = (tmp_path / "here").glob("train/*/evaluation/test/metrics.json")
    assert len((tmp_path / "here" / "test_looks.jsonl").read_text("utf-8").splitlines()) == 1
    assert metrics.parents[2].name in (tmp_path / "here" / "report" / "report.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    photographs = make_photographs(tmp_path / "birds", num_classes=3, per_class=2)
    embedded = run_here("embed", study, photographs)
    assert embedded.returncode == 0, embedded.stderr
    [embeddings] = re.findall(r"^written: s3://data/(trained/small/train/\w+/embeddings/birds)$", embedded.stdout, re.M)
    mine = shutil.copy(photographs / "class01" / "1.jpg", tmp_path / "mine.jpg")
    queried = run_here("evaluate", study, "--query", mine, "--among", bucket.uri(embeddings), "neighbors=1")
    assert queried.returncode == 0, queried.stderr
    [neighbors] = (tmp_path / "queries").glob("*/neighbors.parquet")
    assert pq.read_table(neighbors)["gallery"].to_pylist() == ["class01/1.jpg"]


@pytest.mark.usefixtures("ray_here")
def test_a_search_learns_from_a_study_in_the_bucket(finished: FinishedSearch, bucket: Bucket, tmp_path: Path) -> None:
    earlier = bucket.uri("earlier/small")
    RemoteFolder(earlier, finished.folder, elsewhere=of_others).push()
    few = ("search.num_trials=1", f"storage={tmp_path}", f"search.warm_start=['{earlier}']")
    process = run_here("tune", finished.path, *few)
    assert process.returncode == 0, process.stderr
    assert "warm start: 6 trials of s3://data/earlier/small" in process.stdout
    kept = json.loads((tmp_path / "small" / "warm_start.json").read_text("utf-8"))
    assert list(kept) == ["s3://data/earlier/small"]
    known = [trial.values for trial in trials_of(finished.folder)]
    assert [[entry["value"]] for entry in kept["s3://data/earlier/small"]] == known

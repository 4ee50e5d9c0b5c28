"""The commands on images in a bucket, as a user runs them on machines that hold none of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydml.history import read_history
from tests.image_tables import SIZE, pictures
from tests.integration.buckets import SECRET, Bucket, serving
from tests.integration.studies import command, environment

IMAGES = pictures()
FOLDER = "my images"
SMALL = (f"data.image_size={SIZE}", f"data.input_size={SIZE}", "data.num_folds=2")
STUDY = """
name: bucket
base:
  model: {{backbone: test_resnet, embedding_dim: 8}}
  training: {{num_epochs: 2, steps_per_epoch: 2}}
storage: {storage}
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """Thirty images of ten classes, below a folder whose name a URI must escape."""
    with serving() as bucket:
        for image in IMAGES:
            bucket.write(image.path.replace("images", FOLDER), image.png())
        yield bucket


class Machine:
    """What has a user's cache folder of its own, and nothing else."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        self._environment = environment() | {"XDG_CACHE_HOME": str(home)} | variables

    def run(self, name: str, *arguments: object) -> str:
        """What a command that succeeds prints."""
        done = subprocess.run(
            command(name, *arguments), env=self._environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stdout + done.stderr
        return done.stdout

    def images(self) -> list[Path]:
        return sorted(self.home.rglob("images.arrow"))


def test_check_prepare_and_train_without_the_images(bucket: Bucket, tmp_path: Path) -> None:
    """One machine looks and decodes; another, that names the bucket in another way, copies and trains."""
    first = Machine(tmp_path / "first")
    root, cache = bucket.uri(FOLDER), bucket.uri("the cache")
    bucket.requests.clear()
    found = first.run("data", "check", root, *SMALL)
    assert "  next: python -m raydml.data prepare " in found
    assert len(bucket.read_below(FOLDER)) >= len(IMAGES), "check looks at every image"
    assert first.images() == []

    done = first.run("data", "prepare", root, *SMALL, f"data.cache={cache}")
    assert re.search(r"^decoded 30 images in ", done, re.MULTILINE)
    assert len(set(bucket.read_below(FOLDER))) == len(IMAGES)
    [entry] = first.images()
    assert bucket.filesystem().get_file_info(f"data/the cache/{entry.parent.name}/meta.json").size > 0

    second = Machine(tmp_path / "second", AWS_ENDPOINT_URL=f"http://{bucket.host}", AWS_REGION="us-east-1")
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(storage=tmp_path / "runs"), encoding="utf-8")
    plain = (bucket.uri(FOLDER, options=False), bucket.uri("the cache", options=False))
    places = ("data.kind=folder", f"data.root={plain[0]}", f"data.cache={plain[1]}", "data.batch_size=8")
    second.run("train", study, *places, "data.samples_per_class=2", *SMALL, "resources.cpus_per_worker=0.5")
    assert bucket.read_below(FOLDER) == [], "the pixels are in the shared cache"
    [copy] = second.images()
    assert copy.read_bytes() == entry.read_bytes()
    [config] = (tmp_path / "runs").rglob("config.yaml")
    assert [row["epoch"] for row in read_history(config.parent)] == [1, 2]
    require_no_secret(tmp_path)


def require_no_secret(folder: Path) -> None:
    """Not in a study, a run, a message or a cache that the commands left."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path

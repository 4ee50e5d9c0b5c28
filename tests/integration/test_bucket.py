"""Images in a bucket: listed, decoded into the cache and trained on, with nothing on the local disk beforehand."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from raydml.block_folder import BlockFolder
from raydml.config import ConfigError, ExperimentConfig, FolderConfig, Resources, parse
from raydml.data.catalog import list_photos
from raydml.data.files import Files
from raydml.data.folder import list_folder
from raydml.data.found_images import find_images
from raydml.data.opening import open_images
from raydml.data.output import Output
from raydml.data.tables import list_csv, list_parquet
from raydml.embedding_files import Rows, as_column
from raydml.history import read_history
from raydml.shards import read_columns
from raydml.splits import Indices
from raydml.stored import open_stored, read_rows
from raydml.train import fit, run_spec
from tests.image_tables import SIZE, WRITERS, colour_of, csv_config, parquet_config, pictures, table_of
from tests.integration.buckets import SECRET, Bucket, serving
from tests.training_cases import train

IMAGES = pictures()
# Of names that a URI must escape.
FOLDER = "my images #1 50%20 \u00fc"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket of a folder of images, of tables that name them, and of a table that holds them."""
    with serving() as bucket:
        fill(bucket, tmp_path_factory.mktemp("rows"))
        yield bucket


def fill(bucket: Bucket, scratch: Path) -> None:
    paths = [image.path.replace("images", FOLDER) for image in IMAGES]
    for image, path in zip(IMAGES, paths, strict=True):
        bucket.write(path, image.png())
    lists = {
        "below.csv": paths,
        "names.csv": [path.partition("/")[2] for path in paths],
        "uris.csv": [bucket.uri(path, options=False) for path in paths],
        "whole uris.csv": [bucket.uri(path) for path in paths],
    }
    for name, places in lists.items():
        rows = [f"{place},{image.label}" for place, image in zip(places, IMAGES, strict=True)]
        bucket.write(name, "\n".join(["path,label", *rows]).encode())
    for name, write in WRITERS.items():
        write(table_of(IMAGES), scratch / name)
        bucket.write(f"rows {name}", (scratch / name).read_bytes())


def folder_config(root: str, **fields: object) -> FolderConfig:
    raw = {"kind": "folder", "root": root, "image_size": SIZE, "input_size": SIZE, "num_folds": 2}
    return FolderConfig.model_validate(raw | fields)


def experiment_of(data: dict[str, object], cache: Path) -> ExperimentConfig:
    sizes = {"image_size": SIZE, "input_size": SIZE, "num_folds": 2, "batch_size": 8, "samples_per_class": 2}
    return parse(
        {
            "data": data | sizes | {"cache": str(cache)},
            "model": {"backbone": "test_resnet", "embedding_dim": 8},
            "training": {"num_epochs": 2, "steps_per_epoch": 2},
        }
    )


KINDS: dict[str, tuple[str, str]] = {
    "a folder": ("folder", FOLDER),
    "paths": ("csv", "below.csv"),
    "URIs": ("csv", "uris.csv"),
    "Parquet": ("parquet", "rows rows.parquet"),
    "Arrow": ("parquet", "rows rows.arrow"),
    "compressed Arrow": ("parquet", "rows rows.feather"),
}


@pytest.mark.parametrize("name", KINDS)
def test_images_come_from_the_bucket(name: str, bucket: Bucket, tmp_path: Path) -> None:
    kind, path = KINDS[name]
    config = experiment_of({"kind": kind, "root": bucket.uri(path)}, tmp_path / "cache").data
    images = open_images(config, with_test=True)
    assert images.classes == tuple(f"c{c}" for c in range(10))
    assert sorted(colour_of(pixels) for pixels in images.images) == sorted(image.colour for image in IMAGES)
    for label, pixels in zip(images.labels, images.images, strict=True):
        assert colour_of(pixels)[0] == 20 * label
    assert SECRET not in "".join(images.sources)


@pytest.mark.parametrize("name", ["a folder", "paths", "URIs"])
def test_a_model_trains_on_the_bucket(name: str, bucket: Bucket, tmp_path: Path) -> None:
    kind, path = KINDS[name]
    config = experiment_of({"kind": kind, "root": bucket.uri(path)}, tmp_path / "cache")
    spec = run_spec(config, storage=str(tmp_path / "runs"), name="bucket")
    train(spec, device=torch.device("cpu"), report=lambda row: None)
    assert [row["epoch"] for row in read_history(spec.directory)] == [1, 2]


@pytest.mark.usefixtures("ray_here")
def test_workers_of_ray_read_the_bucket(bucket: Bucket, tmp_path: Path) -> None:
    config = experiment_of({"kind": "parquet", "root": bucket.uri("rows rows.parquet")}, tmp_path / "cache")
    result = fit(config, Resources(cpus_per_worker=0.5), storage=str(tmp_path / "runs"), name="bucket")
    assert len(result.history) == 2
    assert result.baseline is not None
    assert len(list((tmp_path / "cache").glob("*/images.arrow"))) == 1


def test_images_may_lie_elsewhere_than_the_table(bucket: Bucket, tmp_path: Path) -> None:
    config = csv_config(bucket.uri("names.csv"), images=bucket.uri(FOLDER))
    listing = list_csv(config)
    assert listing.encoded.read("c3/1.png") == IMAGES[13].png()
    local = tmp_path / "here.csv"
    local.write_bytes(Files(bucket.uri("names.csv")).read())
    assert list_csv(csv_config(local, images=bucket.uri(FOLDER))).places == listing.places


def test_options_of_uris_are_for_tables_of_this_machine(bucket: Bucket, tmp_path: Path) -> None:
    """In a bucket, which others may write to, they could lead a machine to another host."""
    (tmp_path / "here.csv").write_bytes(Files(bucket.uri("whole uris.csv")).read())
    listing = list_csv(csv_config(tmp_path / "here.csv"))
    assert sorted(listing.encoded.read(place) for place in listing.places) == sorted(image.png() for image in IMAGES)
    with pytest.raises(ConfigError, match=r"must .* be a URI of a store without options"):
        list_csv(csv_config(bucket.uri("whole uris.csv")))


def test_random_rows_of_a_bucket_are_refused(bucket: Bucket) -> None:
    for name, reason in (("rows.arrow", "in a bucket"), ("rows.parquet", "row group")):
        with pytest.raises(ConfigError, match=rf"^data\.decode: .*{reason}.*: s3://data/rows {name}; use decode=once"):
            list_parquet(parquet_config(bucket.uri(f"rows {name}"), decode="always"))
    assert len(list_photos(csv_config(bucket.uri("below.csv"), decode="always")).places) == 30


def test_a_stream_in_a_bucket_is_refused(bucket: Bucket) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: s3://data/rows rows\.ipc cannot be read: "):
        list_parquet(parquet_config(bucket.uri("rows rows.ipc")))


def test_what_is_not_in_the_bucket_is_named(bucket: Bucket) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: no such folder: s3://data/none$"):
        list_folder(folder_config(bucket.uri("none")))
    with pytest.raises(ConfigError, match=r"^data\.root: no such file: s3://data/none\.csv$"):
        list_csv(csv_config(bucket.uri("none.csv")))
    with pytest.raises(ConfigError, match=r"^data\.root: no such bucket: none, in s3://none/images$"):
        list_folder(folder_config(f"s3://none/images{bucket.query}"))
    with pytest.raises(
        ConfigError, match=r"^data\.images: 30 of 30 images .*line 2 of s3://data/names\.csv: s3://data/no/"
    ):
        list_csv(csv_config(bucket.uri("names.csv"), images=bucket.uri("no")))


def test_a_whole_bucket_may_be_the_root(bucket: Bucket) -> None:
    files = Files(f"s3://data{bucket.query}")
    assert files.kind() == "folder"
    assert f"{FOLDER}/c0/0.png" in files.listed()
    assert files.read(f"{FOLDER}/c0/0.png") == IMAGES[0].png()


def test_credentials_that_do_not_suffice_are_named(bucket: Bucket) -> None:
    def grant(requests: bytes) -> None:
        plain = {"Content-Type": "text/plain"}
        address = f"http://{bucket.host}/moto-api/reset-auth"
        with urllib.request.urlopen(urllib.request.Request(address, requests, plain)):
            pass

    grant(b"0")
    try:
        with pytest.raises(ConfigError, match=r"^data\.root: s3://data/.* may not be read with the credentials found"):
            list_folder(folder_config(bucket.uri(FOLDER)))
    finally:
        grant(b"inf")
    assert Files(bucket.uri(FOLDER)).kind() == "folder"


def test_listing_rows_of_a_bucket_reads_no_image(bucket: Bucket, tmp_path: Path) -> None:
    heavy = pa.table({"image": [bytes(100_000)] * 100, "label": [f"c{n % 10}" for n in range(100)]})
    for name in ("rows.parquet", "rows.arrow"):
        WRITERS[name](heavy, tmp_path / name)
        bucket.write(f"heavy {name}", (tmp_path / name).read_bytes())
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    try:
        for name in ("rows.parquet", "rows.arrow"):
            assert len(list_parquet(parquet_config(bucket.uri(f"heavy {name}"))).places) == 100
    finally:
        pa.set_memory_pool(usual)
    assert pool.max_memory() < 1_000_000


def test_a_gallery_in_a_bucket_is_found_and_its_embeddings_go_there(bucket: Bucket) -> None:
    found = find_images(bucket.uri(FOLDER))
    assert found.class_names == tuple(sorted(image.label for image in IMAGES))
    assert found.name == FOLDER
    assert {found.encoded.read(place) for place in found.places} == {image.png() for image in IMAGES}
    assert find_images(bucket.uri("uris.csv")).labels is not None
    one = find_images(bucket.uri(f"{FOLDER}/{found.places[0]}"))
    assert one.encoded.read(one.places[0]) == found.encoded.read(found.places[0])
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    place = bucket.uri("my embeddings/mine")
    folder = BlockFolder(Output(place), {"num_images": 30}, batch_size=20)
    folder.write(1, labelled(rows, folder.positions(1)), [])
    with pytest.raises(ConfigError, match="is not all there yet"):
        open_stored(place)
    # As after a kill.
    folder = BlockFolder(Output(place), {"num_images": 30}, batch_size=20)
    assert folder.missing == [0]
    folder.write(0, labelled(rows, folder.positions(0)), [])
    folder.finish({})
    stored = open_stored(place, scaled=True)
    assert np.array_equal(read_rows(stored, np.arange(30)), rows)
    assert read_columns(stored).labels.tolist() == list(range(30))
    Output(place).remove()
    assert BlockFolder(Output(place), {"num_images": 30}, batch_size=20).missing == [0, 1]


def labelled(rows: Rows, at: Indices) -> pa.Table:
    return pa.table({"label": at, "embedding": as_column(rows[at])})

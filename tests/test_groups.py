"""Images of one class and group, such as a camera, do not find each other: from a table's column to the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydml.baseline import raw_pixel_metrics
from raydml.config import ConfigError
from raydml.data.cache import ImageSet
from raydml.data.found_images import find_images
from raydml.data.listing import numbered_groups
from raydml.data.opening import open_images
from raydml.data.subsets import fold_subsets, split_subset
from raydml.data.tables import list_csv, list_parquet
from raydml.embedding_files import write_embeddings
from raydml.retrieval import EveryOther, QueryGallery, protocol_metrics, protocol_of
from raydml.shards import read_columns
from raydml.stored import open_stored
from tests.image_tables import csv_config, parquet_config, pictures, write_csv, write_images

IMAGES = pictures()
# Every class has three images: two of one camera, and one of nobody knows which.
CAMERAS = {path: ("east", "east", "")[int(Path(path).stem)] for path, _ in ((i.path, i.label) for i in IMAGES)}
ROWS = [(image.path, image.label, CAMERAS[image.path]) for image in IMAGES]


def opened(folder: Path, header: str = "path,label,group", rows: Sequence[tuple[str, ...]] | None = None) -> ImageSet:
    write_images(folder, IMAGES)
    table = write_csv(folder / "birds.csv", header, ROWS if rows is None else rows)
    return open_images(csv_config(table, cache=str(folder / "cache")), with_test=True)


def test_names_are_numbered_and_an_image_without_one_is_alone() -> None:
    found = numbered_groups(["b", "", "a", "b", ""])
    assert found is not None
    assert found.tolist() == [1, -2, 0, 1, -5]
    assert numbered_groups(["", ""]) is None


@pytest.mark.parametrize("again", [False, True], ids=["decoded", "from the cache"])
def test_groups_of_a_table_are_kept_with_the_images(tmp_path: Path, again: bool) -> None:
    images = opened(tmp_path)
    if again:
        images = opened(tmp_path)
    assert images.groups is not None
    of_class = images.groups.reshape(10, 3)
    assert (of_class[:, :2] == 0).all()
    assert len(set(of_class[:, 2].tolist())) == 10
    assert (of_class[:, 2] < 0).all()
    few = images.of_first(4)
    assert few.groups is not None
    assert few.groups.tolist() == images.groups[:12].tolist()


def test_groups_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    others = [(path, label, "west" if path.endswith("0.png") else camera) for path, label, camera in ROWS]
    found = [opened(tmp_path, rows=rows).fingerprint for rows in (ROWS, others)]
    without = opened(tmp_path, "path,label", [row[:2] for row in ROWS])
    assert len({*found, without.fingerprint}) == 3
    assert without.groups is None


@pytest.mark.parametrize("kind", [pa.string(), pa.int32(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_groups_of_parquet_are_words_or_numbers(tmp_path: Path, kind: pa.DataType) -> None:
    write_images(tmp_path, IMAGES)
    names = [{"east": "7", "": None}[camera] for *_, camera in ROWS]
    group = pa.array([int(n) if n else None for n in names], kind) if pa.types.is_integer(kind) else pa.array(names)
    columns = {"path": [row[0] for row in ROWS], "label": [row[1] for row in ROWS], "group": group.cast(kind)}
    pq.write_table(pa.table(columns), tmp_path / "birds.parquet")
    by_csv = list_csv(csv_config(write_csv(tmp_path / "birds.csv", "path,label,group", ROWS)))
    found = list_parquet(parquet_config(tmp_path / "birds.parquet", images=str(tmp_path)))
    assert found.groups is not None
    assert by_csv.groups is not None
    assert found.groups.tolist() == by_csv.groups.tolist()


def test_an_image_has_one_group(tmp_path: Path) -> None:
    write_images(tmp_path, IMAGES)
    rows = [*ROWS, (*ROWS[0][:2], "north")]
    with pytest.raises(ConfigError, match="has group 'north', but "):
        list_csv(csv_config(write_csv(tmp_path / "birds.csv", "path,label,group", rows)))


def test_validation_and_test_keep_images_of_a_group_apart(tmp_path: Path) -> None:
    images = opened(tmp_path)
    assert images.groups is not None
    config = csv_config(tmp_path / "birds.csv", cache=str(tmp_path / "cache"))
    for split in ("val", "test"):
        subset = split_subset(images, config, split, 0)
        protocol = protocol_of(config, images, subset, split)
        assert isinstance(protocol, EveryOther)
        assert protocol.groups is not None
        assert protocol.groups.tolist() == images.groups[subset.index].tolist()
    subset = fold_subsets(images, config, 0)[1]
    rows = torch.eye(len(subset.labels))
    found = protocol_metrics(EveryOther(images.groups[subset.index]), rows, subset.labels)
    # Everybody still has the one of no camera.
    assert found.num_without_positive == 0
    alone = np.tile([0, 0, 0], len(subset.labels) // 3)
    with pytest.raises(ValueError, match="no query has a positive"):
        protocol_metrics(EveryOther(alone), rows, subset.labels)
    by_pixels = raw_pixel_metrics(images, subset)
    assert by_pixels == raw_pixel_metrics(images, subset, protocol=EveryOther(images.groups[subset.index]))
    assert by_pixels != raw_pixel_metrics(images, subset, protocol=EveryOther())


def test_queries_have_groups_too(tmp_path: Path) -> None:
    rows = [
        (path, label, camera, "test" if label > "c6" else "train", "" if label <= "c6" else ["query", "gallery"][i % 2])
        for i, (path, label, camera) in enumerate(ROWS)
    ]
    images = opened(tmp_path, "path,label,group,split,role", rows)
    config = csv_config(tmp_path / "birds.csv", cache=str(tmp_path / "cache"))
    subset = split_subset(images, config, "test", None)
    protocol = protocol_of(config, images, subset, "test")
    assert isinstance(protocol, QueryGallery)
    assert images.groups is not None
    assert protocol.groups is not None
    assert protocol.groups.tolist() == images.groups[subset.index].tolist()


def test_embeddings_carry_groups(tmp_path: Path) -> None:
    groups = np.array([3, -2, 3], dtype=np.int64)
    labels = np.zeros(3, dtype=np.int64)
    write_embeddings(tmp_path / "rows.parquet", np.eye(3, dtype=np.float32), labels, labels, groups=groups)
    read = read_columns(open_stored(tmp_path / "rows.parquet")).groups
    assert read is not None
    assert (read[:, None] == read[None, :]).tolist() == (groups[:, None] == groups[None, :]).tolist()


def test_any_images_may_have_groups(tmp_path: Path) -> None:
    write_images(tmp_path, IMAGES)
    table = write_csv(tmp_path / "birds.csv", "path,group", [(path, camera) for path, _, camera in ROWS])
    found = find_images(str(table), [])
    assert found.groups is not None
    assert sorted(set(found.groups[found.groups >= 0].tolist())) == [0]
    assert (found.groups < 0).sum() == 10

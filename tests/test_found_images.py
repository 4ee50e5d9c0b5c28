"""Images of any kind, with labels or without: what is found at a place, in which order, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydml.config import ConfigError, parse
from raydml.data.decoding import decode_image
from raydml.data.found_images import UNKNOWN, FoundImages, find_images
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.data.opening import open_images
from tests.image_tables import WRITERS, write_csv
from tests.image_trees import make_cub200
from tests.photographs import jpeg, make_photographs, photograph

NAMES = ("b/1.jpg", "a/deep/er/2.jpg", "a/0.jpg")


def put(root: Path, *names: str) -> Path:
    """A different photograph at each name."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(photograph(seed)))
    return root


def readable(found: FoundImages) -> int:
    """How many images can be read, by a copy that travelled."""
    encoded = pickle.loads(pickle.dumps(found.encoded))
    return sum(decode_image(encoded.read(place), 16).shape == (16, 16, 3) for place in found.places)


def test_a_folder_of_folders_has_classes(tmp_path: Path) -> None:
    (put(tmp_path / "mine", *NAMES) / "a" / "notes.txt").write_text("no image")
    found = find_images(str(tmp_path / "mine"))
    assert found.places == ("a/0.jpg", "a/deep/er/2.jpg", "b/1.jpg")
    assert found.class_names == ("a", "a", "b")
    assert (found.name, found.classes, found.roles) == ("mine", ("a", "b"), None)
    assert readable(found) == 3


def test_a_flat_folder_has_none(tmp_path: Path) -> None:
    found = find_images(str(put(tmp_path / "mine.2024", "x.jpg", "y.JPG")))
    assert (found.name, found.places, found.labels) == ("mine", ("x.jpg", "y.JPG"), None)
    assert found.class_names == (None, None)
    assert readable(found) == 2


def test_images_beside_class_folders_have_no_class(tmp_path: Path) -> None:
    found = find_images(str(put(tmp_path, "a/0.jpg", "x.jpg")))
    assert found.labels is not None
    assert found.labels.tolist() == [0, UNKNOWN]
    assert found.class_names == ("a", None)


def test_one_image_is_a_gallery_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "my bird.jpg")
    monkeypatch.chdir(tmp_path)
    found = find_images("my bird.jpg")
    monkeypatch.chdir("/")
    assert (found.name, found.places, found.labels) == ("my bird", ("my bird.jpg",), None)
    assert readable(found) == 1


@pytest.mark.parametrize("header", ["path,label", "path"])
def test_a_table_may_have_labels(tmp_path: Path, header: str) -> None:
    put(tmp_path, *NAMES)
    labels = ["z", "", "k"]
    rows = [(name, label)[: len(header.split(","))] for name, label in zip(NAMES, labels, strict=True)]
    found = find_images(str(write_csv(tmp_path / "mine.csv", header, [*rows, rows[0]])))
    assert found.places == NAMES, "the order of the rows, and the copy once"
    assert found.class_names == (("z", None, "k") if header == "path,label" else (None, None, None))
    assert found.classes == (("k", "z") if header == "path,label" else ())
    assert readable(found) == 3


def test_roles_of_a_table_are_kept_and_splits_are_not_looked_at(tmp_path: Path) -> None:
    put(tmp_path, *NAMES)
    rows = [(name, "c", split, role) for name, split, role in zip(NAMES, "xyx", ("query", "gallery", ""), strict=True)]
    found = find_images(str(write_csv(tmp_path / "mine.csv", "path,label,split,role", rows)))
    assert found.roles is not None
    assert found.roles.tolist() == [QUERY, GALLERY, ANY_ROLE]


@pytest.mark.parametrize("ending", sorted(WRITERS))
@pytest.mark.parametrize("labels", [[7, 10, 7], None])
def test_rows_that_hold_images_may_have_labels(tmp_path: Path, ending: str, labels: list[int] | None) -> None:
    columns: dict[str, list[object]] = {"image": [jpeg(photograph(seed)) for seed in range(3)]}
    WRITERS[ending](pa.table(columns if labels is None else columns | {"label": labels}), tmp_path / ending)
    found = find_images(str(tmp_path / ending))
    assert found.places == tuple(f"{ending}#{row}" for row in range(3))
    assert found.class_names == ((None,) * 3 if labels is None else ("7", "10", "7"))
    assert found.classes == (() if labels is None else ("7", "10")), "numbers in their order"
    assert readable(found) == 3


def test_a_parquet_table_of_paths_needs_no_label(tmp_path: Path) -> None:
    put(tmp_path / "images", *NAMES)
    pq.write_table(pa.table({"path": list(NAMES)}), tmp_path / "mine.parquet")
    found = find_images(str(tmp_path / "mine.parquet"), [f"data.images={tmp_path / 'images'}"])
    assert (found.places, found.labels) == (NAMES, None)
    assert readable(found) == 3


def test_a_benchmark_keeps_its_classes(tmp_path: Path) -> None:
    make_cub200(tmp_path / "CUB_200_2011")
    found = find_images(str(tmp_path / "CUB_200_2011"), ["counts=any"])
    assert found.classes[0].startswith("001.")
    assert found.labels is not None
    assert len(found.labels) == len(found.places)


def test_a_study_means_its_data_test_classes_too(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "small.yaml"
    data = f"{{kind: glyphs, num_classes: 24, images_per_class: 8, image_size: 16, cache: {cache}}}"
    path.write_text(f"base: {{data: {data}}}\n", encoding="utf-8")
    found = find_images(str(path))
    config = parse({"data": {"kind": "glyphs", "num_classes": 24, "images_per_class": 8, "image_size": 16}}).data
    images = open_images(config.model_copy(update={"cache": str(cache)}), with_test=True)
    assert found.labels is not None
    assert np.array_equal(found.labels, images.labels)
    encoded = pickle.loads(pickle.dumps(found.encoded))
    for number in (0, 100):
        pixels = decode_image(encoded.read(found.places[number]), 16)
        assert np.array_equal(pixels, np.broadcast_to(images.images[number], (16, 16, 3))), "not a bit is lost"
    assert encoded.named(found.places[5]) == "glyphs#5"


def test_a_version_follows_images_and_labels(tmp_path: Path) -> None:
    put(tmp_path, *NAMES)
    versions = [find_images(str(tmp_path)).version]
    put(tmp_path, "c/3.jpg")
    versions.append(find_images(str(tmp_path)).version)
    for label in "xy":
        write_csv(tmp_path / "mine.csv", "path,label", [("a/0.jpg", label * len(versions))])
        versions.append(find_images(str(tmp_path / "mine.csv")).version)
    assert len(set(versions)) == 4


def test_absent_images_are_refused_or_found_as_wished(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    table = str(write_csv(tmp_path / "mine.csv", "path", [("a.jpg",), ("b.jpg",)]))
    with pytest.raises(ConfigError, match=r"1 of 2 images are not there, the first in line 3 of .*mine\.csv: .*b\.jpg"):
        find_images(table)
    assert find_images(table, absent_too=True).places == ("a.jpg", "b.jpg")


@pytest.mark.parametrize(
    ("make", "what", "law"),
    [
        (lambda root: None, "none", "none: no such file or folder"),
        (lambda root: (root / "empty").mkdir(), "empty", "holds no image"),
        (lambda root: write_csv(root / "a.csv", "path", []), "a.csv", "a.csv has no row"),
        (lambda root: write_csv(root / "a.csv", "file", [("x",)]), "a.csv", "has no column path, but file"),
        (lambda root: write_csv(root / "a.csv", "path,label", [("", "x")]), "a.csv", "line 2 of .*: path is empty"),
        (lambda root: write_csv(root / "a.csv", "path,role", [("x", "y")]), "a.csv", "role must be query, gallery"),
        (
            lambda root: write_csv(root / "a.csv", "path,label", [("x", "y"), ("x", "z")]),
            "a.csv",
            "line 3 of .*: x has label 'z', but 'y' in line 2",
        ),
        (lambda root: (root / "a.zip").write_bytes(b"PK"), "a.zip", "is an archive"),
    ],
)
def test_what_holds_no_images_is_refused(tmp_path: Path, make: object, what: str, law: str) -> None:
    assert callable(make)
    make(tmp_path)
    with pytest.raises(ConfigError, match=law) as error:
        find_images(str(tmp_path / what))
    assert "\n" not in str(error.value)


def test_credentials_are_refused_unseen() -> None:
    with pytest.raises(ConfigError, match="must hold no credentials") as error:
        find_images("s3://key:secret@bucket/a.jpg")
    assert "secret" not in str(error.value)


def test_the_number_of_classes_does_not_matter(tmp_path: Path) -> None:
    assert len(find_images(str(make_photographs(tmp_path, num_classes=1, per_class=2))).places) == 2

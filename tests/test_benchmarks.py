"""Published benchmarks in every layout: each picture with its own label, on the side that metric learning has it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from raydml.config import ConfigError
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.data.opening import open_images
from tests.benchmark_cases import LAYOUTS, benchmark_config, listed
from tests.image_trees import (
    INSHOP_TEST,
    SUPER_CLASSES,
    VEHICLE_LISTS,
    drawn_in,
    make_cub200,
    make_inshop,
    make_sop,
    make_vehicleid,
)


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_picture_has_the_label_that_it_shows(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    drawn = layout.make(tmp_path / "data")
    config = benchmark_config(layout.kind, tmp_path / "data", cache=str(tmp_path / "cache"))
    images = open_images(config, with_test=True)
    assert sorted(images.sources) == sorted(drawn)
    for label, source, pixels in zip(images.labels, images.sources, images.images, strict=True):
        assert drawn_in(pixels) == drawn[source]
        assert (*layout.train, *layout.test)[label] == drawn[source].class_id


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_test_classes_are_the_published_ones_and_stay_closed(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    drawn = layout.make(tmp_path / "data")
    config = benchmark_config(layout.kind, tmp_path / "data", cache=str(tmp_path / "cache"))
    images = open_images(config)
    assert images.num_training == len(images.sizes) == len(layout.train)
    assert sorted({drawn_in(pixels).class_id for pixels in images.images}) == sorted(layout.train)
    assert {drawn[source].class_id for source in images.sources} == set(layout.train)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_root_is_the_folder_or_one_above_it(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    layout.make(tmp_path / "downloads" / "an archive 1.0")
    (tmp_path / "downloads" / "an archive 1.0 (2)").mkdir()
    (tmp_path / "downloads" / "README.txt").touch()
    inner = listed(layout.kind, tmp_path / "downloads" / "an archive 1.0")
    for root in (tmp_path, tmp_path / "downloads", f"file://{tmp_path}", f"file://{tmp_path}/"):
        outer = listed(layout.kind, root)
        assert outer.places == inner.places
        assert (outer.version, outer.classes) == (inner.version, inner.classes)
        elsewhere = pickle.loads(pickle.dumps(outer.encoded))
        assert all(elsewhere.read(place) == inner.encoded.read(place) for place in inner.places)
        assert elsewhere.named(inner.places[0]).endswith(f"/downloads/an archive 1.0/{inner.places[0]}")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_version_follows_images_and_lists(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    drawn = layout.make(tmp_path)
    version = listed(layout.kind, tmp_path).version
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert listed(layout.kind, tmp_path).version == version
    seen = {version}
    lists = [path for path in tmp_path.rglob("*") if path.suffix in (".txt", ".mat", ".csv")]
    unread = ("notes.txt", "train_test_split.txt", "classes.txt", "cars_test_annos.mat")
    changed = [path for path in lists if path.name not in unread] + [tmp_path / next(iter(drawn))]
    for path in changed:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
        seen.add(listed(layout.kind, tmp_path).version)
    assert len(seen) == len(changed) + 1


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"cub200, folders"}))
def test_a_missing_image_is_named_even_in_a_part(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    drawn = layout.make(tmp_path)
    gone = [path for path, picture in drawn.items() if picture.class_id in (layout.train[1], layout.test[0])]
    for path in gone:
        (tmp_path / path).unlink()
    with pytest.raises(
        ConfigError, match=rf"^data\.root: {len(gone)} of .* missing, the first is .*; complete"
    ) as error:
        listed(layout.kind, tmp_path)
    assert any(f"{tmp_path}/{path};" in str(error.value) for path in gone)
    assert f" of {len(drawn)} images" in str(error.value)


def test_folders_of_cub_are_what_its_lists_say(tmp_path: Path) -> None:
    make_cub200(tmp_path)
    by_lists = listed("cub200", tmp_path)
    assert by_lists.classes[:2] == ("001.Bird_1", "002.Bird_2")
    (tmp_path / "image_class_labels.txt").unlink()
    (tmp_path / "images" / "._001.Bird_1").touch()
    (tmp_path / "images" / "001.Bird_1" / "._Bird_1_0000_0.jpg").touch()
    (tmp_path / "images" / "001.Bird_1" / "Thumbs.db").touch()
    by_folders = listed("cub200", tmp_path)
    assert by_folders.places == by_lists.places
    assert (by_folders.classes, by_folders.num_training) == (by_lists.classes, 8)
    assert by_folders.labels.tolist() == by_lists.labels.tolist()


def test_classes_keep_their_ids_where_folders_are_missing(tmp_path: Path) -> None:
    # Class 101 tests although it is the third of these folders.
    make_cub200(tmp_path, {7: 2, 100: 2, 101: 2, 150: 2}, lists=False)
    listing = listed("cub200", tmp_path)
    assert (listing.num_training, listing.classes[2]) == (2, "101.Bird_101")


def test_classes_of_products_are_super_class_and_id(tmp_path: Path) -> None:
    drawn = make_sop(tmp_path)
    listing = listed("sop", tmp_path)
    for place, label in zip(listing.places, listing.labels, strict=True):
        class_id = drawn[place].class_id
        assert listing.classes[label] == f"{SUPER_CLASSES[class_id % 12]}/{class_id}"


def test_the_halves_of_the_reality_check_differ_by_one_class(tmp_path: Path) -> None:
    make_sop(tmp_path)
    official, halves = listed("sop", tmp_path), listed("sop", tmp_path, lists="halves")
    assert official.classes == halves.classes
    assert (official.num_training, halves.num_training) == (10, 9)
    assert halves.classes[9].endswith("/11318")
    assert official.version != halves.version


def test_queries_and_gallery_are_those_of_the_list(tmp_path: Path) -> None:
    make_inshop(tmp_path)
    listing = listed("inshop", tmp_path)
    assert listing.roles is not None
    assert listing.num_training is not None
    trains = listing.labels < listing.num_training
    assert (listing.roles[trains] == ANY_ROLE).all()
    for item, (queries, gallery) in INSHOP_TEST.items():
        roles = listing.roles[listing.labels == listing.classes.index(f"id_{item:08}")]
        assert ((roles == QUERY).sum(), (roles == GALLERY).sum()) == (queries, gallery)
    for place, role in zip(listing.places, listing.roles, strict=True):
        assert {"t": ANY_ROLE, "q": QUERY, "g": GALLERY}[place.split("_")[-2]] == role
    # Labels begin anew on each side, in the order of the ids.
    assert list(listing.classes) == [f"id_{item:08}" for item in (*range(2, 20, 2), 5, 7, 9, 11, 13, 15)]


def test_a_list_without_test_images_is_not_as_published(tmp_path: Path) -> None:
    drawn = make_inshop(tmp_path)
    path = tmp_path / "Eval" / "list_eval_partition.txt"
    header, *lines = path.read_text(encoding="utf-8").splitlines()[1:]
    train = [line for line in lines if line.split()[-1] == "train"]
    path.write_text("\n".join([str(len(train)), header, *train]), encoding="utf-8")
    assert 0 < len(train) < len(drawn)
    with pytest.raises(ConfigError, match="0 query images instead of 14,218, 0 query classes instead of 3,985"):
        listed("inshop", tmp_path, counts="published")


def test_a_copy_without_any_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "image_class_labels.txt").touch()
    with pytest.raises(ConfigError, match=rf"^data\.root: {tmp_path} holds no image; complete the copy, from data\."):
        listed("cub200", tmp_path)


def test_the_test_lists_of_vehicles_are_parts_of_their_union(tmp_path: Path) -> None:
    drawn = make_vehicleid(tmp_path)
    listing = listed("vehicleid", tmp_path)
    assert len(set(listing.places)) == len(listing.places)
    assert list(listing.test_lists) == ["small", "medium", "large"]
    for mask, vehicles in zip(listing.test_lists.values(), VEHICLE_LISTS.values(), strict=True):
        assert mask.dtype == np.bool_
        found = {place for place, inside in zip(listing.places, mask, strict=True) if inside}
        assert found == {place for place, picture in drawn.items() if picture.class_id in vehicles}
    assert listed("vehicleid", tmp_path, test_list="large").version == listing.version


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        (
            "cub200",
            "images.txt",
            "5 003",
            "5: 003",
            r"images\.txt, line 5: expected image_id folder/file, but got '5: ",
        ),
        ("cub200", "images.txt", "5 003", "4 003", r"images\.txt names 4 twice"),
        ("cub200", "images.txt", "5 003", "99 003", r"only one has number 5;"),
        ("cub200", "image_class_labels.txt", "5 3\n", "", r"only one has number 5;"),
        ("cub200", "image_class_labels.txt", "5 3", "5 4", r"class 3 and 003\.Bird_3 are not one;"),
        ("cub200", "images.txt", "Bird_3_0001_5.jpg", "Bird_3_0000_4.jpg", r"name .*Bird_3_0000_4\.jpg twice"),
        ("sop", "Ebay_train.txt", "image_id", "id", r"line 1: expected image_id class_id .*, but got 'id class"),
        ("sop", "Ebay_train.txt", "3 2 3 chair", "3 2 chair", r"Ebay_train\.txt, line 4: expected image_id"),
        ("sop", "Ebay_test.txt", " 11320 5", " 2 5", r"1 classes are on both sides .*, the first is .*/2;"),
        ("sop", "Ebay_test.txt", " 11324 ", " 22635 ", r"has classes 1 \.\.\. 22,634, but .* has class 22635"),
        ("inshop", "Eval/list_eval_partition.txt", "gallery", "train", r"on both sides .*, the first is id_00000005;"),
        ("inshop", "Eval/list_eval_partition.txt", "gallery", "val", r"line \d+: expected .* train, query or gallery"),
        ("inshop", "Eval/list_eval_partition.txt", "37", "38", r"that it lists 38 images, but lists 37;"),
        ("inshop", "Eval/list_eval_partition.txt", "37\n", "", r"line 1: expected"),
        # The list of DeepFashion's Consumer-to-shop benchmark has this name too.
        ("inshop", "Eval/list_eval_partition.txt", "image_name", "image_pair_name_1", r"line 2: expected"),
        ("vehicleid", "train_test_split/train_list.txt", "0000002 4", "0000002", r"line 3: expected image_name vehic"),
        ("vehicleid", "train_test_split/train_list.txt", "0000002 4", "0000001 4", r"names 0000001 twice"),
        ("vehicleid", "train_test_split/train_list.txt", " 4\n", " 3\n", r"1 classes are on both .*, the first is 3;"),
        ("vehicleid", "train_test_split/train_list.txt", "0000002 4", "0000030 4", r"name .*0000030\.jpg twice"),
        (
            "vehicleid",
            "train_test_split/test_list_1600.txt",
            " 3\n",
            " 5\n",
            r"vehicle 3 in one .* and of 5 in another",
        ),
    ],
)
def test_a_wrong_line_is_named(name: str, file: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    LAYOUTS[name].make(tmp_path)
    edit(tmp_path / file, old, new)
    with pytest.raises(ConfigError, match=rf"^data\.root: .*{message}"):
        listed(LAYOUTS[name].kind, tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sop", "Ebay_train.txt"),
        ("sop", "Ebay_test.txt"),
        ("vehicleid", "train_test_split/train_list.txt"),
        ("vehicleid", "train_test_split/test_list_2400.txt"),
    ],
)
def test_a_missing_or_empty_list_is_named(name: str, file: str, tmp_path: Path) -> None:
    LAYOUTS[name].make(tmp_path)
    header = "image_id class_id super_class_id path\n" if name == "sop" else ""
    (tmp_path / file).write_text(header, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^data\.root: {tmp_path}/{file} lists no image; "):
        listed(name, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ConfigError, match=rf"^data\.root: no such file: {tmp_path}/{file}; "):
        listed(name, tmp_path)


@pytest.mark.parametrize("folder", ["Albatross", "001.Bird_1/young"])
def test_a_folder_of_birds_without_a_number_is_named(folder: str, tmp_path: Path) -> None:
    make_cub200(tmp_path, lists=False)
    (tmp_path / "images" / folder).mkdir()
    (tmp_path / "images" / folder / "1.jpg").touch()
    with pytest.raises(ConfigError, match=rf"^data\.root: .*001\.Black.* but there is .*/images/{folder}/1\.jpg"):
        listed("cub200", tmp_path)


def test_lists_with_a_mark_and_carriage_returns_are_read(tmp_path: Path) -> None:
    make_sop(tmp_path)
    places = listed("sop", tmp_path).places
    for name in ("Ebay_train.txt", "Ebay_test.txt"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")
    assert listed("sop", tmp_path).places == places

"""Each thing that may be wrong with images: copies, small classes, pixel formats, files that are not there."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydml.config import Cub200Config, InShopConfig
from raydml.data import findings
from raydml.data.catalog import list_photos
from raydml.data.checking import check
from raydml.data.examining import examine, examine_bytes
from raydml.data.files import Files
from raydml.data.listing import Listed, Listing, listing_of
from tests.findings_cases import found, names
from tests.image_trees import make_cub200, make_inshop
from tests.photographs import PER_CLASS, SIZE, config_of, make_photographs, photograph

# Of classes 00 ... 09 the first five train.
TRAIN, OTHER_TRAIN, TEST, OTHER_TEST = "class01", "class03", "class06", "class08"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_photographs(tmp_path / "images")


def test_an_image_that_may_not_be_read_is_unreadable(root: Path) -> None:
    """A folder in the place of a file stands for it: root may read everything."""
    listing = list_photos(config_of(root))
    (root / TRAIN / "0.jpg").unlink()
    (root / TRAIN / "0.jpg").mkdir()
    images = examine(listing, SIZE).images
    [finding] = findings.unusable_images(listing, images)
    assert (finding.name, finding.examples) == ("unreadable", (f"{root / TRAIN / '0.jpg'}: Is a directory",))


def test_files_that_vanish_after_they_were_listed_are_missing(root: Path) -> None:
    listing = list_photos(config_of(root))
    (root / TRAIN / "2.jpg").unlink()
    [finding] = findings.unusable_images(listing, examine(listing, SIZE).images)
    assert (finding.level, finding.name, finding.text) == ("error", "missing", "1 listed image is missing")
    assert finding.examples == (str(root / TRAIN / "2.jpg"),)


def test_the_same_file_on_both_sides_is_a_leak(root: Path) -> None:
    shutil.copy(root / TRAIN / "0.jpg", root / TEST / "copy.jpg")
    checked = check(config_of(root))
    finding = found(checked, "leak")
    assert finding.level == "error"
    assert finding.text == "1 file is in training and test classes: 2 images of the same bytes"
    assert finding.examples == (f"{TRAIN}/0.jpg = {TEST}/copy.jpg",)
    assert names(checked) == ["leak"]


@pytest.mark.parametrize("classes", [(TRAIN, OTHER_TRAIN), (TEST, OTHER_TEST)])
def test_the_same_file_in_two_classes_of_a_side_has_two_labels(root: Path, classes: tuple[str, str]) -> None:
    shutil.copy(root / classes[0] / "0.jpg", root / classes[1] / "copy.jpg")
    checked = check(config_of(root))
    finding = found(checked, "label-conflict")
    assert (finding.level, finding.count) == ("warning", 1)
    assert finding.examples == (f"{classes[0]}/0.jpg = {classes[1]}/copy.jpg",)
    assert names(checked) == ["label-conflict"]


def test_the_same_file_twice_in_a_class_is_a_duplicate(root: Path) -> None:
    for name in ("again.jpg", "and again.jpg"):
        shutil.copy(root / TEST / "0.jpg", root / TEST / name)
    shutil.copy(root / TRAIN / "1.jpg", root / TRAIN / "again.jpg")
    checked = check(config_of(root))
    finding = found(checked, "duplicate")
    assert (finding.level, finding.count) == ("warning", 2)
    assert finding.text == "2 files are several times in a class: 5 images of the same bytes"
    assert names(checked) == ["duplicate"]


def test_a_group_of_copies_is_told_once_as_the_worst_that_it_is(root: Path) -> None:
    shutil.copy(root / TRAIN / "0.jpg", root / TRAIN / "copy.jpg")
    shutil.copy(root / TRAIN / "0.jpg", root / OTHER_TRAIN / "copy.jpg")
    assert names(check(config_of(root))) == ["label-conflict"]
    shutil.copy(root / TRAIN / "0.jpg", root / TEST / "copy.jpg")
    checked = check(config_of(root))
    assert names(checked) == ["leak"]
    assert found(checked, "leak").text.endswith("4 images of the same bytes")


def test_the_last_training_class_and_the_first_test_class_are_on_two_sides(root: Path) -> None:
    shutil.copy(root / "class04" / "0.jpg", root / "class05" / "copy.jpg")
    assert names(check(config_of(root))) == ["leak"]
    # With fewer test classes both train.
    assert names(check(config_of(root, test_fraction=0.4))) == ["label-conflict"]


def test_copies_equal_a_comparison_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    contents = [bytes([value]) for value in rng.integers(0, 25, 60)]
    labels = np.sort(rng.integers(0, 8, 60))
    listing = Listing(Files("."), tuple(map(str, range(60))), labels, tuple("abcdefgh"), "")
    images = [examine_bytes(content, SIZE) for content in contents]
    told = {finding.name: finding for finding in findings.duplicates(listing, images, 4, published=False)}
    pairs: dict[str, set[str]] = {"leak": set(), "label-conflict": set(), "duplicate": set()}
    for value in set(contents):
        rows = [row for row in range(60) if contents[row] == value]
        kinds = set()
        for a, b in itertools.combinations(rows, 2):
            sides = {bool(labels[a] < 4), bool(labels[b] < 4)}
            kinds.add("duplicate" if labels[a] == labels[b] else "leak" if len(sides) == 2 else "label-conflict")
        worst = next((kind for kind in pairs if kind in kinds), None)
        if worst:
            pairs[worst].add(" = ".join(map(str, rows)))
    assert all(pairs.values())
    assert {name: set(finding.examples) for name, finding in told.items()} == pairs


def test_copies_in_a_published_benchmark_are_a_warning_to_be_kept(tmp_path: Path) -> None:
    drawn = list(make_cub200(tmp_path / "cub"))
    shutil.copy(tmp_path / "cub" / drawn[0], tmp_path / "cub" / drawn[-1])
    config = Cub200Config(kind="cub200", root=str(tmp_path / "cub"), counts="any", num_folds=2)
    finding = found(check(config), "leak")
    assert finding.level == "warning"
    assert "keep them" in finding.mend


def test_images_that_cannot_be_read_are_copies_of_nothing(root: Path) -> None:
    listing = list_photos(config_of(root))
    for name in ("0.jpg", "1.jpg"):
        (root / TRAIN / name).unlink()
    assert list(findings.duplicates(listing, examine(listing, SIZE).images, 5, published=False)) == []


def test_classes_of_one_image_and_classes_smaller_than_their_share_of_a_batch(root: Path) -> None:
    for path in (
        f"{TRAIN}/0.jpg",
        f"{OTHER_TRAIN}/0.jpg",
        f"{OTHER_TRAIN}/1.jpg",
        f"{OTHER_TRAIN}/2.jpg",
        "class02/0.jpg",
        "class02/1.jpg",
    ):
        (root / path).unlink()
    for number in range(1, PER_CLASS):
        (root / TEST / f"{number}.jpg").unlink()
    checked = check(config_of(root))
    single = found(checked, "single")
    assert (single.level, single.examples) == ("warning", (OTHER_TRAIN, TEST))
    few = found(checked, "few-images")
    assert (few.level, few.examples) == ("info", (f"{TRAIN}: 3", "class02: 2", f"{OTHER_TRAIN}: 1"))
    assert "data.samples_per_class=4" in few.text
    assert names(check(config_of(root, samples_per_class=2))) == ["single", "few-images"]


def test_queries_without_an_image_in_the_gallery(tmp_path: Path) -> None:
    make_inshop(tmp_path / "inshop", test={5: (2, 1), 7: (2, 0), 9: (0, 1)})
    config = InShopConfig(kind="inshop", root=str(tmp_path / "inshop"), counts="any", num_folds=2)
    checked = check(config)
    finding = found(checked, "no-gallery")
    assert (finding.level, finding.count) == ("warning", 1)
    assert "7" in finding.examples[0]
    assert "single" not in names(checked), "an image of the gallery is no query"
    assert checked.overview is not None
    assert checked.overview.roles == (4, 2)


def test_small_images_and_other_pixel_formats_are_counted(root: Path) -> None:
    photograph(100, (15, 40)).save(root / TRAIN / "narrow.png")
    photograph(101, (40, 9)).save(root / TRAIN / "low.png")
    photograph(102, (16, 16)).save(root / TRAIN / "enough.png")
    photograph(103).convert("CMYK").save(root / TRAIN / "print.jpg")
    photograph(104).convert("L").save(root / TRAIN / "grey.png")
    photograph(105).convert("P").save(root / TRAIN / "palette.png")
    photograph(106).convert("P").save(root / TRAIN / "palette.gif")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100).save(root / TRAIN / "deep.png")
    checked = check(config_of(root))
    small = found(checked, "small")
    assert (small.level, small.count) == ("info", 2)
    assert small.text == "2 images are smaller than data.image_size=16: enlarged"
    assert set(small.examples) == {f"{TRAIN}/narrow.png: 15 pixels", f"{TRAIN}/low.png: 9 pixels"}
    assert "shortest side is 9 pixels" in small.mend
    modes = found(checked, "modes")
    assert (modes.level, modes.count) == ("info", 4)
    assert "(2 P, 1 I;16, 1 CMYK)" in modes.text
    assert f"{TRAIN}/print.jpg: CMYK" in modes.examples
    assert names(checked) == ["small", "modes"]


def test_a_class_in_two_splits() -> None:
    images = [Listed(f"{name}{n}.jpg", name) for name in "abcd" for n in range(2)]
    listing = listing_of(Files("."), images, "abcd", version="", num_training=2)
    assert list(findings.both_sides(listing, 2)) == []
    mixed = Listing(listing.encoded, listing.places, listing.labels, ("a", "b", "b", "d"), "", 2)
    [finding] = findings.both_sides(mixed, 2)
    assert (finding.level, finding.name, finding.examples) == ("error", "both-splits", ("b",))
    assert list(findings.both_sides(mixed, 4)) == []


def test_a_disk_without_room() -> None:
    assert list(findings.disk(10, 10)) == []
    [finding] = findings.disk(33_200_000_000, 20_000_000_000)
    assert finding.level == "warning"
    assert "33.2 GB" in finding.text
    assert "20.0 GB free" in finding.text

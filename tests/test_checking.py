"""A check of data: everything that may be wrong with images and labels is found, counted and named, all at once."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from raydml.config import ConfigError, Cub200Config, FolderConfig, SopConfig
from raydml.data import findings
from raydml.data.catalog import list_photos
from raydml.data.checking import check
from raydml.data.examining import Examined, examine, examine_bytes
from raydml.data.listing import Listing, MissingImagesError
from tests.findings_cases import found, names
from tests.image_trees import make_cub200, make_sop
from tests.photographs import NUM_CLASSES, PER_CLASS, SIZE, config_of, jpeg, make_photographs, photograph

# Of classes 00 ... 09 the first five train.
TRAIN, OTHER_TRAIN, TEST, OTHER_TEST = "class01", "class03", "class06", "class08"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_photographs(tmp_path / "images")


def test_good_data_have_no_finding_and_are_counted(root: Path) -> None:
    (root / "class09" / "3.jpg").unlink()
    checked = check(config_of(root))
    assert names(checked) == []
    overview = checked.overview
    assert overview is not None
    assert (overview.num_images, overview.num_classes) == (NUM_CLASSES * PER_CLASS - 1, NUM_CLASSES)
    assert overview.training == (5 * PER_CLASS, 5)
    assert overview.per_class == (PER_CLASS - 1, float(PER_CLASS), PER_CLASS)
    assert overview.roles is None
    assert overview.split == "the last 50% of the classes test (data.test_fraction)"
    assert overview.cache_bytes == overview.num_images * SIZE * SIZE * 3
    assert overview.encoded_bytes == sum(path.stat().st_size for path in root.rglob("*.jpg"))
    assert overview.free_bytes == pytest.approx(shutil.disk_usage(root).free, rel=0.05)


def test_nothing_is_kept_of_images_that_are_decoded_for_every_batch(root: Path) -> None:
    overview = check(config_of(root, decode="always")).overview
    assert overview is not None
    assert overview.cache_bytes == 0


def test_unreadable_images_are_named_with_the_reason(root: Path) -> None:
    whole = (root / TRAIN / "0.jpg").read_bytes()
    (root / TRAIN / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (root / TRAIN / "1.jpg").write_bytes(b"")
    (root / TEST / "2.jpg").write_text("<html>not found</html>", encoding="utf-8")
    finding = found(check(config_of(root)), "unreadable")
    assert (finding.level, finding.count) == ("error", 3)
    assert finding.text == "3 images are unreadable"
    cut, empty, page = finding.examples
    assert cut.startswith(f"{root / TRAIN / '0.jpg'}: ")
    assert cut.endswith("it ends too early")
    assert empty == f"{root / TRAIN / '1.jpg'}: it is empty"
    assert page == f"{root / TEST / '2.jpg'}: it is an HTML page"


def test_missing_images_of_a_benchmark_are_all_named_and_the_others_examined(tmp_path: Path) -> None:
    drawn = list(make_cub200(tmp_path / "cub"))
    gone, spoilt = [drawn[0], drawn[7], drawn[-1]], drawn[3]
    for path in gone:
        (tmp_path / "cub" / path).unlink()
    (tmp_path / "cub" / spoilt).write_bytes(b"no image")
    config = Cub200Config(kind="cub200", root=str(tmp_path / "cub"), counts="any", num_folds=2)
    checked = check(config)
    assert sorted(found(checked, "missing").examples) == sorted(str(tmp_path / "cub" / path) for path in gone)
    [example] = found(checked, "unreadable").examples
    assert example.startswith(str(tmp_path / "cub" / spoilt))
    assert checked.overview is not None
    assert checked.overview.num_images == len(drawn) - 3
    with pytest.raises(ConfigError, match=f"3 of {len(drawn)} images") as error:
        list_photos(config)
    again = pickle.loads(pickle.dumps(error.value))
    assert (type(error.value), type(again), str(again)) == (MissingImagesError, ConfigError, str(error.value))


def test_files_that_are_no_images_and_folders_without_any(root: Path) -> None:
    (root / "README.txt").touch()
    (root / TRAIN / "Thumbs.db").touch()
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").touch()
    checked = check(config_of(root))
    empty = found(checked, "empty-folder")
    assert (empty.level, empty.text, empty.examples) == ("error", "1 folder has no image", ("notes",))
    others = found(checked, "other-files")
    assert (others.level, others.count) == ("info", 3)
    assert others.examples == ("README.txt", f"{TRAIN}/Thumbs.db", "notes/a.txt")
    assert checked.overview is not None
    assert checked.overview.num_classes == NUM_CLASSES, "the others are looked at all the same"


@pytest.mark.parametrize(("num_classes", "fields"), [(3, {}), (7, {}), (10, {"num_folds": 4})])
def test_too_few_classes_for_a_test_and_folds(tmp_path: Path, num_classes: int, fields: dict[str, object]) -> None:
    config = config_of(make_photographs(tmp_path / "images", num_classes), **fields)
    checked = check(config)
    finding = found(checked, "few-classes")
    assert finding.level == "error"
    assert finding.text.startswith(f"{num_classes} classes are too few: ")
    assert ("data.num_folds=2" in finding.mend) == (num_classes == 10)


def test_a_training_refuses_what_a_check_calls_an_error_of_too_few_classes(tmp_path: Path) -> None:
    """And takes what it does not."""
    config = config_of(make_photographs(tmp_path / "images", 8))
    assert "few-classes" not in names(check(config))
    assert len(list_photos(config).classes) == 8
    with pytest.raises(ConfigError, match="at least 8"):
        list_photos(config_of(make_photographs(tmp_path / "fewer", 7)))


def test_counts_of_a_benchmark_name_both_numbers(tmp_path: Path) -> None:
    num_images = len(make_cub200(tmp_path / "cub"))
    config = Cub200Config(kind="cub200", root=str(tmp_path / "cub"), num_folds=2)
    finding = found(check(config), "counts")
    assert finding.level == "error"
    assert f"{num_images} images instead of 11,788" in finding.text
    assert "data.counts=any" in finding.mend
    part = check(config.model_copy(update={"counts": "any"}))
    assert found(part, "counts").level == "info"
    assert part.of_level("error") == []
    assert part.overview is not None
    assert part.overview.split == "as published"


def test_lists_that_cannot_be_read_are_a_finding_but_a_place_that_is_not_there_is_not(tmp_path: Path) -> None:
    make_sop(tmp_path / "sop")
    (tmp_path / "sop" / "Ebay_train.txt").write_text("image_id class_id super_class_id path\n1 one\n", encoding="utf-8")
    checked = check(SopConfig(kind="sop", root=str(tmp_path / "sop"), counts="any"))
    assert checked.overview is None
    assert found(checked, "listing").level == "error"
    assert "Ebay_train.txt, line 2" in found(checked, "listing").text
    with pytest.raises(ConfigError, match="absent"):
        check(SopConfig(kind="sop", root=str(tmp_path / "absent")))
    with pytest.raises(ConfigError, match="absent"):
        check(config_of(tmp_path / "absent"))


def test_a_folder_without_any_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "b.txt").touch()
    checked = check(config_of(tmp_path / "images"))
    assert checked.overview is None
    assert names(checked)[0] == "empty-folder"


def test_a_folder_that_is_empty_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    [finding] = check(config_of(tmp_path / "images")).findings
    assert (finding.level, finding.name) == ("error", "no-images")


def test_without_decoding_no_image_is_read(root: Path) -> None:
    (root / TRAIN / "0.jpg").write_bytes(b"no image")
    (root / "notes.txt").touch()
    told: list[tuple[int, int]] = []
    checked = check(config_of(root), decode=False, progress=lambda done, total: told.append((done, total)))
    assert names(checked) == ["other-files"]
    assert told == []
    assert checked.overview is not None
    assert checked.overview.encoded_bytes is None


def test_progress_ends_with_all_images(root: Path) -> None:
    told: list[tuple[int, int]] = []
    check(config_of(root), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (NUM_CLASSES * PER_CLASS, NUM_CLASSES * PER_CLASS)
    assert told == sorted(told)
    assert len(told) > 1


def test_everything_wrong_is_found_at_once_errors_first(root: Path) -> None:
    (root / TRAIN / "0.jpg").write_bytes(b"no image")
    shutil.copy(root / OTHER_TRAIN / "0.jpg", root / TEST / "copy.jpg")
    shutil.copy(root / TEST / "0.jpg", root / TEST / "again.jpg")
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").touch()
    photograph(100, (8, 8)).save(root / TRAIN / "tiny.png")
    checked = check(config_of(root, num_folds=4))
    assert names(checked) == [
        *("empty-folder", "few-classes", "unreadable", "leak"),
        "duplicate",
        *("other-files", "small"),
    ]
    assert [len(checked.of_level(level)) for level in findings.LEVELS] == [4, 1, 2]
    assert all(finding.count and (finding.mend or finding.level == "info") for finding in checked.findings)


def test_examination_is_of_each_image_in_the_order_of_the_listing(root: Path) -> None:
    """Threads and reading order change nothing: one image after the other is the oracle."""
    listing = list_photos(config_of(root))
    backwards = Listing(
        *(listing.encoded, listing.places, listing.labels, listing.classes, ""),
        reading_order=np.arange(len(listing.places))[::-1].copy(),
    )
    oracle = [examine_bytes((root / place).read_bytes(), SIZE) for place in listing.places]
    assert examine(listing, SIZE).images == oracle
    assert examine(backwards, SIZE).images == oracle
    assert len({image.digest for image in oracle}) == len(oracle)
    assert oracle[0] == Examined(oracle[0].digest, 20, "RGB", missing=False, problem="")


def test_what_an_image_is_does_not_depend_on_the_size_it_is_decoded_to() -> None:
    large = jpeg(photograph(0, (640, 480)))
    assert examine_bytes(large, 16) == examine_bytes(large, 512)
    assert examine_bytes(large, 16).short_side == 480


def test_a_check_takes_what_a_training_takes(root: Path) -> None:
    config: FolderConfig = config_of(root)
    listing = list_photos(config)
    overview = check(config).overview
    assert overview is not None
    assert overview.num_images == len(listing.places)
    assert overview.per_class[2] == np.bincount(listing.labels).max()

"""A user's own images in a CSV file: what it may say, and every mistake named with its line."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.data.listing import GALLERY, QUERY
from raydml.data.opening import open_images
from raydml.data.tables import list_csv
from tests.image_tables import colour_of, csv_config, pictures, write_csv, write_images

IMAGES = pictures()
PLAIN = [(image.path, image.label) for image in IMAGES]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, and a table that names them."""
    write_images(tmp_path, IMAGES)
    write_csv(tmp_path / "birds.csv", "path,label", PLAIN)
    return tmp_path


def refused(folder: Path, header: str, rows: list[tuple[str, ...]], **fields: object) -> str:
    """The message for a table, without the place of the folder."""
    with pytest.raises(ConfigError) as error:
        list_csv(csv_config(write_csv(folder / "bad.csv", header, rows), **fields))
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "DIR")


def changed(row: int, *cells: str) -> list[tuple[str, ...]]:
    """The plain table with other cells in one row; the first row is line 2."""
    return [*PLAIN[:row], cells, *PLAIN[row + 1 :]]


def split_of(label: str) -> str:
    return "test" if label in ("c0", "c3", "c4", "c8") else "train"


def test_a_table_lists_its_images_class_by_class(folder: Path) -> None:
    listing = list_csv(csv_config(folder / "birds.csv"))
    assert listing.classes == tuple(f"c{c}" for c in range(10))
    assert listing.places == tuple(f"images/c{c}/{n}.png" for c in range(10) for n in range(3))
    assert listing.labels.tolist() == [c for c in range(10) for _ in range(3)]
    assert listing.num_training is None
    assert listing.roles is None
    assert listing.reading_order is not None
    assert [listing.places[place] for place in listing.reading_order] == [path for path, _ in PLAIN]


def test_its_images_are_opened_with_their_labels(folder: Path) -> None:
    images = open_images(csv_config(folder / "birds.csv", cache=str(folder / "cache")), with_test=True)
    expected = {image.path: image for image in IMAGES}
    for label, source, pixels in zip(images.labels, images.sources, images.images, strict=True):
        assert images.classes[label] == expected[source].label
        assert colour_of(pixels) == expected[source].colour


def test_columns_come_in_any_order_and_others_are_ignored(folder: Path) -> None:
    rows = [("x", label, "a b", path) for path, label in PLAIN]
    other = write_csv(folder / "other.csv", '"note", label ,,path', rows)
    assert list_csv(csv_config(other)).places == list_csv(csv_config(folder / "birds.csv")).places


def test_labels_are_words(folder: Path) -> None:
    rows = [(path, f"00{label[-1]}") for path, label in PLAIN]
    rows = [(path, {"000": "NA", "001": "1e3", "002": "true", "003": "03"}.get(label, label)) for path, label in rows]
    listing = list_csv(csv_config(write_csv(folder / "words.csv", "path,label", rows)))
    assert listing.classes == ("004", "005", "006", "007", "008", "009", "03", "1e3", "NA", "true")


def test_cells_may_be_quoted_lines_empty_and_marked(folder: Path) -> None:
    strange = folder / "images" / 'a, b "c" #1 50% \u00fc.png'
    (folder / "images" / "c0" / "0.png").rename(strange)
    name = "images/" + strange.name.replace('"', '""')
    rows = [(f'"{name}"', ' "two\nlines"'.strip()), *PLAIN[1:]]
    path = write_csv(folder / "quoted.csv", "\ufeffpath,label", rows)
    path.write_text(
        path.read_text("utf-8").replace("\n", "\r\n\r\n").replace("two\r\n\r\nlines", "two\nlines"), "utf-8"
    )
    listing = list_csv(csv_config(path))
    assert listing.places[-1] == f"images/{strange.name}"
    assert listing.classes[-1] == "two\nlines"
    assert listing.encoded.read(listing.places[-1]) == IMAGES[0].png()


def test_line_numbers_count_every_line(folder: Path) -> None:
    rows = [('"images/c0/0.png"', '"two\nlines"'), ("", ""), *PLAIN[1:5], ("images/c5/0.png", "")]
    path = write_csv(folder / "lines.csv", "path,label", rows)
    path.write_text(path.read_text("utf-8").replace("\n,\n", "\n\n"), "utf-8")
    with pytest.raises(ConfigError, match=r"^data\.root: line 9 of .*lines\.csv: label is empty"):
        list_csv(csv_config(path))


def test_a_split_is_kept_and_training_classes_come_first(folder: Path) -> None:
    rows = [(split_of(label), path, label) for path, label in PLAIN]
    random.Random(0).shuffle(rows)
    config = csv_config(write_csv(folder / "split.csv", "split,path,label", rows), cache=str(folder / "cache"))
    listing = list_csv(config)
    assert listing.classes == ("c1", "c2", "c5", "c6", "c7", "c9", "c0", "c3", "c4", "c8")
    assert listing.num_training == 6
    assert listing.labels.tolist() == sorted(listing.labels.tolist())
    for label, place in zip(listing.labels, listing.places, strict=True):
        assert f"/{listing.classes[label]}/" in place


def test_roles_are_those_of_test_images(folder: Path) -> None:
    def role_of(path: str, label: str) -> str:
        number = int(path[-5])
        return ("query", "gallery", "")[number] if split_of(label) == "test" else ""

    rows = [(path, label, split_of(label), role_of(path, label)) for path, label in PLAIN]
    listing = list_csv(csv_config(write_csv(folder / "roles.csv", "path,label,split,role", rows)))
    assert listing.roles is not None
    assert listing.roles.tolist() == [0] * 18 + [QUERY, GALLERY, 0] * 4


def test_equal_rows_count_once(folder: Path) -> None:
    rows = [*PLAIN, PLAIN[4], (f"./images/../{PLAIN[7][0]}", PLAIN[7][1])]
    assert len(list_csv(csv_config(write_csv(folder / "twice.csv", "path,label", rows))).places) == 30


def test_paths_are_relative_to_images_absolute_or_uris(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away") / "birds.csv"
    inner = [(path.removeprefix("images/"), label) for path, label in PLAIN]
    mixed = [(str(folder / PLAIN[0][0]), "c0"), ((folder / PLAIN[1][0]).as_uri(), "c1"), *inner[2:]]
    write_csv(away, "path,label", mixed)
    for images in (str(folder / "images"), (folder / "images").as_uri()):
        listing = list_csv(csv_config(away, images=images))
        encoded = pickle.loads(pickle.dumps(listing.encoded))
        expected = {str(image.path)[-8:]: image.png() for image in IMAGES}
        assert {place[-8:]: encoded.read(place) for place in listing.places} == expected


def test_relative_paths_are_those_of_the_process_that_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    listing = list_csv(csv_config("birds.csv"))
    travelled = pickle.dumps(listing)
    monkeypatch.chdir("/")
    assert pickle.loads(travelled).encoded.read("images/c0/0.png") == IMAGES[0].png()


def test_an_image_or_a_label_that_changes_makes_another_version(folder: Path) -> None:
    config = csv_config(folder / "birds.csv")
    version = list_csv(config).version
    assert list_csv(config).version == version
    (folder / "images" / "c0" / "0.png").write_bytes(IMAGES[1].png() + b" ")
    changed_image = list_csv(config).version
    write_csv(folder / "birds.csv", "path,label", changed(0, "images/c0/0.png", "another"))
    assert len({version, changed_image, list_csv(config).version}) == 3


WRONG: dict[str, tuple[str, Sequence[tuple[str, ...]], str]] = {
    "no label": ("path,label", changed(1, "images/c1/0.png", " "), "line 3 of DIR/bad.csv: label is empty"),
    "no path": ("path,label", changed(4, "", "c4"), "line 6 of DIR/bad.csv: path is empty"),
    "no column": ("path,class", PLAIN, "DIR/bad.csv has no column label, but path, class"),
    "semicolons": ("path;label", [(";".join(row),) for row in PLAIN], "commas must separate"),
    "two columns": ("path,label,label", [(*row, "x") for row in PLAIN], "has two columns label"),
    "other width": (
        "path,label",
        changed(2, "a", "b", "c"),
        "line 4 of DIR/bad.csv has 3 cells where the header has 2",
    ),
    "two labels": (
        "path,label",
        [*PLAIN, (PLAIN[2][0], "c9")],
        "line 32 of DIR/bad.csv: images/c2/0.png has label 'c9', but 'c2' in line 4 of DIR/bad.csv",
    ),
    "validation": (
        "path,label,split",
        [(*row, "val") for row in PLAIN],
        "line 2 of DIR/bad.csv: split must be train or test, but got 'val': validation classes are folds",
    ),
    "trainval": ("path,label,split", [(*row, "trainval") for row in PLAIN], "are folds of the training classes"),
    "unknown split": ("path,label,split", [(*row, "Test") for row in PLAIN], "but got 'Test'"),
    "no split": ("path,label,split", [(*row, "") for row in PLAIN], "split must be train or test, but got ''"),
    "both sides": (
        "path,label,split",
        [(*row, "test" if number == 25 else "train") for number, row in enumerate(PLAIN)],
        "class 'c5' is on both sides of the split: train in line 7 of DIR/bad.csv, test in line 27",
    ),
    "only train": ("path,label,split", [(*row, "train") for row in PLAIN], "no row with split test"),
    "only test": ("path,label,split", [(*row, "test") for row in PLAIN], "no row with split train"),
    "unknown role": ("path,label,split,role", [(*row, "test", "Query") for row in PLAIN], "but got 'Query'"),
    "training role": ("path,label,split,role", [(*row, "train", "query") for row in PLAIN], "only test images have"),
    "role without split": ("path,label,role", [(*row, "query") for row in PLAIN], "no column split"),
    "no row": ("path,label", [], "DIR/bad.csv has no row"),
    "few classes": ("path,label", [row for row in PLAIN if row[1] < "c7"], "at least 8 classes .* but holds 7"),
    "no such image": (
        "path,label",
        [*PLAIN, ("images/c0/9.png", "c0"), ("images/none/0.png", "c0")],
        "2 of 32 images are not there, the first in line 32 of DIR/bad.csv: DIR/images/c0/9.png",
    ),
    "open quote": ("path,label", [*PLAIN, ('"a', "b")], "line 32 of DIR/bad.csv is no CSV"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_named_with_its_line(name: str, folder: Path) -> None:
    header, rows, message = WRONG[name]
    text = refused(folder, header, list(rows))
    assert text.startswith("data.root: ")
    before, _, after = message.partition(" .* ")
    assert before in text
    assert after in text


def test_a_missing_image_below_images_is_their_mistake(folder: Path) -> None:
    assert refused(folder, "path,label", list(PLAIN), images=str(folder / "none")).startswith("data.images: 30 of 30 ")


def test_no_table_is_a_clear_error(folder: Path) -> None:
    for root in (folder / "none.csv", folder):
        with pytest.raises(ConfigError, match=r"^data\.root: no such file: "):
            list_csv(csv_config(root))
    (folder / "empty.csv").write_text("", "utf-8")
    with pytest.raises(ConfigError, match=r"^data\.root: .*empty\.csv is empty: its first line names the columns"):
        list_csv(csv_config(folder / "empty.csv"))
    (folder / "latin.csv").write_bytes("path,label\ncaf\u00e9.png,a".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"^data\.root: .*latin\.csv cannot be read: 'utf-8' codec"):
        list_csv(csv_config(folder / "latin.csv"))

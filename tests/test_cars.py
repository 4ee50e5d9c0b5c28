"""Cars196 in its three layouts: told apart, merged, split by class, and every broken part named."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import scipy.io

from raydml.config import ConfigError
from tests.benchmark_cases import listed
from tests.image_trees import Drawn, car_name, make_cars196

Letter = Literal["A", "B", "C"]
ANNOTATIONS = {
    "A": ("cars_annos.mat",),
    "B": ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat", "devkit/cars_meta.mat"),
}
MATLAB = [(letter, file) for letter, files in ANNOTATIONS.items() for file in files]


@pytest.mark.parametrize("letter", ["A", "B", "C"])
def test_halves_are_merged_and_classes_split(letter: Letter, tmp_path: Path) -> None:
    drawn = make_cars196(tmp_path, letter)
    listing = listed("cars196", tmp_path)
    assert listing.num_training == 8
    assert list(listing.classes) == [car_name(class_id) for class_id in (*range(1, 9), *range(99, 105))]
    assert sorted(listing.places) == sorted(drawn)
    # Every class has images of both halves of the classification split.
    assert np.bincount(listing.labels).tolist() == [2] * 8 + [3] * 6


@pytest.mark.parametrize("letter", ["A", "B", "C"])
def test_classes_stay_where_they_are_in_a_part(letter: Letter, tmp_path: Path) -> None:
    make_cars196(tmp_path, letter, {97: 2, 98: 2, 99: 2, 196: 2})
    listing = listed("cars196", tmp_path)
    assert listing.num_training == 2
    assert list(listing.classes) == [car_name(class_id) for class_id in (97, 98, 99, 196)]


def moved(root: Path, old: str, new: str) -> None:
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)


def places_as(drawn: dict[str, Drawn], old: str, new: str) -> list[str]:
    return sorted(path.replace(old, new, 1) for path in drawn)


def test_folders_within_folders_are_found(tmp_path: Path) -> None:
    drawn = make_cars196(tmp_path / "B", "B")
    for half in ("train", "test"):
        moved(tmp_path / "B", f"cars_{half}", "held")
        moved(tmp_path / "B", "held", f"cars_{half}/cars_{half}")
    places = sorted(path.replace("/", f"/{path.partition('/')[0]}/") for path in drawn)
    assert sorted(listed("cars196", tmp_path / "B").places) == places
    drawn = make_cars196(tmp_path / "C", "C")
    moved(tmp_path / "C", "car_data/car_data", "held")
    (tmp_path / "C" / "car_data").rmdir()
    moved(tmp_path / "C", "held", "car_data")
    assert sorted(listed("cars196", tmp_path / "C").places) == places_as(drawn, "car_data/", "")


def test_labels_of_the_test_half_may_lie_in_the_devkit(tmp_path: Path) -> None:
    make_cars196(tmp_path, "B")
    places = listed("cars196", tmp_path).places
    moved(tmp_path, "cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
    assert listed("cars196", tmp_path).places == places


@pytest.mark.parametrize(("letter", "file"), [*MATLAB, *(("C", file) for file in ("anno_test.csv", "names.csv"))])
def test_a_missing_list_is_named(letter: Letter, file: str, tmp_path: Path) -> None:
    make_cars196(tmp_path, letter)
    (tmp_path / file).unlink()
    message = rf"no such file: {tmp_path}/{file}; complete"
    if file in ("cars_annos.mat", "devkit/cars_train_annos.mat"):
        message = "no Cars196 in .*: expected cars_annos.mat and car_ims/"
    with pytest.raises(ConfigError, match=rf"^data\.root: {message}"):
        listed("cars196", tmp_path)


@pytest.mark.parametrize("cut", [0, 5, 127, 128, 200, 0.3, 0.6, 0.95, "text"])
@pytest.mark.parametrize(("letter", "file"), MATLAB)
def test_a_broken_list_is_named(letter: Letter, file: str, cut: float | str, tmp_path: Path) -> None:
    make_cars196(tmp_path, letter)
    whole = (tmp_path / file).read_bytes()
    length = cut if isinstance(cut, int) else int(cut * len(whole)) if isinstance(cut, float) else 0
    (tmp_path / file).write_bytes(b"<html>Not found</html>" * 20 if cut == "text" else whole[:length])
    with pytest.raises(ConfigError, match=rf"^data\.root: {tmp_path}/{file} (cannot be read: |holds no )"):
        listed("cars196", tmp_path)


@pytest.mark.parametrize(("letter", "file"), MATLAB)
def test_a_list_of_something_else_is_named(letter: Letter, file: str, tmp_path: Path) -> None:
    make_cars196(tmp_path, letter)
    scipy.io.savemat(tmp_path / file, {"annotations": np.arange(5), "names": np.arange(5)})
    with pytest.raises(ConfigError, match=rf"^data\.root: {tmp_path}/{file} holds no .*; take it from a new copy"):
        listed("cars196", tmp_path)


def test_the_test_half_needs_its_labels(tmp_path: Path) -> None:
    make_cars196(tmp_path, "B")
    moved(tmp_path, "devkit/cars_test_annos.mat", "cars_test_annos_withlabels.mat")
    with pytest.raises(ConfigError, match=r"withlabels\.mat holds no annotations with fname and class;"):
        listed("cars196", tmp_path)


@pytest.mark.parametrize(("class_id", "named"), [(0, "0"), (197, "197")])
def test_a_class_beyond_the_196_is_refused(class_id: int, named: str, tmp_path: Path) -> None:
    make_cars196(tmp_path, "A", {1: 2, 99: 2, class_id: 2})
    with pytest.raises(ConfigError, match=rf"^data\.root: Cars196 has classes 1 \.\.\. 196, but .* has class {named}$"):
        listed("cars196", tmp_path)


def test_a_wrong_line_of_the_csv_is_named(tmp_path: Path) -> None:
    make_cars196(tmp_path, "C")
    with (tmp_path / "anno_test.csv").open("a", encoding="utf-8") as file:
        file.write("00099.jpg\n")
    with pytest.raises(
        ConfigError, match=r"^data\.root: .*anno_test\.csv, line 15: expected file, .* got '00099\.jpg'"
    ):
        listed("cars196", tmp_path)


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    make_cars196(tmp_path, "C")
    names = (tmp_path / "names.csv").read_text(encoding="utf-8").replace(car_name(3), car_name(4))
    (tmp_path / "names.csv").write_text(names, encoding="utf-8")
    (tmp_path / "anno_train.csv").write_text("00004.jpg,1,2,3,4,4\n", encoding="utf-8")
    (tmp_path / "anno_test.csv").write_text("00004.jpg,1,2,3,4,3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^data\.root: classes 3 and 4 of .* are both called {car_name(4)}"):
        listed("cars196", tmp_path)

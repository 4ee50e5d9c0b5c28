"""Trees of the published benchmarks, in every layout in which they circulate: miniature ones, or of any size.

Pictures are colour coded: the upper half is the class id of the benchmark, the lower half the number of the picture in
its tree, so that a swapped picture is seen. With `link` all pictures are hard links of one file, to be listed only.
Every maker returns what was drawn, by the path below `root`; `root` is the folder that the official archive unpacks to.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.io
from PIL import Image

SIDE = 32
# Some file systems allow 65,000 links of a file.
_MOST_LINKS = 30_000

Sizes = Mapping[int, int]
"""Class id to number of images."""
CUB_SIZES: Sizes = dict.fromkeys(range(1, 9), 2) | dict.fromkeys(range(101, 107), 3)
CARS_SIZES: Sizes = dict.fromkeys(range(1, 9), 2) | dict.fromkeys(range(99, 105), 3)
# 11,318 trains in the official lists and tests in halves.
SOP_SIZES: Sizes = dict.fromkeys((*range(1, 9), 11317, 11318), 2) | dict.fromkeys(range(11319, 11325), 3)
INSHOP_TRAIN: Sizes = dict.fromkeys(range(2, 20, 2), 2)
INSHOP_TEST: Mapping[int, tuple[int, int]] = {5: (2, 1), 7: (1, 2), 9: (2, 2), 11: (3, 1), 13: (1, 1), 15: (2, 1)}
"""Item id to numbers of queries and of gallery images."""
VEHICLE_TRAIN: Sizes = dict.fromkeys(range(2, 20, 2), 2)
VEHICLE_TEST: Sizes = {1: 3, 3: 2, 5: 3, 7: 4, 9: 2, 11: 3, 13: 2}
# Lists share vehicles, and none holds another one.
VEHICLE_LISTS: Mapping[int, Sequence[int]] = {800: (3, 5, 9), 1600: (3, 5, 7, 11), 2400: (1, 3, 7, 11, 13)}


class Drawn(NamedTuple):
    """What a picture shows."""

    class_id: int
    number: int


def draw(path: Path, drawn: Drawn) -> None:
    """A JPEG of two colours: fifteen bits each."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for half, code in zip((slice(0, SIDE // 2), slice(SIDE // 2, SIDE)), drawn, strict=True):
        pixels[half] = [8 * (code >> shift & 31) + 4 for shift in (10, 5, 0)]
    Image.fromarray(pixels).save(path, "JPEG", quality=100, subsampling=0)


def drawn_in(pixels: npt.NDArray[np.uint8]) -> Drawn:
    """What a decoded picture (S, S, 3) of any size shows."""
    size = len(pixels)
    codes = []
    for half in (pixels[: size // 4], pixels[-(size // 4) :]):
        red, green, blue = (int(level) // 8 for level in half.reshape(-1, 3).mean(axis=0))
        codes.append(red << 10 | green << 5 | blue)
    return Drawn(*codes)


class _Pictures:
    """Pictures below a root, numbered as they come."""

    def __init__(self, root: Path, link: Path | None) -> None:
        self.root, self.link = root, link
        self.drawn: dict[str, Drawn] = {}
        self._folders: set[str] = set()

    def add(self, path: str, class_id: int) -> str:
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        drawn = Drawn(class_id, len(self.drawn))
        if self.link is None:
            draw(self.root / path, drawn)
        elif len(self.drawn) % _MOST_LINKS:
            os.link(self.link, f"{self.root}/{path}")
        else:
            shutil.copyfile(self.link, self.root / path)
            self.link = self.root / path
        assert path not in self.drawn
        self.drawn[path] = drawn
        return path


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def make_cub200(
    root: Path, sizes: Sizes = CUB_SIZES, *, lists: bool = True, link: Path | None = None
) -> dict[str, Drawn]:
    """CUB_200_2011/. Without `lists` only the folder of images, as some copies have it."""
    pictures = _Pictures(root, link)
    for class_id, size in sizes.items():
        folder = f"images/{class_id:03}.Bird_{class_id}"
        for number in range(size):
            pictures.add(f"{folder}/Bird_{class_id}_{number:04}_{len(pictures.drawn)}.jpg", class_id)
    if lists:
        numbered = list(enumerate(pictures.drawn.items(), start=1))
        _write(root / "images.txt", [f"{n} {path.removeprefix('images/')}" for n, (path, _) in numbered])
        _write(root / "image_class_labels.txt", [f"{n} {drawn.class_id}" for n, (_, drawn) in numbered])
        # That of classification: all classes on both sides.
        _write(root / "train_test_split.txt", [f"{n} {n % 2}" for n, _ in numbered])
        _write(root / "classes.txt", [f"{class_id} {class_id:03}.Bird_{class_id}" for class_id in sizes])
    return pictures.drawn


def make_cub200_2010(root: Path, sizes: Sizes = CUB_SIZES, *, link: Path | None = None) -> dict[str, Drawn]:
    """The older CUB-200, which is often taken for the newer one."""
    drawn = make_cub200(root, sizes, lists=False, link=link)
    names = [path.removeprefix("images/") for path in drawn]
    _write(root / "lists" / "files.txt", names)
    _write(root / "lists" / "train.txt", names[::2])
    _write(root / "lists" / "test.txt", names[1::2])
    return drawn


def car_name(class_id: int) -> str:
    """One name holds a slash, as one of the 196 does."""
    return "Ram C/V Cargo Van 2012" if class_id == 2 else f"Make Model {class_id} 2012"


def make_cars196(
    root: Path, layout: Literal["A", "B", "C"] = "A", sizes: Sizes = CARS_SIZES, *, link: Path | None = None
) -> dict[str, Drawn]:
    """The folder that holds car_ims (A), cars_train (B) or car_data (C)."""
    pictures = _Pictures(root, link)
    if layout == "A":
        rows = [
            (pictures.add(f"car_ims/{len(pictures.drawn) + 1:06}.jpg", class_id), class_id, number % 2)
            for class_id, size in sizes.items()
            for number in range(size)
        ]
        _save_annotations(root / "cars_annos.mat", rows, ("relative_im_path", "class", "test"), class_names=True)
        return pictures.drawn
    halves: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for class_id, size in sizes.items():
        for number in range(size):
            half = ("train", "test")[number % 2]
            # Numbers begin anew in each half.
            name = f"{len(halves[half]) + 1:05}.jpg"
            folder = f"cars_{half}" if layout == "B" else f"car_data/car_data/{half}/{_car_folder(class_id)}"
            pictures.add(f"{folder}/{name}", class_id)
            halves[half].append((name, class_id))
    (_annotate_release if layout == "B" else _annotate_folders)(root, halves)
    return pictures.drawn


def _car_folder(class_id: int) -> str:
    return car_name(class_id).replace("/", "-")


def _annotate_release(root: Path, halves: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    (root / "devkit").mkdir()
    for name, half in (("devkit/cars_train_annos", "train"), ("cars_test_annos_withlabels", "test")):
        _save_annotations(root / f"{name}.mat", [(c, file) for file, c in halves[half]], ("class", "fname"))
    _save_annotations(root / "devkit" / "cars_test_annos.mat", [(file,) for file, _ in halves["test"]], ("fname",))
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": _car_names()})


def _annotate_folders(root: Path, halves: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    for half, images in halves.items():
        _write(root / f"anno_{half}.csv", [f"{file},1,2,30,31,{class_id}" for file, class_id in images])
    _write(root / "names.csv", [car_name(class_id) for class_id in range(1, 197)])


def _car_names() -> npt.NDArray[np.object_]:
    return np.array([[car_name(class_id) for class_id in range(1, 197)]], dtype=object)


def _save_annotations(
    path: Path, rows: Sequence[tuple[object, ...]], fields: Sequence[str], *, class_names: bool = False
) -> None:
    """As MATLAB writes a struct array: one row, every number a matrix of one. Boxes are left out: they take seconds."""
    annotations = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for column, row in enumerate(rows):
        annotations[0, column] = row
    scipy.io.savemat(path, {"annotations": annotations} | ({"class_names": _car_names()} if class_names else {}))


SUPER_CLASSES = (
    "bicycle_final",
    "cabinet_final",
    "chair_final",
    "coffee_maker_final",
    "fan_final",
    "kettle_final",
    "lamp_final",
    "mug_final",
    "sofa_final",
    "stapler_final",
    "table_final",
    "toaster_final",
)


def make_sop(root: Path, sizes: Sizes = SOP_SIZES, *, link: Path | None = None) -> dict[str, Drawn]:
    """Stanford_Online_Products/."""
    pictures = _Pictures(root, link)
    header = "image_id class_id super_class_id path"
    lists: dict[str, list[str]] = {"train": [header], "test": [header]}
    for class_id, size in sizes.items():
        super_class = class_id % 12
        for number in range(size):
            path = pictures.add(f"{SUPER_CLASSES[super_class]}/{class_id:012}_{number}.JPG", class_id)
            row = f"{len(pictures.drawn)} {class_id} {super_class + 1} {path}"
            lists["train" if class_id <= 11318 else "test"].append(row)
    for side, rows in lists.items():
        _write(root / f"Ebay_{side}.txt", rows)
    return pictures.drawn


def make_inshop(
    root: Path,
    train: Sizes = INSHOP_TRAIN,
    test: Mapping[int, tuple[int, int]] = INSHOP_TEST,
    *,
    img_folder: Literal["img", "Img/img"] = "Img/img",
    link: Path | None = None,
) -> dict[str, Drawn]:
    """The folder that holds Eval/ and Img/ (official) or img/."""
    pictures = _Pictures(root, link)
    parts = [(item, size, "train") for item, size in train.items()]
    parts += [(item, size, part) for item, two in test.items() for size, part in zip(two, _INSHOP_PARTS, strict=True)]
    rows = []
    for item, size, part in parts:
        for number in range(size):
            # Thousands of folders take half a minute to delete.
            name = f"WOMEN/Dresses/id_{item:08}{'/' if link is None else '_'}{number:02}_{part[0]}_front.jpg"
            pictures.add(f"{img_folder}/{name}", item)
            rows.append(f"{'img/' + name:<70} id_{item:08} {part}")
    header = f"{'image_name':<70} item_id     evaluation_status"
    _write(root / "Eval" / "list_eval_partition.txt", [str(len(rows)), header, *rows])
    return pictures.drawn


_INSHOP_PARTS = ("query", "gallery")


def make_vehicleid(
    root: Path,
    train: Sizes = VEHICLE_TRAIN,
    test: Sizes = VEHICLE_TEST,
    lists: Mapping[int, Sequence[int]] = VEHICLE_LISTS,
    *,
    link: Path | None = None,
) -> dict[str, Drawn]:
    """VehicleID_V1.0/."""
    pictures = _Pictures(root, link)
    rows: dict[int, list[str]] = {}
    for vehicle, size in (*train.items(), *test.items()):
        names = [f"{len(pictures.drawn) + number:07}" for number in range(size)]
        for name in names:
            pictures.add(f"image/{name}.jpg", vehicle)
        rows[vehicle] = [f"{name} {vehicle}" for name in names]
    split = root / "train_test_split"
    _write(split / "train_list.txt", [row for vehicle in train for row in rows[vehicle]])
    for count, vehicles in lists.items():
        _write(split / f"test_list_{count}.txt", [row for vehicle in vehicles for row in rows[vehicle]])
    return pictures.drawn

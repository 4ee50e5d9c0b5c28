"""Cars196 in the three layouts that circulate; the flags that split every class for classification are not read.

A  car_ims/ with cars_annos.mat: all images in one folder.
B  cars_train/ and cars_test/ with devkit/ and cars_test_annos_withlabels.mat: the classification release.
C  car_data/{train,test}/<class>/ with anno_train.csv, anno_test.csv and names.csv: a folder for each class.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from raydml.config import Cars196Config, ConfigError
from raydml.data.copies import Copy, Row, listing_of_copy, open_copy
from raydml.data.listing import Listing

# The last class that trains.
_TRAINING = 98
_HALVES = ("train", "test")


def list_cars196(config: Cars196Config) -> Listing:
    """By the annotations of the layout that is found, both halves merged. Raises ConfigError for a bad copy."""
    copy = open_copy(config)
    if copy.has("devkit/cars_train_annos.mat"):
        return _release(copy)
    if copy.has("anno_train.csv"):
        return _folders(copy)
    return _all_in_one(copy)


def _all_in_one(copy: Copy) -> Listing:
    path = "cars_annos.mat"
    labels = _annotated(copy, path, "relative_im_path")
    return _listing(copy, labels, _class_names(copy, path), [path])


def _release(copy: Copy) -> Listing:
    beside = "cars_test_annos_withlabels.mat"
    annotations = {
        "cars_train": "devkit/cars_train_annos.mat",
        "cars_test": f"devkit/{beside}" if copy.has(f"devkit/{beside}") else beside,
    }
    labels: list[tuple[str, int]] = []
    for half, path in annotations.items():
        # Kaggle's archives hold the folder twice.
        folder = copy.folder(f"{half}/{half}", half)
        labels += [(f"{folder}/{name}", class_id) for name, class_id in _annotated(copy, path, "fname")]
    meta = "devkit/cars_meta.mat"
    return _listing(copy, labels, _class_names(copy, meta), [*annotations.values(), meta])


def _folders(copy: Copy) -> Listing:
    names = [name for (name,) in copy.lines("names.csv", r'"?(.+?)"?', "the name of a class")]
    root = copy.folder("car_data/car_data", "car_data")
    labels: list[tuple[str, int]] = []
    for half in _HALVES:
        path = f"anno_{half}.csv"
        for file, class_id in copy.lines(path, r"([^,]+),.*,\s*(\d+)", "file, four sides of a box, class"):
            folder = _name(names, int(class_id)).replace("/", "-")
            labels.append((f"{root}/{half}/{folder}/{file}", int(class_id)))
    return _listing(copy, labels, names, [*(f"anno_{half}.csv" for half in _HALVES), "names.csv"])


def _listing(copy: Copy, labels: Sequence[tuple[str, int]], names: Sequence[str], lists: Sequence[str]) -> Listing:
    rows = [Row(path, class_id, class_id <= _TRAINING) for path, class_id in labels]
    named = {class_id: _name(names, class_id) for class_id in {class_id for _, class_id in labels}}
    return listing_of_copy(copy, rows, named, lists=lists)


def _name(names: Sequence[str], class_id: int) -> str:
    """A class that has none is refused later, with the classes that there are."""
    return names[class_id - 1] if class_id <= len(names) else f"class {class_id}"


def _annotated(copy: Copy, path: str, name_field: str) -> list[tuple[str, int]]:
    """Path and class of every image of a MATLAB file."""
    found = _matlab(copy, path)
    try:
        annotations = np.atleast_1d(found["annotations"])
        return [(str(one[name_field]), int(one["class"])) for one in annotations]
    except (KeyError, ValueError, TypeError, IndexError):
        raise ConfigError(
            f"data.root: {copy.files.named(path)} holds no annotations with {name_field} and class; take it from a new "
            "copy"
        ) from None


def _class_names(copy: Copy, path: str) -> list[str]:
    try:
        return [str(name) for name in np.atleast_1d(_matlab(copy, path)["class_names"])]
    except KeyError:
        raise ConfigError(
            f"data.root: {copy.files.named(path)} holds no class_names; take it from a new copy"
        ) from None


def _matlab(copy: Copy, path: str) -> Mapping[str, np.ndarray]:
    """Raises ConfigError where there is no such file or it is none of MATLAB's."""
    if not copy.has(path):
        raise ConfigError(f"data.root: no such file: {copy.files.named(path)}; complete the copy")
    try:
        found: Mapping[str, np.ndarray] = loadmat(io.BytesIO(copy.files.read(path)), squeeze_me=True)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise ConfigError(f"data.root: {copy.files.named(path)} cannot be read: {error}") from None
    return found

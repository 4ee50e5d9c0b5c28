"""CUB-200-2011, Stanford Online Products, In-shop Clothes Retrieval and PKU VehicleID as their publishers lay them out.

Training and test classes are those of metric learning. The flags of CUB that split every class are not read.
"""

from __future__ import annotations

from raydml.config import ConfigError, Cub200Config, InShopConfig, SopConfig, VehicleIdConfig
from raydml.data.copies import Copy, Row, listing_of_copy, open_copy
from raydml.data.folder import is_image
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY, Listing

# The last classes that train.
_CUB_TRAINING = 100
_SOP_HALF = 11_317

_ROLES = {"train": ANY_ROLE, "query": QUERY, "gallery": GALLERY}
_TEST_LISTS = {"small": 800, "medium": 1600, "large": 2400}


def list_cub200(config: Cub200Config) -> Listing:
    """By images.txt and image_class_labels.txt where they are, else by the numbers of the folders below images/."""
    copy = open_copy(config)
    lists = ("images.txt", "image_class_labels.txt")
    listed = all(copy.has(path) for path in lists)
    labels = _cub_lists(copy, *lists) if listed else _cub_folders(copy)
    names: dict[int, str] = {}
    folders: dict[str, int] = {}
    for path, class_id in labels:
        folder = path.split("/")[-2]
        if names.setdefault(class_id, folder) != folder or folders.setdefault(folder, class_id) != class_id:
            raise ConfigError(
                f"data.root: a class of CUB-200-2011 is a folder, but in {copy.files.named(lists[1])} class {class_id} "
                f"and {folder} are not one; take it from a new copy"
            )
    rows = [Row(path, class_id, class_id <= _CUB_TRAINING) for path, class_id in labels]
    return listing_of_copy(copy, rows, names, lists=lists if listed else ())


def _cub_lists(copy: Copy, images: str, classes: str) -> list[tuple[str, int]]:
    paths = copy.keyed(images, r"(\d+)\s+(\S+/\S+)", "image_id folder/file")
    labels = copy.keyed(classes, r"(\d+)\s+(\d+)", "image_id class_id")
    alone = sorted(paths.keys() ^ labels.keys(), key=int)
    if alone:
        raise ConfigError(
            f"data.root: {images} and {classes} in {copy.files.named('')} must have the same images, but only one has "
            f"number {alone[0]}; take both from a new copy"
        )
    return [(f"images/{path}", int(labels[number])) for number, path in paths.items()]


def _cub_folders(copy: Copy) -> list[tuple[str, int]]:
    images = [path for path in copy.stamps if path.startswith("images/") and is_image(path)]
    numbers = [path.split("/")[1].partition(".")[0] for path in images]
    for path, number in zip(images, numbers, strict=True):
        if not number.isdecimal() or path.count("/") != 2:
            raise ConfigError(
                "data.root: images of CUB-200-2011 lie in folders such as images/001.Black_footed_Albatross, but "
                f"there is {copy.files.named(path)}"
            )
    return [(path, int(number)) for path, number in zip(images, numbers, strict=True)]


def list_sop(config: SopConfig) -> Listing:
    """By Ebay_train.txt and Ebay_test.txt; with `lists=halves` by the classes' ids. A class is super-class/id."""
    copy = open_copy(config)
    lists = ("Ebay_train.txt", "Ebay_test.txt")
    rows: list[Row] = []
    super_class: dict[int, str] = {}
    folder: dict[str, str] = {}
    for path in lists:
        for class_id, column, place in _sop_lines(copy, path):
            trains = path == lists[0] if config.lists == "official" else class_id <= _SOP_HALF
            rows.append(Row(place, class_id, trains))
            super_class.setdefault(class_id, column)
            folder.setdefault(column, place.partition("/")[0])
    names = {class_id: f"{folder[column]}/{class_id}" for class_id, column in super_class.items()}
    return listing_of_copy(copy, rows, names, lists=lists, halves=config.lists == "halves")


def _sop_lines(copy: Copy, path: str) -> list[tuple[int, str, str]]:
    layout = "image_id class_id super_class_id path"
    header = layout.replace(" ", r"\s+")
    _, *rows = copy.lines(path, r"\d+\s+(\d+)\s+(\d+)\s+(\S+)", layout, headers=[header])
    return [(int(class_id), super_class, place) for class_id, super_class, place in rows]


def list_inshop(config: InShopConfig) -> Listing:
    """By Eval/list_eval_partition.txt. Test images are queries or of the gallery."""
    copy = open_copy(config)
    path = next(path for path in ("Eval/list_eval_partition.txt", "list_eval_partition.txt") if copy.has(path))
    (count,), _, *lines = copy.lines(
        path,
        r"img/(\S+)\s+id_(\d+)\s+(train|query|gallery)",
        "img/... id_<number> train, query or gallery",
        headers=[r"(\d+)", r"image_name\s+item_id\s+evaluation_status"],
    )
    if int(count) != len(lines):
        raise ConfigError(
            f"data.root: {copy.files.named(path)} says in its first line that it lists {int(count):,} images, but "
            f"lists {len(lines):,}; take it from a new copy"
        )
    folder = copy.folder("img", "Img/img")
    rows = [Row(f"{folder}/{name}", int(item), part == "train", _ROLES[part]) for name, item, part in lines]
    return listing_of_copy(copy, rows, {row.class_id: f"id_{row.class_id:08}" for row in rows}, lists=[path])


def list_vehicleid(config: VehicleIdConfig) -> Listing:
    """By train_list.txt and the union of the three test lists, which the listing names `small`, `medium`, `large`."""
    copy = open_copy(config)
    train = "train_test_split/train_list.txt"
    paths = {name: f"train_test_split/test_list_{count}.txt" for name, count in _TEST_LISTS.items()}
    parts = {name: _vehicles(copy, path) for name, path in paths.items()}
    tested: dict[str, int] = {}
    for part in parts.values():
        for place, vehicle in part.items():
            if tested.setdefault(place, vehicle) != vehicle:
                raise ConfigError(
                    f"data.root: {copy.files.named(place)} is of vehicle {tested[place]} in one test list and of "
                    f"{vehicle} in another; take them from a new copy"
                )
    rows = [Row(place, vehicle, True) for place, vehicle in _vehicles(copy, train).items()]
    rows += [Row(place, vehicle, False) for place, vehicle in tested.items()]
    names = {row.class_id: str(row.class_id) for row in rows}
    return listing_of_copy(copy, rows, names, lists=[train, *paths.values()], test_lists=parts)


def _vehicles(copy: Copy, path: str) -> dict[str, int]:
    vehicles = copy.keyed(path, r"(\w+)\s+(\d+)", "image_name vehicle_id")
    return {f"image/{name}.jpg": int(vehicle) for name, vehicle in vehicles.items()}

"""Copies of the published size: taken whole, refused with one image or class less. Nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.data.listing import Listing
from raydml.data.published import counted
from tests import image_trees
from tests.benchmark_cases import listed
from tests.image_trees import Drawn, Sizes


def spread(num_images: int, class_ids: Iterable[int]) -> dict[int, int]:
    """So many images over the classes, as evenly as possible."""
    ids = list(class_ids)
    return {class_id: num_images // len(ids) + (place < num_images % len(ids)) for place, class_id in enumerate(ids)}


CUB = spread(5864, range(1, 101)) | spread(5924, range(101, 201))
CARS = spread(8054, range(1, 99)) | spread(8131, range(99, 197))
SOP = spread(59551, range(1, 11319)) | spread(60502, range(11319, 22635))
# Ids of both sides are mixed.
INSHOP_TRAIN = spread(25882, range(1, 2 * 3997, 2))
QUERIES, GALLERY = (spread(size, range(2, 2 * 3985 + 1, 2)) for size in (14218, 12612))
VEHICLES = dict.fromkeys(range(1, 2 * 13164, 2), 1)
TESTED = dict.fromkeys(range(2, 2 * 2400 + 1, 2), 2)


def clothes(root: Path, *, link: Path) -> dict[str, Drawn]:
    pairs = {item: (QUERIES[item], GALLERY[item]) for item in QUERIES}
    return image_trees.make_inshop(root, INSHOP_TRAIN, pairs, link=link)


def vehicles(root: Path, train: Sizes = VEHICLES, *, link: Path) -> dict[str, Drawn]:
    lists = {size: range(2, 2 * size + 1, 2) for size in (800, 1600, 2400)}
    return image_trees.make_vehicleid(root, train, TESTED, lists, link=link)


@pytest.fixture
def link(tmp_path: Path) -> Path:
    image_trees.draw(tmp_path / "one.jpg", Drawn(1, 1))
    return tmp_path / "one.jpg"


def less(path: Path, is_gone: Callable[[str], bool]) -> None:
    """Leaves lines out of a list."""
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not is_gone(line)]
    assert len(kept) < len(lines)
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")


def counts_of(listing: Listing) -> Mapping[str, tuple[int | None, int | None]]:
    return {name: tuple(count) for name, count in counted(listing).items()}  # type: ignore[misc]


def refused(kind: str, root: Path, message: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^data\.root: .* as published: it has {message}; complete it, from .*=any$"
    ):
        listed(kind, root, counts="published")


@pytest.mark.parametrize("lists", [True, False])
def test_birds(lists: bool, tmp_path: Path, link: Path) -> None:
    root = tmp_path / "data"
    drawn = image_trees.make_cub200(root, CUB, lists=lists, link=link)
    assert counts_of(listed("cub200", root, counts="published")) == {"train": (5864, 100), "test": (5924, 100)}
    gone = [path for path, picture in drawn.items() if picture.class_id == 200]
    for path in gone if not lists else gone[:1]:
        (root / path).unlink()
    if lists:
        with pytest.raises(ConfigError, match=r"^data\.root: 1 of 11,788 images .* missing"):
            listed("cub200", root, counts="published")
        number = next(n for n, path in enumerate(drawn, start=1) if path == gone[0])
        for name in ("images.txt", "image_class_labels.txt"):
            less(root / name, lambda line: line.startswith(f"{number} "))
        refused("cub200", root, "11,787 images instead of 11,788, 5,923 test images instead of 5,924")
        assert len(listed("cub200", root).places) == 11_787
    else:
        refused("cub200", root, ".*, 5,865 test images instead of 5,924, 99 test classes instead of 100")


def test_the_size_of_the_older_birds_is_told(tmp_path: Path, link: Path) -> None:
    image_trees.make_cub200(tmp_path / "data", spread(6033, range(1, 201)), link=link)
    refused("cub200", tmp_path, ".*, the number of the older CUB-200 .2010.")


@pytest.mark.parametrize("letter", ["A", "B", "C"])
def test_cars(letter: str, tmp_path: Path, link: Path) -> None:
    assert letter in ("A", "B", "C")
    drawn = image_trees.make_cars196(tmp_path / "data", letter, CARS, link=link)  # type: ignore[arg-type]
    whole = listed("cars196", tmp_path / "data", counts="published")
    assert counts_of(whole) == {"train": (8054, 98), "test": (8131, 98)}
    if letter == "A":
        assert whole.places[8053:8055] == ("car_ims/008054.jpg", "car_ims/008055.jpg")
    if letter == "C":
        for half in ("train", "test"):
            less(tmp_path / "data" / f"anno_{half}.csv", lambda line: line.endswith(",196"))
        refused("cars196", tmp_path, ".*195 classes instead of 196, .* 97 test classes instead of 98")
    (tmp_path / "data" / next(iter(drawn))).unlink()
    with pytest.raises(ConfigError, match=r"^data\.root: 1 of 16,\d+ images .* missing, the first is .*; complete"):
        listed("cars196", tmp_path / "data", counts="published")


def test_products(tmp_path: Path, link: Path) -> None:
    root = tmp_path / "data"
    drawn = image_trees.make_sop(root, SOP, link=link)
    official = listed("sop", root, counts="published")
    assert counts_of(official) == {"train": (59551, 11318), "test": (60502, 11316)}
    halves = listed("sop", root, counts="published", lists="halves")
    assert [classes for _, classes in counts_of(halves).values()] == [11317, 11317]
    less(root / "Ebay_train.txt", lambda line: line.startswith("7 "))
    refused("sop", root, "120,052 images instead of 120,053, 59,550 train images instead of 59,551")
    less(root / "Ebay_test.txt", lambda line: " 22634 " in line)
    with pytest.raises(ConfigError, match=r"22,633 classes instead of 22,634, 11,316 test classes instead of 11,317;"):
        listed("sop", root, counts="published", lists="halves")
    (root / list(drawn)[100]).unlink()
    with pytest.raises(ConfigError, match=r"^data\.root: 1 of 120,\d+ images that Ebay_train\.txt and Ebay_test\.txt"):
        listed("sop", root)


def test_clothes(tmp_path: Path, link: Path) -> None:
    root = tmp_path / "data"
    clothes(root, link=link)
    expected = {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)}
    assert counts_of(listed("inshop", root, counts="published")) == expected
    path = root / "Eval" / "list_eval_partition.txt"
    less(path, lambda line: line.endswith("id_00000002 gallery"))
    text = path.read_text(encoding="utf-8")
    gone = 52_712 - text.count("img/")
    path.write_text(text.replace("52712", str(52_712 - gone)), encoding="utf-8")
    refused("inshop", root, ".*gallery images instead of 12,612, 3,984 gallery classes instead of 3,985")


def test_vehicles(tmp_path: Path, link: Path) -> None:
    root = tmp_path / "data"
    vehicles(root, link=link)
    classes = {name: classes for name, (_, classes) in counts_of(listed("vehicleid", root, counts="published")).items()}
    assert classes == {"train": 13164, "small": 800, "medium": 1600, "large": 2400}
    less(root / "train_test_split" / "test_list_1600.txt", lambda line: line.endswith(" 8"))
    refused("vehicleid", root, "1,599 medium classes instead of 1,600")
    less(root / "train_test_split" / "train_list.txt", lambda line: line.endswith(" 7"))
    refused("vehicleid", root, "13,163 train classes instead of 13,164, 1,599 medium classes instead of 1,600")

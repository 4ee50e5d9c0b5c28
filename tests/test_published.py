"""What is known of the benchmarks: numbers that agree with each other, and downloads taken for another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raydml.config import ConfigError
from raydml.data.files import Files
from raydml.data.published import BENCHMARKS, archive_of, homes, recognised, terms
from tests.benchmark_cases import LAYOUTS, listed
from tests.image_trees import make_cub200, make_cub200_2010, make_inshop, make_sop


def test_the_parts_add_up_to_the_whole() -> None:
    for kind in ("cub200", "cars196", "sop", "inshop"):
        benchmark = BENCHMARKS[kind]
        assert sum(part.images or 0 for part in benchmark.parts.values()) == benchmark.whole.images
        # Queries and gallery show the same classes.
        sides = [part.classes or 0 for name, part in benchmark.parts.items() if name != "gallery"]
        assert sum(sides) == benchmark.whole.classes
    assert BENCHMARKS["inshop"].parts["query"].classes == BENCHMARKS["inshop"].parts["gallery"].classes


def test_the_numbers_are_the_published_ones() -> None:
    assert BENCHMARKS["cub200"].parts == {"train": (5864, 100), "test": (5924, 100)}
    assert BENCHMARKS["cars196"].parts == {"train": (8054, 98), "test": (8131, 98)}
    assert BENCHMARKS["sop"].parts == {"train": (59551, 11318), "test": (60502, 11316)}
    assert BENCHMARKS["inshop"].parts["train"] == (25882, 3997)
    assert BENCHMARKS["inshop"].parts["query"] == (14218, 3985)
    assert BENCHMARKS["inshop"].parts["gallery"] == (12612, 3985)
    assert [part.classes for part in BENCHMARKS["vehicleid"].parts.values()] == [13164, 800, 1600, 2400]


def test_terms_are_those_of_every_benchmark() -> None:
    for kind, benchmark in BENCHMARKS.items():
        assert "research" in (terms(kind) or "")
        assert benchmark.source
    assert "RESTRICTED to non-commercial research" in (terms("inshop") or "")
    assert terms("folder") is None


def test_an_archive_is_known_by_its_md5() -> None:
    assert archive_of("97eceeb196236b17998738112f37df78") == ("cub200", "CUB_200_2011.tgz")
    assert archive_of("D5C8F0AA497503F355E17DC7886C3F14") == ("cars196", "car_ims.tgz")
    assert archive_of("b407c6086d669747186bd1d764ff9dbc") == ("cars196", "cars_annos.mat")
    assert archive_of("7f73d41a2f44250d4779881525aea32e") == ("sop", "Stanford_Online_Products.zip")
    assert archive_of("0" * 32) is None


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_by_its_files(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    layout.make(tmp_path / "some folder")
    assert recognised(Files(str(tmp_path / "some folder")).listed()) == layout.kind
    assert homes(Files(str(tmp_path)).listed()) == [(layout.kind, "some folder")]


def test_what_is_no_benchmark_is_not_recognised(tmp_path: Path) -> None:
    own = ("cats/1.jpg", "images.txt", "images/cats/1.jpg", "lists/train.txt", "xEbay_train.txt", "Ebay_info.txt")
    assert recognised(own) is None
    assert recognised(()) is None


def test_the_least_deep_of_several_is_taken() -> None:
    paths = ["a/b/Ebay_train.txt", "a/Eval/list_eval_partition.txt", "a/b/c/cars_annos.mat"]
    for ordered in (paths, paths[::-1]):
        assert homes(ordered) == [("inshop", "a"), ("sop", "a/b"), ("cars196", "a/b/c")]
        assert recognised(ordered) == "inshop"


@pytest.mark.parametrize("lists", [True, False])
def test_the_older_birds_are_not_the_newer_ones(lists: bool, tmp_path: Path) -> None:
    if lists:
        make_cub200_2010(tmp_path / "CUB_200")
    else:
        (tmp_path / "one").touch()
        make_cub200(tmp_path, {1: 6032, 101: 1}, lists=False, link=tmp_path / "one")
    assert recognised(Files(str(tmp_path)).listed()) == "cub200-2010"
    message = r"is the older CUB-200 \(2010\), not CUB-200-2011, which is had from data\.caltech\.edu"
    with pytest.raises(ConfigError, match=rf"^data\.root: {tmp_path} {message}"):
        listed("cub200", tmp_path)


def test_the_newer_birds_are_found_beside_the_older_ones(tmp_path: Path) -> None:
    make_cub200_2010(tmp_path / "CUB_200")
    drawn = make_cub200(tmp_path / "CUB_200_2011")
    (tmp_path / "CUB_200_2011" / "lists").mkdir()
    (tmp_path / "CUB_200_2011" / "lists" / "train.txt").touch()
    listing = listed("cub200", tmp_path)
    assert sorted(listing.places) == sorted(drawn)
    assert listing.encoded.named("images").endswith("CUB_200_2011/images")


def test_products_given_for_clothes_are_named(tmp_path: Path) -> None:
    make_sop(tmp_path)
    message = r"is Stanford Online Products, not In-shop Clothes Retrieval \(DeepFashion\): set data\.kind=sop$"
    with pytest.raises(ConfigError, match=rf"^data\.root: {tmp_path} {message}"):
        listed("inshop", tmp_path)


@pytest.mark.parametrize("name", ["cub200", "cars196 A", "cars196 B", "cars196 C", "sop", "inshop", "vehicleid"])
@pytest.mark.parametrize("asked", BENCHMARKS)
def test_another_benchmark_is_named(name: str, asked: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    layout.make(tmp_path)
    if asked == layout.kind:
        assert listed(asked, tmp_path).places
        return
    message = rf"is {wanted(layout.kind)}, not {wanted(asked)}: set data\.kind={layout.kind}$"
    with pytest.raises(ConfigError, match=rf"^data\.root: .* {message}"):
        listed(asked, tmp_path)


def wanted(kind: str) -> str:
    return BENCHMARKS[kind].name.replace("(", r"\(").replace(")", r"\)")


@pytest.mark.parametrize("kind", BENCHMARKS)
def test_a_folder_without_any_benchmark_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").touch()
    with pytest.raises(ConfigError, match=rf"^data\.root: no {wanted(kind)} in {tmp_path}: expected .*had from \w"):
        listed(kind, tmp_path)


@pytest.mark.parametrize("kind", BENCHMARKS)
def test_a_missing_root_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: no such folder: .*nowhere"):
        listed(kind, tmp_path / "nowhere")


def test_one_of_two_copies_has_to_be_named(tmp_path: Path) -> None:
    make_inshop(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ConfigError, match=r"^data\.root: .* \(DeepFashion\) 2 times, in a and b: name one of them$"):
        listed("inshop", tmp_path)
    (tmp_path / "b").rename(tmp_path / "a" / "b")
    assert listed("inshop", tmp_path).version == listed("inshop", tmp_path / "a").version


def test_folders_with_a_common_beginning_are_kept_apart(tmp_path: Path) -> None:
    make_cub200(tmp_path / "birds", {1: 2, 101: 2}, lists=False)
    (tmp_path / "birds2" / "images" / "x").mkdir(parents=True)
    (tmp_path / "birds2" / "images" / "x" / "1.jpg").touch()
    assert len(listed("cub200", tmp_path).places) == 4

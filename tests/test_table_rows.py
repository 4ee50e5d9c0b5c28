"""A user's own images in the rows of Parquet and Arrow files, or named by them."""

from __future__ import annotations

import json
import pickle
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from raydml.config import ConfigError
from raydml.data.arrow_images import ImageRows
from raydml.data.listing import GALLERY, Listing
from raydml.data.opening import open_images
from raydml.data.tables import list_parquet
from tests.image_tables import WRITERS, colour_of, parquet_config, pictures, table_of, write_images

IMAGES = pictures()
TABLE = table_of(IMAGES)


def listing_of(path: Path, table: pa.Table, **fields: object) -> Listing:
    pq.write_table(table, path, row_group_size=7)
    return list_parquet(parquet_config(path, **fields))


def with_column(name: str, values: object, table: pa.Table = TABLE) -> pa.Table:
    return table.drop_columns([name] if name in table.column_names else []).append_column(name, values)


def require_all(listing: Listing) -> None:
    """Every place holds the image of its row, here and in another process."""
    for encoded in (listing.encoded, pickle.loads(pickle.dumps(listing.encoded))):
        for label, place in zip(listing.labels, listing.places, strict=True):
            image = IMAGES[int(place.rpartition("#")[2])]
            assert listing.classes[label] == image.label
            assert encoded.read(place) == image.png()


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_holds_images(name: str, tmp_path: Path) -> None:
    WRITERS[name](TABLE, tmp_path / name)
    listing = list_parquet(parquet_config(tmp_path / name, cache=str(tmp_path / "cache")))
    assert listing.classes == tuple(f"c{c}" for c in range(10))
    assert listing.places[:4] == (f"{name}#0", f"{name}#10", f"{name}#20", f"{name}#1")
    assert listing.reading_order is not None
    assert [listing.places[place] for place in listing.reading_order] == [f"{name}#{row}" for row in range(30)]
    assert listing.encoded.named(f"{name}#12") == f"row 12 of {tmp_path / name}"
    require_all(listing)
    images = open_images(parquet_config(tmp_path / name, cache=str(tmp_path / "cache")), with_test=True)
    for source, pixels in zip(images.sources, images.images, strict=True):
        assert colour_of(pixels) == IMAGES[int(source.rpartition("#")[2])].colour


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view()])
def test_bytes_come_in_every_width(kind: pa.DataType, tmp_path: Path) -> None:
    table = with_column("image", TABLE.column("image").cast(kind))
    for name in ("rows.parquet", "rows.arrow", "rows.ipc"):
        WRITERS[name](table, tmp_path / name)
        require_all(list_parquet(parquet_config(tmp_path / name)))


def test_hugging_face_writes_structs_and_class_names(tmp_path: Path) -> None:
    structs = pa.array([{"bytes": image.png(), "path": f"{n}.png"} for n, image in enumerate(IMAGES)])
    features = {"label": {"names": [f"bird {9 - c}" for c in range(10)], "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": structs, "label": [int(image.label[-1]) for image in IMAGES]}).replace_schema_metadata(
        about
    )
    for name, write in WRITERS.items():
        write(table, tmp_path / name)
        listing = list_parquet(parquet_config(tmp_path / name))
        assert listing.classes == tuple(f"bird {c}" for c in range(10))
        assert listing.encoded.read(listing.places[0]) == IMAGES[9].png()
    for wrong in (10, -1):
        labels = pa.array([*[0] * 29, wrong])
        with pytest.raises(
            ConfigError, match=rf"^data\.root: row 29 of .* has label {wrong}, but there are 10 classes"
        ):
            listing_of(tmp_path / "wrong.parquet", with_column("label", labels, table).replace_schema_metadata(about))


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    labels = pa.array([int(image.label[-1]) + 7 for image in IMAGES], pa.int16())
    assert listing_of(tmp_path / "n.parquet", with_column("label", labels)).classes == tuple(map(str, range(7, 17)))
    words = labels.cast(pa.string()).dictionary_encode()
    listing = listing_of(tmp_path / "w.parquet", with_column("label", words))
    assert listing.classes == tuple(sorted(map(str, range(7, 17))))


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "rows" / "deep").mkdir(parents=True)
    (tmp_path / "rows" / "README.md").write_text("rows", "utf-8")
    pq.write_table(TABLE.slice(10, 20), tmp_path / "rows" / "deep" / "a.parquet")
    WRITERS["rows.arrow"](TABLE.slice(0, 10), tmp_path / "rows" / "b.arrow")
    listing = list_parquet(parquet_config(tmp_path / "rows"))
    assert listing.places[:3] == ("b.arrow#0", "deep/a.parquet#0", "deep/a.parquet#10")
    assert listing.encoded.read("deep/a.parquet#3") == IMAGES[13].png()
    assert listing.reading_order is not None
    pq.write_table(TABLE.slice(10, 19), tmp_path / "rows" / "deep" / "a.parquet")
    assert list_parquet(parquet_config(tmp_path / "rows")).version != listing.version


def test_splits_and_roles_are_columns(tmp_path: Path) -> None:
    splits = pa.array(["test" if image.label in ("c0", "c5") else "train" for image in IMAGES])
    table = with_column("split", splits)
    listing = listing_of(tmp_path / "s.parquet", table)
    assert (listing.num_training, listing.classes[8:]) == (8, ("c0", "c5"))
    roles = pa.array(["gallery" if split == "test" else None for split in splits.to_pylist()])
    listing = listing_of(tmp_path / "r.parquet", with_column("role", roles, table))
    assert listing.roles is not None
    assert listing.roles.tolist() == [0] * 24 + [GALLERY] * 6


def test_a_table_may_name_files_instead(tmp_path: Path) -> None:
    write_images(tmp_path, IMAGES)
    paths = pa.table({"path": [image.path for image in IMAGES], "label": TABLE.column("label")})
    listing = listing_of(tmp_path / "p.parquet", paths, decode="always")
    assert listing.places[:3] == ("images/c0/0.png", "images/c0/1.png", "images/c0/2.png")
    assert listing.encoded.read("images/c0/1.png") == IMAGES[10].png()
    (tmp_path / IMAGES[13].path).unlink()
    with pytest.raises(
        ConfigError, match=r"^data\.root: 1 of 30 images .* first in row 13 of .*p\.parquet: .*c3/1\.png"
    ):
        list_parquet(parquet_config(tmp_path / "p.parquet"))


@pytest.fixture
def measured() -> Iterator[pa.MemoryPool]:
    """What Arrow allocates during a test, at most."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(usual)


@pytest.mark.parametrize("name", WRITERS)
def test_listing_reads_no_image(name: str, tmp_path: Path, measured: pa.MemoryPool) -> None:
    heavy = pa.table({"image": [bytes(100_000)] * 100, "label": [f"c{n % 10}" for n in range(100)]})
    WRITERS[name](heavy, tmp_path / name)
    most = measured.max_memory()
    assert most > 1_000_000
    pa.set_memory_pool(fresh := pa.proxy_memory_pool(pa.system_memory_pool()))
    assert len(list_parquet(parquet_config(tmp_path / name)).places) == 100
    assert fresh.max_memory() < 200_000


def test_images_are_read_from_any_row_by_any_thread(tmp_path: Path) -> None:
    listing = listing_of(tmp_path / "t.parquet", TABLE)
    assert isinstance(listing.encoded, ImageRows)
    rows = [random.Random(seed).sample(range(30), 30) for seed in range(8)]
    start = threading.Barrier(8)

    def read(order: list[int]) -> bool:
        start.wait()
        return all(listing.encoded.read(f"t.parquet#{row}") == IMAGES[row].png() for row in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, rows))


def test_a_group_is_read_once_where_rows_come_in_order(tmp_path: Path) -> None:
    listing = listing_of(tmp_path / "o.parquet", TABLE)
    first = listing.encoded.read("o.parquet#0")
    (tmp_path / "o.parquet").write_bytes(b"")
    assert [listing.encoded.read(f"o.parquet#{row}") for row in range(7)] == [image.png() for image in IMAGES[:7]]
    assert first == IMAGES[0].png()


WRONG = {
    "no bytes": (
        with_column("image", pa.array(["text"] * 30)),
        "column image of .* must hold encoded .*, but is string",
    ),
    "no label": (TABLE.drop_columns(["label"]), "has no column label, but image"),
    "no path": (TABLE.drop_columns(["image"]), "has no column path, but label"),
    "fractions": (with_column("label", pa.array([0.5] * 30)), "column label of .* must hold strings, but is double"),
    "null": (with_column("label", pa.array([None, *["a"] * 29])), "row 0 of .*: label is empty"),
    "numbered split": (with_column("split", pa.array([0] * 30)), "column split of .* must hold strings, but is int64"),
    "few": (TABLE.filter(pa.compute.less(TABLE.column("label"), "c7")), "at least 8 classes .*, but holds 7"),
    "empty": (TABLE.slice(0, 0), "has no row"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_named(name: str, tmp_path: Path) -> None:
    table, message = WRONG[name]
    with pytest.raises(ConfigError, match=rf"^data\.root: .*{message}"):
        listing_of(tmp_path / "rows.parquet", table)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_no_such_file_is_named(name: str, tmp_path: Path) -> None:
    WRITERS[name](TABLE, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for broken in (b"", b"<html>", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(ConfigError, match=rf"^data\.root: .*{name} cannot be read: ") as error:
            list_parquet(parquet_config(tmp_path / name))
        assert "\n" not in str(error.value)


def test_files_that_differ_are_named(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(with_column("label", pa.array(range(30))), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"b\.parquet has the columns .* numbers, but .*a\.parquet .* words"):
        list_parquet(parquet_config(tmp_path))
    pq.write_table(with_column("split", pa.array(["train"] * 30)), tmp_path / "b.parquet")
    with pytest.raises(
        ConfigError, match=r"b\.parquet has the columns label, split, image .*a\.parquet has label, image"
    ):
        list_parquet(parquet_config(tmp_path))


def test_no_table_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: .* must be or hold files \.arrow, \.feather"):
        list_parquet(parquet_config(tmp_path))
    with pytest.raises(ConfigError, match=r"^data\.root: no such folder: .*none"):
        list_parquet(parquet_config(tmp_path / "none"))


def test_a_row_without_bytes_is_named(tmp_path: Path) -> None:
    images = [None if row == 17 else image.png() for row, image in enumerate(IMAGES)]
    listing_of(tmp_path / "gap.parquet", with_column("image", pa.array(images, pa.binary())))
    config = parquet_config(tmp_path / "gap.parquet", cache=str(tmp_path / "cache"))
    with pytest.raises(
        ConfigError, match=r"^data\.root: row 17 of .*gap\.parquet is no readable image: .* holds no bytes"
    ):
        open_images(config)


def test_random_order_needs_rows_that_are_quick_to_read(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(TABLE, tmp_path / name)
    for name, reason in (("rows.parquet", "whole row group"), ("rows.feather", "compressed Arrow")):
        with pytest.raises(ConfigError, match=rf"^data\.decode: always .*{reason}.*{name}; use decode=once"):
            list_parquet(parquet_config(tmp_path / name, decode="always"))
    for name in ("rows.arrow", "rows.ipc"):
        require_all(list_parquet(parquet_config(tmp_path / name, decode="always")))


def test_groups_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydml.data.arrow_images._LARGEST_GROUP", 1000)
    pq.write_table(TABLE, tmp_path / "large.parquet")
    with pytest.raises(ConfigError, match=r"^data\.root: .*large\.parquet .* row group 0 holds .*row_group_size=100"):
        list_parquet(parquet_config(tmp_path / "large.parquet"))
    pq.write_table(TABLE, tmp_path / "large.parquet", row_group_size=5)
    assert len(list_parquet(parquet_config(tmp_path / "large.parquet")).places) == 30


def test_many_files_are_not_all_kept_open(tmp_path: Path) -> None:
    for row in range(40):
        feather.write_feather(TABLE.slice(row % 30, 1), tmp_path / f"{row:02}.feather", compression="uncompressed")
    listing = list_parquet(parquet_config(tmp_path, decode="always"))
    for _ in range(2):
        for place in listing.places:
            assert listing.encoded.read(place) == IMAGES[int(place[:2]) % 30].png()

"""Blocks of embeddings on disk: what is there is kept, what is missing or damaged is made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydml.block_folder import BlockFolder, Unreadable
from raydml.config import ConfigError
from raydml.data.output import Output

ABOUT: dict[str, object] = {"checkpoint": "abc", "num_images": 10}


def begin(place: Path | str, *, batch_size: int = 4, anew: bool = False, **about: object) -> BlockFolder:
    return BlockFolder(Output(str(place)), ABOUT | about, batch_size=batch_size, anew=anew)


def table(folder: BlockFolder, number: int, *, without: int = 0) -> pa.Table:
    return pa.table({"index": folder.positions(number)[without:]})


def fill(folder: BlockFolder) -> None:
    for number in folder.missing:
        folder.write(number, table(folder, number), [])


def test_images_that_were_mended_before_anything_was_embedded_are_not_refused(tmp_path: Path) -> None:
    begin(tmp_path / "e")
    again = begin(tmp_path / "e", num_images=3)
    assert again.missing == [0]
    fill(again)
    assert begin(tmp_path / "e", num_images=3).num_done == 3


def test_files_of_somebody_else_are_not_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "part-000000.parquet"
    pq.write_table(pa.table({"a": [1]}), theirs)
    with pytest.raises(ConfigError, match=f"^out: {tmp_path} holds Parquet files of something else: give out="):
        begin(tmp_path)
    assert pq.read_table(theirs).column_names == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == [theirs.name]


@pytest.mark.parametrize("uri", [False, True])
def test_the_next_process_goes_on_with_what_is_missing(tmp_path: Path, *, uri: bool) -> None:
    place = tmp_path.as_uri() + "/e" if uri else str(tmp_path / "e")
    first = begin(place)
    assert first.missing == [0, 1, 2]
    assert [first.positions(number).tolist() for number in first.missing] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    first.write(2, table(first, 2), [])
    first.write(0, table(first, 0, without=1), [Unreadable(0, "it is empty")])
    # Another size of batches is no reason to begin again.
    second = begin(place, batch_size=3)
    assert (second.missing, second.num_done, second.complete) == ([1], 6, False)
    assert second.unreadable == [Unreadable(0, "it is empty")]
    fill(second)
    second.finish({"count": 9})
    assert [part["index"].to_pylist() for part in second.tables()] == [[1, 2, 3], [4, 5, 6, 7], [8, 9]]
    third = begin(place)
    assert (third.missing, third.num_done, third.complete) == ([], 10, True)
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [
        "embeddings.json",
        *(f"part-00000{number}.parquet" for number in range(3)),
    ]
    said = json.loads((tmp_path / "e" / "embeddings.json").read_text(encoding="utf-8"))
    assert said == ABOUT | {"count": 9, "complete": True, "images_per_block": 4}


def test_damaged_and_shortened_parts_are_missing(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    fill(folder)
    folder.finish({})
    (tmp_path / "part-000000.parquet").write_bytes(b"PAR1")
    pq.write_table(table(folder, 1), tmp_path / "part-000001.parquet")  # by somebody else: it says nothing
    short = pq.read_table(tmp_path / "part-000002.parquet")
    pq.write_table(short.slice(1), tmp_path / "part-000002.parquet")
    again = begin(tmp_path)
    assert again.missing == [0, 1, 2]
    assert not again.complete


def test_something_else_is_refused_or_removed(tmp_path: Path) -> None:
    fill(begin(tmp_path / "e"))
    with pytest.raises(ConfigError) as error:
        begin(tmp_path / "e", checkpoint="def")
    assert str(error.value) == (
        f"out: {tmp_path / 'e'} holds embeddings by another model; remove that folder, or embed into another one: "
        "python -m raydml.embed takes out=FOLDER"
    )
    with pytest.raises(ConfigError, match="holds embeddings with another num_images: 10, and now it is 11;"):
        begin(tmp_path / "e", num_images=11)
    assert begin(tmp_path / "e").missing == [], "nothing was touched"
    assert begin(tmp_path / "e", anew=True).missing == []
    assert begin(tmp_path / "e", checkpoint="def", anew=True).missing == [0, 1, 2]
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["embeddings.json"]


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_description_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "embeddings.json").write_text(content)
    with pytest.raises(ConfigError, match=r"embeddings\.json: is no description of embeddings"):
        begin(tmp_path)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "size"), [(1, 256, 256), (60_502, 256, 256), (10**6, 256, 1000), (10**8, 256, 16384)]
)
def test_blocks_are_neither_many_nor_huge(tmp_path: Path, num_images: int, batch_size: int, size: int) -> None:
    folder = begin(tmp_path, batch_size=batch_size, num_images=num_images)
    assert len(folder.positions(0)) == min(size, num_images)
    assert folder.positions(folder.missing[-1])[-1] == num_images - 1


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "a" / "b"))
    assert output.names() == []
    assert output.read("x") is None
    output.write("x", b"1")
    output.write("x", b"22")
    (tmp_path / "a" / "b" / ".y.1.part").write_bytes(b"half")
    assert output.names() == ["x"]
    assert output.read("x") == b"22"
    output.remove()
    assert not (tmp_path / "a" / "b").exists()
    output.remove()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"out: .*file/e cannot be written or read: "):
        Output(str(tmp_path / "file" / "e")).write("x", b"")
    with pytest.raises(ConfigError, match="out: must hold no credentials"):
        Output("s3://key:secret@bucket/e")


def test_rows_stay_as_they_are(tmp_path: Path) -> None:
    folder = begin(tmp_path, num_images=2)
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 2)
    folder.write(0, pa.table({"embedding": column}), [])
    [found] = folder.tables()
    assert found["embedding"].to_pylist() == rows.tolist()
    assert pq.read_schema(tmp_path / "part-000000.parquet").field("embedding").type == pa.list_(pa.float32(), 2)

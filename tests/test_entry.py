"""Entries and their files: Arrow around pixels that are written later, checksums block by block, seals."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raydml.data import entry
from raydml.data.cache import Decoded, open_entry, open_or_build
from raydml.data.journal import FinishedBlock, Journal
from raydml.data.pixel_file import PixelFile, block_checksums, checksums_of, layout_of, read_checksums

SHAPE = (600, 3, 5, 2)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 3, 1), (7, 5, 4, 3), SHAPE])
def test_the_file_is_what_arrow_writes(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Byte for byte, for pixels that were in memory."""
    pixels = PIXELS.ravel()[: int(np.prod(shape))].reshape(shape)
    width = int(np.prod(shape[1:]))
    rows = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), shape[0], [None, pa.py_buffer(pixels.tobytes())])
    batch = pa.record_batch([rows], names=["image"])
    with pa.OSFile(str(tmp_path / "whole"), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    with PixelFile(tmp_path / "parts", shape) as parts:
        for position in np.random.default_rng(1).permutation(shape[0]):
            parts.write(np.array([position]), pixels[position : position + 1])
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_file_larger_than_memory_is_laid_out_without_any() -> None:
    layout = layout_of((50_000_000, 256, 256, 3))
    assert layout.num_bytes > 50_000_000 * 196_608
    assert sum(len(content) for _, content in layout.frame) < 2000


def test_rows_go_to_their_places_in_any_grouping(tmp_path: Path) -> None:
    order = np.concatenate([np.arange(100, 200), np.random.default_rng(2).permutation(100), np.arange(200, 600)])
    with PixelFile(tmp_path / "file", SHAPE) as file:
        for part in np.array_split(order, 7):
            file.write(part, PIXELS[part])
        assert np.array_equal(file.checksums(order), checksums_of(PIXELS)[order])
    assert np.array_equal(read_checksums(tmp_path / "file", SHAPE, start=layout_of(SHAPE).start), checksums_of(PIXELS))


def test_checksums_are_crc32() -> None:
    rows = [zlib.crc32(row.tobytes()) for row in PIXELS]
    assert checksums_of(PIXELS).tolist() == rows
    wanted = [
        zlib.crc32(b"".join(row.to_bytes(4, "little") for row in rows[start : start + 256])) for start in (0, 256, 512)
    ]
    assert block_checksums(checksums_of(PIXELS), 256) == wanted


def made(cache: Path) -> Path:
    labels = np.repeat(np.arange(6), 100)
    decoded = Decoded(PIXELS, labels, tuple("abcdef"), [str(number) for number in range(600)])
    open_or_build(cache, "f00d", name="test", synthetic=True, build=lambda: decoded)
    return cache / "f00d"


@pytest.mark.parametrize(("row", "block"), [(0, 0), (255, 0), (256, 1), (511, 1), (599, 2)])
def test_a_flipped_bit_is_found_in_its_block(row: int, block: int, tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert entry.verify(folder) == []
    content = bytearray((folder / "images.arrow").read_bytes())
    content[content.index(PIXELS[row].tobytes()) + 29] ^= 128
    (folder / "images.arrow").write_bytes(content)
    assert entry.verify(folder) == [block]


def test_what_was_cut_off_is_damaged(tmp_path: Path) -> None:
    folder = made(tmp_path)
    os.truncate(folder / "images.arrow", layout_of(SHAPE).start + 300 * 30)
    assert entry.verify(folder) == [1, 2]


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"shape": [1]}'])
def test_where_there_is_nothing_to_verify(content: str | None, tmp_path: Path) -> None:
    folder = made(tmp_path)
    if content is None:
        (folder / "meta.json").unlink()
    else:
        (folder / "meta.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{folder}: no whole entry of the cache: "):
        entry.verify(folder)
    assert open_entry(folder) is None


@pytest.mark.parametrize(
    ("name", "value"), [("sizes", [599, 1, 0, 0, 0, 0]), ("num_training", 5), ("classes", list("abcdeg"))]
)
def test_another_split_or_class_is_noticed(name: str, value: object, tmp_path: Path) -> None:
    folder = made(tmp_path)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert entry.sealed(meta) == meta
    (folder / "meta.json").write_text(json.dumps(meta | {name: value}), encoding="utf-8")
    assert entry.read(folder) is None


def test_an_entry_bears_its_own_name(tmp_path: Path) -> None:
    """What a shared folder has under another name would be other images."""
    folder = made(tmp_path)
    assert open_entry(folder.rename(tmp_path / "beef")) is None


def test_a_line_of_the_journal_that_changed_is_ignored(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for block in range(2):
        journal.append(FinishedBlock(block, checksums_of(PIXELS[:2]), [b"\x11" * 16, b"\x22" * 16], 7))
    journal.close()
    assert Journal(tmp_path / "journal").blocks[1].digests == [b"\x11" * 16, b"\x22" * 16]
    content = (tmp_path / "journal").read_bytes()
    last = content.rindex(b"2222")
    (tmp_path / "journal").write_bytes(content[:last] + b"3" + content[last + 1 :])
    assert list(Journal(tmp_path / "journal").blocks) == [0]

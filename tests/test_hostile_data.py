"""Tables, images and places that somebody else named, to do harm: refused in one line."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import EpsImagePlugin, Image

from raydml import cli
from raydml.config import ConfigError, EmbedOptions, EvaluateOptions, ReportOptions
from raydml.config.grammar import validate
from raydml.data.decoding import UnreadableImageError, decode_image
from raydml.data.files import Files
from raydml.data.places import Places
from raydml.data.rows import Row, Table
from raydml.data.tables import Described, looked_up
from raydml.query_galleries import holds_embeddings
from raydml.runs import resolve
from raydml.space import Study
from raydml.stored import open_stored


class FarFiles(Files):
    """A folder of a store: what decides is that it is none of this machine's."""

    @property
    def is_local(self) -> bool:
        return False


REMOTE = FarFiles("s3://bucket/tables")
MAY = ("a.png", "images/a.png", "s3://bucket/a.png", "s3://other/a.png", "gs://b/a.png", "..a/b")
MAY_NOT = ("/etc/passwd", "../a.png", "..", "file:///etc/passwd", "FILE:///x", "s3://b/a?endpoint_override=h:1", "a\0b")


def test_a_table_of_a_store_names_what_lies_in_stores() -> None:
    places = Places(REMOTE, table=REMOTE)
    assert [place for place in MAY if places.refused(place)] == []
    assert [place for place in MAY_NOT if not places.refused(place)] == []


def test_with_a_folder_of_images_it_names_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    places = Places(Files(str(tmp_path), field="data.images"), table=REMOTE)
    assert places.read(str(tmp_path / "a.png")) == places.read("a.png") == b"1"
    for place in ("/etc/passwd", f"{tmp_path}2/a.png", str(tmp_path.parent), "../x"):
        assert places.refused(place)
        with pytest.raises(OSError, match="must lie below"):
            places.read(place)


def test_a_table_of_this_machine_names_any_file_of_it(tmp_path: Path) -> None:
    places = Places(Files(str(tmp_path)), table=Files(str(tmp_path)))
    assert [place for place in (*MAY, *MAY_NOT) if places.refused(place)] == ["a\0b"]


def test_the_row_is_named() -> None:
    table = Table("a.csv", [Row("/etc/passwd", "c", "", "", "", 7)], {}, lambda row: f"line {row.number} of a.csv")
    with pytest.raises(ConfigError, match=r"^data\.root: path in line 7 of a\.csv must lie below s3://bucket/tables"):
        looked_up(Described(table, Places(REMOTE, table=REMOTE), {}))


def test_an_error_is_one_line_of_plain_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that others chose may hold what steers a terminal."""
    assert cli.main(["tune", "\x1b]0;owned\x07\x1b[2J.yaml"]) == 2
    assert capsys.readouterr().err == "error: \\x1b]0;owned\\x07\\x1b[2J.yaml: no such file\n"


# Images


def png_of(width: int, height: int) -> bytes:
    """A file of some bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_header_that_claims_too_much_takes_no_memory() -> None:
    with pytest.raises(UnreadableImageError, match="it has 3600 million pixels, more than Pillow decodes"):
        decode_image(png_of(60_000, 60_000), 64)
    with pytest.raises(UnreadableImageError):
        decode_image(png_of(2**31 - 1, 2**31 - 1), 64)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) (w) file\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("data", [POSTSCRIPT, b"\xc5\xd0\xd3\xc6" + b"\0" * 40])
def test_postscript_starts_no_other_program(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand it to Ghostscript: it opens whatever begins so."""
    started: list[object] = []

    def run(*given: object, **_: object) -> object:
        started.append(given)
        return Image.new("RGB", (10, 10)).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    with pytest.raises(UnreadableImageError, match=r"^it is PostScript, which is a program$"):
        decode_image(data, 16)
    assert not started
    if data is POSTSCRIPT:
        Image.open(io.BytesIO(data)).load()
        assert started


# Credentials


PLACE = "s3://AKIA:secret@bucket/a"


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", PLACE],
        ["evaluate", ".", "--query", PLACE],
        ["evaluate", ".", "--query", "x", "--among", PLACE],
        ["evaluate", ".", f"storage={PLACE}"],
        ["embed", PLACE, "x"],
        ["embed", ".", PLACE],
        ["embed", ".", "x", f"out={PLACE}"],
        ["export", PLACE],
        ["export", ".", f"out={PLACE}"],
        ["report", PLACE],
        ["report", ".", f"out={PLACE}"],
        ["tune", PLACE],
        ["tune", "STUDY", f"storage={PLACE}"],
        ["tune", "STUDY", f"search.warm_start=['{PLACE}']"],
        ["train", "STUDY", f"storage={PLACE}"],
        ["data", "check", ".", f"out={PLACE}"],
    ],
    ids=" ".join,
)
def test_no_command_repeats_credentials(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps({"space": {"loss.margin": {"low": 0, "high": 1}}}), encoding="utf-8")
    assert cli.main([str(study) if word == "STUDY" else word for word in argv]) == 2
    captured = capsys.readouterr()
    assert "must hold no credentials, but got s3://...@bucket/a: put credentials into the environment" in captured.err
    assert "AKIA" not in captured.out + captured.err
    assert "secret@" not in captured.out + captured.err


def test_no_function_takes_them_either(tmp_path: Path) -> None:
    calls = (
        lambda: validate(Study, {"name": "s", "storage": PLACE}),
        lambda: validate(Study, {"name": "s", "search": {"warm_start": [PLACE]}}),
        lambda: validate(EvaluateOptions, {"storage": PLACE}),
        lambda: validate(EmbedOptions, {"out": PLACE}),
        lambda: validate(ReportOptions, {"storage": PLACE}),
        lambda: resolve(PLACE),
        lambda: open_stored(PLACE),
        lambda: holds_embeddings(PLACE),
    )
    for call in calls:
        with pytest.raises(ConfigError, match="must hold no credentials") as error:
            call()
        assert "AKIA" not in str(error.value)


# Embeddings of others


def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from raydml.stored import read_rows

    rows = pa.table({"label": [0, 1], "embedding": [[1.0, 0.0], [float("nan"), 1.0]]})
    pq.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="embeddings must be finite"):
        read_rows(open_stored(tmp_path / "a.parquet"), np.arange(2))

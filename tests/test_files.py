"""Files below a root, whatever it and they are called; and what is said where a store does not answer."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from raydml.config import ConfigError
from raydml.data.files import Files, Root, SilentStoreError
from raydml.data.places import Places, place_of

NAMES = ("plain.jpg", "a b.jpg", "50%20 off#1?.jpg", "\u00fcml\u00e4ut \u2603.jpg", "deep/er/+&=,;@!.jpg")


@pytest.fixture(params=["plain", "a b", "c%20d#1", "\u00fc&+=?x"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of any name, with files of any name that hold their own."""
    folder = tmp_path / str(request.param)
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def require_all(files: Files) -> None:
    assert list(files.listed()) == sorted(NAMES)
    for name, stamp in files.listed().items():
        assert files.read(name).decode() == name
        assert stamp == files.stamp(name)
        assert stamp.num_bytes == len(name.encode())
    assert files.stamps([*NAMES, "none.jpg", "none/none.jpg"]) == files.listed()
    assert (files.kind(), files.kind("deep"), files.kind(NAMES[2]), files.kind("none")) == (
        *("folder", "folder", "file", "absent"),
    )


def test_every_name_is_found_below_a_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_all(Files(str(root)))
    require_all(Files(f"{root}/"))
    monkeypatch.chdir(root.parent)
    require_all(Files(root.name))
    monkeypatch.setenv("HOME", str(root.parent))
    require_all(Files(f"~/{root.name}"))


def test_every_name_is_found_below_a_uri(root: Path) -> None:
    require_all(Files(root.as_uri()))
    require_all(pickle.loads(pickle.dumps(Files(f"{root.as_uri()}/"))))
    if "?" not in root.name and "%" not in root.name:
        require_all(Files(f"file://{root}"))


def test_a_percent_sign_that_escapes_nothing_is_one(tmp_path: Path) -> None:
    (tmp_path / "100% off").mkdir()
    (tmp_path / "100% off" / "a.jpg").touch()
    for name in ("100% off", "100%25 off", "100%25%20off"):
        assert list(Files(f"file://{tmp_path}/{name}").listed()) == ["a.jpg"]


def test_a_root_and_folders_may_be_links(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    require_all(Files(str(link)))
    (root / "deep").rename(tmp_path / "away")
    (root / "deep").symlink_to(tmp_path / "away")
    require_all(Files(str(link)))
    (root / "broken").symlink_to(tmp_path / "nowhere")
    require_all(Files(str(link)))


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"caf\xe9/a.jpg"])
def test_a_name_that_is_no_utf8_is_named(tmp_path: Path, name: bytes) -> None:
    """As old archives have them."""
    path = Path(os.fsdecode(os.fsencode(tmp_path / "root") + b"/" + name))
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(ConfigError, match=r"holds a name that is no UTF-8: .*caf\\xe9"):
        Files(str(tmp_path / "root")).listed()


def test_a_link_that_leads_back_is_named(root: Path) -> None:
    (root / "deep" / "back").symlink_to(root)
    with pytest.raises(ConfigError, match=r"^data\.root: the link .*deep/back leads back to a folder above it: remove"):
        Files(str(root)).listed()


def test_two_links_to_one_folder_are_no_circle(root: Path) -> None:
    (root / "twin").symlink_to(root / "deep")
    assert set(Files(str(root)).listed()) == {*NAMES, "twin/er/+&=,;@!.jpg"}


def test_folder_and_name_lead_back(root: Path) -> None:
    for whole in (str(root / NAMES[1]), (root / NAMES[1]).as_uri(), (root / NAMES[2]).as_uri()):
        folder, name = Files(whole, field="data.images").folder_and_name()
        assert folder.field == "data.images"
        assert folder.read(name) == Files(whole).read()
        assert folder.stamp(name) == Files(whole).stamp()
        assert name in NAMES


def test_a_relative_file_has_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    folder, name = Files("plain.jpg").folder_and_name()
    assert (folder.root, name) == (str(root), "plain.jpg")


def test_the_root_of_all_files_is_a_folder(root: Path) -> None:
    files = Files("/")
    assert files.kind() == "folder"
    assert files.read(str(root / "plain.jpg")[1:]) == b"plain.jpg"
    assert list(files.stamps([str(root / "plain.jpg")[1:]])) == [str(root / "plain.jpg")[1:]]


@pytest.mark.parametrize(
    ("root", "parts"),
    [
        ("a/b?c", ("", "a/b?c", "")),
        ("s3://bucket", ("s3://bucket", "", "")),
        ("s3://bucket/a b/c?region=x&scheme=http", ("s3://bucket", "/a b/c", "?region=x&scheme=http")),
        ("s3://key:secret@bucket/a?b", ("s3://key:secret@bucket", "/a", "?b")),
        ("fsspec+memory://x", ("fsspec+memory://x", "", "")),
        ("file:///a", ("file://", "/a", "")),
    ],
)
def test_a_uri_has_parts(root: str, parts: tuple[str, str, str]) -> None:
    assert Root.of(root) == parts
    assert str(Root.of(root)) == root


def test_a_name_shows_no_secret_and_no_options() -> None:
    files = Files("s3://key:secret@bucket/a?region=us-east-1")
    assert files.named("b c.jpg") == "s3://bucket/a/b c.jpg"
    assert files.named() == "s3://bucket/a"


def test_any_file_system_of_pyarrow_opens(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe({f"/set/{name}": name.encode() for name in NAMES[:2]})
    files = Files("fsspec+memory://set")
    assert list(files.listed()) == sorted(NAMES[:2])
    assert files.read("a b.jpg") == b"a b.jpg"
    assert not files.is_local
    assert set(files.stamps([*NAMES[:3]])) == set(NAMES[:2])


def test_places_are_relative_absolute_or_uris(root: Path, tmp_path: Path) -> None:
    places = Places(Files(str(root)), table=Files(str(root)))
    others = [str(root / NAMES[2]), (root / NAMES[3]).as_uri(), f"file://{root.parent}/none.jpg"]
    assert set(places.stamps([*NAMES, *others, "none.jpg"])) == {*NAMES, *others[:2]}
    for place, name in [*((name, name) for name in NAMES), *zip(others[:2], NAMES[2:4], strict=True)]:
        for encoded in (places, pickle.loads(pickle.dumps(places))):
            assert encoded.read(place).decode() == name
            assert Path(encoded.named(place).removeprefix("file://")) == root / name


def test_two_spellings_are_one_place() -> None:
    assert place_of("./a//b/../c.jpg") == "a/c.jpg"
    assert place_of("s3://a//b/../c.jpg") == "s3://a//b/../c.jpg"


@pytest.fixture
def mute() -> Iterator[str]:
    """A host that takes calls and says nothing."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        listening.listen(50)
        yield f"localhost:{listening.getsockname()[1]}"


def refused(root: str, field: str = "data.cache", kind: type[ConfigError] = ConfigError) -> str:
    started = time.monotonic()
    with pytest.raises(kind) as error:
        Files(root, field=field).kind()
    assert time.monotonic() - started < 60
    text = str(error.value)
    assert text.startswith(f"{field}: ")
    assert "\n" not in text
    return text


def test_what_pyarrow_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        Files("nope://x").kind()
    assert not isinstance(error.value, SilentStoreError), "to ask again is no use"
    assert "nope://x does not answer: Unrecognized filesystem type" in refused("nope://x")
    assert "Unexpected query parameter in S3 URI: 'colour'" in refused("s3://bucket/a?colour=red&region=us-east-1")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_host_that_refuses_is_named_soon(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydml.data.files._SILENCE_S", 0.5)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.socket() as closed:
        closed.bind(("localhost", 0))
        port = closed.getsockname()[1]
    user = "anonymous@" if scheme == "gs" else ""
    text = refused(f"{scheme}://{user}bucket/a?endpoint_override=localhost:{port}&scheme=http", kind=SilentStoreError)
    assert f"{scheme}://bucket/a does not answer" in text


def test_a_mute_host_is_named_soon(mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydml.data.files._SILENCE_S", 1.0)
    monkeypatch.setattr("raydml.data.files._ATTEMPTS", 2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    text = refused(f"s3://bucket/a?endpoint_override={mute}&scheme=http", kind=SilentStoreError)
    assert "s3://bucket/a does not answer" in text


def test_the_limits_are_those_of_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, path = Files("s3://key:secret@bucket/a%20b/c d#1?region=eu-west-1")._opened
    assert isinstance(filesystem, fs.S3FileSystem)
    assert path == "bucket/a b/c d#1"
    assert filesystem.region == "eu-west-1"
    _, (options,) = filesystem.__reduce__()
    assert (options["connect_timeout"], options["request_timeout"]) == (3.0, 5.0)
    assert (options["access_key"], options["secret_key"]) == ("key", "secret")
    google, path = Files("gs://anonymous@bucket/a b")._opened
    assert path == "bucket/a b"
    assert google.__reduce__()[1][0]["retry_time_limit"].total_seconds() == 15
    google, _ = Files("gs://anonymous@bucket/a?retry_limit_seconds=7")._opened
    assert google.__reduce__()[1][0]["retry_time_limit"].total_seconds() == 7


def test_errors_name_the_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.images: no such folder: .*none"):
        Files(str(tmp_path / "none"), field="data.images").listed()
    with pytest.raises(ConfigError, match=r"^data\.images: no such file: .*none/a\.csv"):
        pickle.loads(pickle.dumps(Files(str(tmp_path / "none"), field="data.images"))).stamp("a.csv")
    with pytest.raises(ConfigError, match=r"^data\.cache: .*none cannot be read: "):
        Files(str(tmp_path / "none"), field="data.cache").text()
    with pytest.raises(OSError, match="none"):
        Files(str(tmp_path)).read("none")


def test_what_is_mapped_is_what_is_read(root: Path) -> None:
    files = Files(str(root))
    mapped = files.mapped("plain.jpg")
    assert isinstance(mapped, pa.Buffer)
    assert mapped.to_pybytes() == b"plain.jpg"
    with files.opened("plain.jpg") as file:
        assert file.read() == b"plain.jpg"

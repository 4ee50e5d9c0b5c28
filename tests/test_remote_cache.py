"""Nodes that share a cache by a URI: one decodes, the others copy once, and nobody opens what was not checked."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from raydml.config import ConfigError
from raydml.data.cache import ImageSet, default_cache
from raydml.data.opening import cache_folder, open_images
from tests.photo_cases import Counting, config_of, make_folder, photos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


class Node:
    """A machine with a cache of its own, that has decoded `counting.decoded` images."""

    def __init__(self, root: Path, shared: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.counting = home, Counting()
        self._config, self._monkeypatch = config_of(root, shared.as_uri()), monkeypatch

    def open(self, known: str | None = None) -> ImageSet:
        self._monkeypatch.setenv("XDG_CACHE_HOME", str(self.home))
        images = open_images(self._config, with_test=True, known=known, decode=self.counting)
        assert np.array_equal(images.images, photos())
        return images

    @property
    def cache(self) -> Path:
        return self.home / "raydml" / "images"


@pytest.fixture
def nodes(root: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    return [Node(root, shared, tmp_path / f"node{number}", monkeypatch) for number in range(3)]


def test_one_node_decodes_and_the_others_copy(nodes: list[Node], shared: Path) -> None:
    known = nodes[0].open().fingerprint
    assert nodes[0].counting.decoded == 40
    nodes[1].open()
    nodes[2].open(known)
    assert [node.counting.decoded for node in nodes] == [40, 0, 0]
    for node in nodes:
        for name in ("images.arrow", "index.parquet", "meta.json"):
            assert (node.cache / known / name).read_bytes() == (shared / known / name).read_bytes()
        assert not list(node.cache.glob(".*.copy"))
    shutil.rmtree(shared / known)
    for node in nodes[1:]:
        node.open(known)
    assert nodes[1].counting.decoded == 0, "what a node has it does not ask for again"


def test_a_node_without_the_photographs_needs_only_the_fingerprint(nodes: list[Node], root: Path) -> None:
    known = nodes[0].open().fingerprint
    shutil.rmtree(root)
    nodes[1].open(known)


def test_a_copied_listing_is_known_without_the_remote(nodes: list[Node], shared: Path) -> None:
    nodes[0].open()
    nodes[1].open()
    assert list((nodes[1].cache / "sources").glob("*.json"))
    shutil.rmtree(shared)
    nodes[1].open()
    assert nodes[1].counting.decoded == 0


@pytest.mark.parametrize("missing", ["meta.json", "images.arrow", "index.parquet"])
def test_half_an_upload_is_no_entry(missing: str, nodes: list[Node], shared: Path) -> None:
    known = nodes[0].open().fingerprint
    (shared / known / missing).unlink()
    nodes[1].open(known)
    assert nodes[1].counting.decoded == 40
    nodes[2].open(known)
    assert nodes[2].counting.decoded == 0, "the second one has mended it"


@pytest.mark.parametrize("name", ["images.arrow", "index.parquet", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_copy_is_not_opened(
    damage: str, name: str, nodes: list[Node], shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = nodes[0].open().fingerprint
    path = shared / known / name
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        at = content.index(photos()[17].tobytes()) if name == "images.arrow" else content.index(b"class")
        content[at] ^= 1
    path.write_bytes(content)
    nodes[1].open(known)
    assert nodes[1].counting.decoded == 40
    assert not list(nodes[1].cache.glob(".*.copy"))
    assert ("is damaged and is left alone" in caplog.text) == (damage == "flipped")
    nodes[2].open(known)
    assert nodes[2].counting.decoded == 0, "who decodes replaces it"


def test_meta_json_arrives_last_and_leaves_first(
    nodes: list[Node], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raydml.data.remote_cache import RemoteCache

    order: list[tuple[str, bool]] = []
    copy = RemoteCache._copy_there

    def noted(self: RemoteCache, place: Path, path: str) -> None:
        order.append((place.name, (shared / path).with_name("meta.json").exists()))
        copy(self, place, path)

    monkeypatch.setattr(RemoteCache, "_copy_there", noted)
    known = nodes[0].open().fingerprint
    wanted = [("images.arrow", False), ("index.parquet", False), ("meta.json", False)]
    assert order == wanted
    os.truncate(shared / known / "images.arrow", 10)
    nodes[1].open(known)
    assert order == wanted * 2


def test_an_upload_that_was_interrupted_is_made_up_for(nodes: list[Node], shared: Path) -> None:
    known = nodes[0].open().fingerprint
    for path in (shared / "sources").iterdir():
        path.unlink()
    shutil.rmtree(shared / known)
    nodes[0].open()
    nodes[1].open()
    assert [node.counting.decoded for node in nodes] == [40, 0, 0]


def test_a_remote_that_takes_nothing_costs_only_a_warning(
    nodes: list[Node], shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shared / "sources").write_text("in the way", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        nodes[0].open()
    assert "takes no copy of the decoded images" in caplog.text


def test_the_disk_of_the_node_is_looked_at_first(
    nodes: list[Node], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = nodes[0].open().fingerprint
    usage = shutil.disk_usage(shared)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=30_000))
    with pytest.raises(ConfigError, match=r"^data\.cache: .* need .* GB, but .*node1.* has 3e-05 GB free"):
        nodes[1].open(known)
    assert not list(nodes[1].cache.glob(".*.copy"))


@pytest.mark.parametrize("uri", ["nonsense://bucket/folder", "s3://", "file://relative", "fsspec[+]nonsense://bucket"])
def test_a_place_that_does_not_answer_is_named(
    uri: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match=rf"^data\.cache: {uri}.* does not answer"):
        open_images(config_of(root, uri.replace("[+]", "+")), decode=Counting())


def test_a_name_that_a_uri_must_escape_is_found(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "my cache #1").mkdir()
    images = open_images(config_of(root, f"file://{tmp_path}/my cache #1"), with_test=True)
    assert (tmp_path / "my cache #1" / images.fingerprint / "meta.json").is_file()


def test_where_a_node_keeps_its_images(root: Path, tmp_path: Path) -> None:
    assert cache_folder(config_of(root, "s3://bucket/x")) == default_cache()
    assert cache_folder(config_of(root, tmp_path)) == tmp_path
    assert cache_folder(config_of(root, "~/x")) == Path.home() / "x"

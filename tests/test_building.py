"""Photographs become an entry of the cache: once, block by block, named by what they are."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydml.config import ConfigError
from raydml.data import building, entry
from raydml.data.addresses import fingerprint_of, signature_of
from raydml.data.cache import ImageSet
from raydml.data.folder import list_folder
from raydml.data.listing import Listing
from raydml.data.opening import open_images
from raydml.data.photos import open_photos
from raydml.splits import Indices
from tests.photo_cases import SIZE, Counting, config_of, make_folder, open_folder, photos

N = 40
pytestmark = pytest.mark.usefixtures("blocks_of_six")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def entry_of(cache: Path, images: ImageSet) -> Path:
    return cache / images.fingerprint


def test_pixels_are_those_of_the_photographs(root: Path, cache: Path) -> None:
    images = open_folder(root, cache, Counting())
    assert np.array_equal(images.images, photos())
    assert images.images.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        images.images[0, 0, 0, 0] = 1
    table = pa.ipc.open_file(entry_of(cache, images) / "images.arrow").read_all()
    assert b"".join(table["image"].to_pylist()) == photos().tobytes(), "any Arrow reads the pixels"
    assert table["image"].num_chunks == 1


def test_each_photograph_is_decoded_once(root: Path, cache: Path) -> None:
    decode = Counting()
    first = open_folder(root, cache, decode)
    assert (decode.decoded, decode.blocks) == (N, 7)
    for known in (None, first.fingerprint):
        assert np.array_equal(open_folder(root, cache, decode, known=known).images, photos())
    assert decode.decoded == N
    assert sorted(path.name for path in entry_of(cache, first).iterdir()) == [
        "images.arrow",
        "index.parquet",
        "meta.json",
    ]
    assert not [path for path in (cache / "builds").iterdir() if path.is_dir()]


def test_nothing_is_listed_for_a_known_fingerprint(root: Path, cache: Path) -> None:
    known = open_folder(root, cache, Counting()).fingerprint
    shutil.rmtree(root)
    assert np.array_equal(open_folder(root, cache, Counting(), known=known).images, photos())
    with pytest.raises(ConfigError, match="no such folder"):
        open_folder(root, cache, Counting())


def test_what_an_entry_says_of_its_images(root: Path, cache: Path) -> None:
    images = open_folder(root, cache, Counting())
    index = pq.read_table(entry_of(cache, images) / "index.parquet")
    meta = json.loads((entry_of(cache, images) / "meta.json").read_text(encoding="utf-8"))
    files = sorted(root.glob("*/*.png"))
    assert index["source"].to_pylist() == [path.relative_to(root).as_posix() for path in files]
    assert index["class"].to_pylist() == [path.parent.name for path in files]
    assert len(set(index["digest"].to_pylist())) == N
    assert meta["encoded_bytes"] == sum(path.stat().st_size for path in files)
    assert (meta["num_decoded"], meta["image_size"]) == (N, SIZE)
    assert "libjpeg" in meta["decoder"]


def listing_with_everything(root: Path) -> Listing:
    """Roles, lists, a split, and photographs that are read in another order than they lie."""
    listing = list_folder(config_of(root, "unused"))
    return replace(
        listing,
        num_training=6,
        roles=(np.arange(N) % 3).astype(np.int8),
        test_lists={"small": np.arange(N) > 30, "large": np.arange(N) > 25},
        reading_order=np.random.default_rng(0).permutation(N).astype(np.int64),
    )


def open_listing(cache: Path, listing: Listing) -> ImageSet:
    return open_photos(cache, lambda: listing, name="x", image_size=SIZE, known=None, decode=Counting())


def test_roles_lists_and_the_order_of_reading(root: Path, cache: Path) -> None:
    """Read in any order, the images lie in that of their classes."""
    listing = listing_with_everything(root)
    for images in (open_listing(cache, listing), open_listing(cache, listing)):
        assert np.array_equal(images.images, photos())
        assert images.roles is not None
        assert listing.roles is not None
        assert images.roles.dtype == np.int8
        assert images.roles.tolist() == listing.roles.tolist()
        assert images.test_lists.keys() == listing.test_lists.keys()
        assert all(np.array_equal(images.test_lists[name], mask) for name, mask in listing.test_lists.items())
        assert images.num_training == 6
    assert entry.verify(entry_of(cache, images)) == []


def test_everything_that_is_known_of_images_is_part_of_their_address(root: Path) -> None:
    listing = listing_with_everything(root)
    digests = [bytes([number]) for number in range(N)]
    others = [
        replace(listing, num_training=5),
        replace(listing, num_training=None),
        replace(listing, roles=None),
        replace(listing, roles=np.zeros(N, dtype=np.int8)),
        replace(listing, test_lists={}),
        replace(listing, test_lists={**listing.test_lists, "small": np.arange(N) > 29}),
        replace(listing, test_lists={"tiny": np.arange(N) > 30, "large": np.arange(N) > 25}),
        replace(listing, classes=("owl", *listing.classes[1:])),
        replace(listing, places=("owl.png", *listing.places[1:])),
        replace(listing, labels=np.minimum(listing.labels, 8)),
    ]
    found = [fingerprint_of(one, SIZE, digests) for one in (listing, *others)]
    found += [fingerprint_of(listing, SIZE + 1, digests), fingerprint_of(listing, SIZE, digests[::-1])]
    assert len(set(found)) == 13
    same = replace(listing, version="another", reading_order=None)
    assert fingerprint_of(same, SIZE, digests) == found[0], "times and order of reading are no content"
    assert signature_of(same, SIZE) != signature_of(listing, SIZE)


def test_the_same_images_listed_twice_are_one_entry(root: Path, cache: Path) -> None:
    """A copy with other times has another signature: decoded, recognised, and not kept twice."""
    first = open_folder(root, cache, Counting())
    inode = (entry_of(cache, first) / "images.arrow").stat().st_ino
    copied = shutil.copytree(root, root.parent / "copy")
    for path in copied.glob("*/*.png"):
        os.utime(path, (1, 1))
    decode = Counting()
    second = open_folder(copied, cache, decode)
    assert decode.decoded == N
    assert second.fingerprint == first.fingerprint
    assert (entry_of(cache, first) / "images.arrow").stat().st_ino == inode
    assert not [path for path in (cache / "builds").iterdir() if path.is_dir()]
    open_folder(copied, cache, decode)
    assert decode.decoded == N, "its listing is known from now on"


def test_changed_images_are_not_taken_for_those_of_the_run(root: Path, cache: Path) -> None:
    known = open_folder(root, cache, Counting()).fingerprint
    shutil.copy(root / "class1" / "0.png", root / "class0" / "0.png")
    changed = open_folder(root, cache, Counting())
    assert changed.fingerprint != known
    shutil.rmtree(cache / known)
    decode = Counting()
    with pytest.raises(ConfigError, match=f"^data: the images changed since .* {known} and are {changed.fingerprint}"):
        open_folder(root, cache, decode, known=known)
    assert decode.decoded == 0, "the listing says so"
    shutil.rmtree(cache)
    with pytest.raises(ConfigError, match="the images changed since"):
        open_folder(root, cache, decode, known=known)


def test_a_known_fingerprint_of_another_size_is_refused(root: Path, cache: Path) -> None:
    known = open_folder(root, cache, Counting()).fingerprint
    with pytest.raises(ValueError, match=f"images of {SIZE} pixels, but image_size is 17"):
        open_photos(cache, lambda: None, name="x", image_size=17, known=known, decode=Counting())  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fingerprint": 3}', '{"fingerprint": "../x"}', "\xff"])
def test_a_damaged_pointer_is_as_none(content: str, root: Path, cache: Path) -> None:
    open_folder(root, cache, Counting())
    (pointer,) = (cache / "sources").glob("*.json")
    pointer.write_text(content, encoding="latin-1")
    assert np.array_equal(open_folder(root, cache, Counting()).images, photos())
    assert "fingerprint" in json.loads(pointer.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["images.arrow", "index.parquet", "meta.json"])
def test_a_cut_entry_is_built_again(name: str, root: Path, cache: Path) -> None:
    images = open_folder(root, cache, Counting())
    path = entry_of(cache, images) / name
    os.truncate(path, path.stat().st_size // 2)
    for known in (None, images.fingerprint):
        decode = Counting()
        assert np.array_equal(open_folder(root, cache, decode, known=known).images, photos())
        assert decode.decoded == (N if known is None else 0)


def test_a_damaged_entry_without_its_photographs_is_an_error(root: Path, cache: Path) -> None:
    images = open_folder(root, cache, Counting())
    os.truncate(entry_of(cache, images) / "images.arrow", 100)
    shutil.rmtree(root)
    with pytest.raises(ConfigError, match=r"^data\.root: no such folder"):
        open_folder(root, cache, Counting(), known=images.fingerprint)


def test_another_index_of_the_same_size_is_noticed(root: Path, cache: Path) -> None:
    images = open_folder(root, cache, Counting())
    path = entry_of(cache, images) / "index.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    decode = Counting()
    assert open_folder(root, cache, decode).labels.tolist() == images.labels.tolist()
    assert decode.decoded == N


def test_progress_is_told_block_by_block(root: Path, cache: Path) -> None:
    told: list[tuple[int, int]] = []
    open_images(config_of(root, cache), decode=Counting(), progress=lambda done, total: told.append((done, total)))
    # Seven blocks, as even as possible.
    assert told == [(done, N) for done in (0, 6, 12, 18, 24, 30, 35, 40)]


def test_no_more_blocks_are_in_memory_than_threads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk slower than the decoder must not fill the memory with what waits for it."""
    listing = list_folder(config_of(root, "unused"))
    begun: list[int] = []

    def noted(listing: Listing, image_size: int, positions: Indices) -> building.DecodedBlock:
        begun.append(int(positions[0]))
        return building.DecodedBlock(positions, photos()[positions], [b""] * len(positions))

    monkeypatch.setattr(building, "decode_block", noted)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    blocks = building.decode_in_threads(listing, SIZE, np.array_split(np.arange(N), 20))
    for number, block in enumerate(blocks):
        assert block.positions[0] == 2 * number, "in order"
        assert len(begun) <= number + 3
    assert sorted(begun) == list(range(0, N, 2))


def test_a_block_is_never_large(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_BYTES_PER_BLOCK", 3 * SIZE * SIZE * 3)
    decode = Counting()
    assert np.array_equal(open_folder(root, cache, decode).images, photos())
    assert decode.blocks == 14

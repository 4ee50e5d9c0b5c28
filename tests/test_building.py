"""Photographs become an entry of the cache: once, in blocks, whatever kills the process in between."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydml.config import ConfigError
from raydml.data import building, entry
from raydml.data.addresses import fingerprint_of, signature_of
from raydml.data.building import JOURNAL
from raydml.data.cache import ImageSet
from raydml.data.folder import list_folder
from raydml.data.listing import Listing
from raydml.data.opening import known_for, open_images
from raydml.data.photos import open_photos
from raydml.splits import Indices
from tests.photo_cases import SIZE, Counting, KilledError, config_of, make_folder, open_folder, photos

N = 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _blocks_of_six(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_IMAGES_PER_BLOCK", 6)


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


def test_a_killed_build_goes_on_with_the_missing_blocks(root: Path, cache: Path) -> None:
    killed, resumed = Counting(stop_after=3), Counting()
    with pytest.raises(KilledError):
        open_folder(root, cache, killed)
    assert [path for path in cache.iterdir() if (path / "meta.json").exists()] == []
    assert np.array_equal(open_folder(root, cache, resumed).images, photos())
    assert killed.decoded + resumed.decoded == N
    assert killed.blocks == 3


def build_folder(cache: Path) -> Path:
    (found,) = [path for path in (cache / "builds").iterdir() if path.is_dir()]
    return found


@pytest.mark.parametrize("torn", [1, 20, 200])
def test_a_torn_last_line_of_the_journal_is_ignored(torn: int, root: Path, cache: Path) -> None:
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=3))
    journal = build_folder(cache) / JOURNAL
    os.truncate(journal, journal.stat().st_size - torn)
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=1))
    resumed = Counting()
    assert np.array_equal(open_folder(root, cache, resumed).images, photos())
    assert resumed.blocks == 7 - 3, "two were left, and one more was decoded behind the torn line"


def test_a_block_that_is_not_what_was_decoded_is_decoded_again(root: Path, cache: Path) -> None:
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=3))
    pixels = build_folder(cache) / "images.arrow"
    content = bytearray(pixels.read_bytes())
    at = content.index(photos()[8].tobytes())
    content[at] ^= 1
    pixels.write_bytes(content)
    resumed = Counting()
    assert np.array_equal(open_folder(root, cache, resumed).images, photos())
    assert resumed.blocks == 7 - 2


def test_pixels_that_were_cut_off_are_decoded_again(root: Path, cache: Path) -> None:
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=6))
    os.truncate(build_folder(cache) / "images.arrow", 12 * SIZE * SIZE * 3)
    resumed = Counting()
    assert np.array_equal(open_folder(root, cache, resumed).images, photos())
    assert resumed.blocks == 7 - 1, "of the second block the header leaves a part behind the cut"


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


def test_a_resumed_build_begins_where_it_was(root: Path, cache: Path) -> None:
    with pytest.raises(KilledError):
        open_images(config_of(root, cache), decode=Counting(stop_after=3))
    told: list[int] = []
    open_images(config_of(root, cache), decode=Counting(), progress=lambda done, total: told.append(done))
    assert told == [18, 24, 30, 35, 40]


def command(root: Path, cache: Path, notes: Path) -> list[str]:
    return [sys.executable, "-m", "tests.photo_cases", str(root), str(cache), str(notes), "4"]


def test_of_two_processes_one_decodes_and_the_other_waits(root: Path, cache: Path, tmp_path: Path) -> None:
    both = [
        subprocess.Popen(command(root, cache, tmp_path / "notes"), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1]
    assert len((tmp_path / "notes").read_text(encoding="utf-8")) == N


def test_a_kill_at_any_moment_leaves_a_whole_entry_or_none(root: Path, cache: Path, tmp_path: Path) -> None:
    notes, draws = tmp_path / "notes", random.Random(0)
    kills = 0
    for _ in range(6):
        process = subprocess.Popen(command(root, cache, notes), stdout=subprocess.DEVNULL)
        before = len(notes.read_text(encoding="utf-8")) if notes.exists() else 0
        wait_for(lambda before=before: notes.exists() and len(notes.read_text(encoding="utf-8")) > before, process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=draws.uniform(0, 0.03))
        process.kill()
        kills += process.wait() != 0
        whole = [path for path in cache.iterdir() if (path / "meta.json").exists()]
        assert all(entry.read(path) is not None and entry.verify(path) == [] for path in whole)
    assert kills > 0
    assert subprocess.run(command(root, cache, notes), check=False).returncode == 0
    # A kill costs the one block that was in flight, of four images.
    assert N <= len(notes.read_text(encoding="utf-8")) <= N + 4 * kills


def wait_for(ready: object, process: subprocess.Popen[bytes]) -> None:
    """Until something is there, or the process has ended."""
    assert callable(ready)
    while not ready() and process.poll() is None:
        os.sched_yield()


def test_an_unfinished_build_of_others_makes_room(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=1))
    left = build_folder(cache)
    (root / "class0" / "0.png").touch()
    with pytest.raises(KilledError):
        open_folder(root, cache, Counting(stop_after=1))
    assert left.exists(), "as long as there is room"
    usage = shutil.disk_usage(cache)

    def free(path: Path) -> object:
        return usage._replace(free=usage.free if not left.exists() else 100)

    monkeypatch.setattr(shutil, "disk_usage", free)
    (root / "class0" / "0.png").touch()
    assert np.array_equal(open_folder(root, cache, Counting()).images, photos())
    assert not left.exists()


def test_open_images_hands_out_no_test_class(root: Path, cache: Path) -> None:
    opened = open_images(config_of(root, cache))
    assert np.array_equal(opened.images, photos()[: N // 2])
    assert opened.labels.max() == 4


def streamed(root: Path, **fields: object) -> ImageSet:
    return open_images(config_of(root, root.parent / "unused", decode="always", **fields), with_test=True)


def test_images_that_are_decoded_always_are_never_cached(root: Path) -> None:
    images = streamed(root)
    assert images.images.shape == (N, SIZE, SIZE, 3)
    assert np.array_equal(images.images[np.arange(N)], photos())
    assert (images.sizes, images.num_training, len(images.labels)) == ((4,) * 10, None, N)
    assert not (root.parent / "unused").exists()
    opened = open_images(config_of(root, root.parent / "unused", decode="always"))
    assert len(opened.images) == len(opened.labels) == N // 2
    assert np.array_equal(opened.images[np.arange(N // 2)], photos()[: N // 2])


def test_streamed_images_are_named_by_places_and_sizes(root: Path) -> None:
    address = streamed(root).fingerprint
    copied = shutil.copytree(root, root.parent / "copy")
    for path in copied.glob("*/*.png"):
        os.utime(path, (1, 1))
    assert streamed(copied).fingerprint == address
    assert streamed(copied, image_size=17).fingerprint != address
    with (copied / "class0" / "0.png").open("ab") as file:
        file.write(b"\0")
    changed = streamed(copied).fingerprint
    assert changed != address
    with pytest.raises(ConfigError, match="the images changed since"):
        open_images(config_of(copied, "unused", decode="always"), known=address)


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"batch_size": 40}, True),
        ({"prefetch_threads": 3}, True),
        ({"test_fraction": 0.3}, True),
        ({"cache": "there"}, True),
        ({"input_size": 17, "image_size": 17}, False),
        ({"decode": "always"}, False),
        ({"root": "elsewhere"}, False),
    ],
    ids=str,
)
def test_what_surely_means_the_same_images(fields: dict[str, object], same: bool) -> None:
    base = config_of(Path("root"), "here")
    config = type(base).model_validate(base.model_dump() | fields)
    assert known_for(config, base, "f") == ("f" if same else None)
    assert known_for(config, base, None) is None


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

"""The cache of decoded images: built once whoever asks, whole or built again, never written to by its readers."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raydml.data.cache import Decoded, ImageSet, open_or_build

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
DECODED = Decoded(
    PIXELS, np.array([0, 0, 1, 1, 1, 2, 2]), ("a", "b", "c with \u03b1"), [f"place/{i}.png" for i in range(7)]
)


class Builder:
    """Counts how often images were decoded (goal D3)."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Decoded:
        self.calls += 1
        return DECODED


def open_with(cache: Path, build: Callable[[], Decoded], *, fingerprint: str = "f00d") -> ImageSet:
    return open_or_build(cache, fingerprint, name="test", synthetic=True, build=build)


def test_what_was_decoded_comes_back(tmp_path: Path) -> None:
    for images in (open_with(tmp_path, Builder()), open_with(tmp_path, Builder())):
        assert images.images.shape == PIXELS.shape
        assert np.array_equal(images.images, PIXELS)
        assert images.labels.tolist() == DECODED.labels.tolist()
        assert images.labels.dtype == np.int64
        assert (images.classes, images.sources) == (DECODED.classes, tuple(DECODED.sources))
        assert (images.name, images.fingerprint, images.synthetic) == ("test", "f00d", True)
        assert images.sizes == (2, 3, 2)


def test_images_lie_in_the_order_of_their_labels(tmp_path: Path) -> None:
    """Whatever the source: those of the first classes are the first rows, and those of a class stay as they came."""
    mixed = DECODED._replace(labels=np.array([2, 0, 1, 0, 2, 1, 0]))
    order = [1, 3, 6, 2, 5, 0, 4]
    images = open_with(tmp_path, lambda: mixed)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert np.array_equal(images.images, PIXELS[order])
    assert images.sources == tuple(f"place/{number}.png" for number in order)
    assert images.sizes == (3, 2, 2)


def test_the_first_classes_come_without_the_others(tmp_path: Path) -> None:
    images = open_with(tmp_path, Builder())
    first = images.of_first(2)
    assert np.array_equal(first.images, PIXELS[:5])
    assert np.shares_memory(first.images, images.images), "pixels are not copied"
    assert (first.labels.tolist(), first.sources, first.sizes) == ([0, 0, 1, 1, 1], images.sources[:5], (2, 3))
    assert first.labels.base is None, "no view leads to the labels of the others"
    assert first.classes == images.classes


def test_an_entry_of_an_older_release_is_built_again(tmp_path: Path) -> None:
    """It does not say how many images a class has."""
    open_with(tmp_path, Builder())
    path = tmp_path / "f00d" / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["sizes"]
    path.write_text(json.dumps(meta), encoding="utf-8")
    build = Builder()
    assert open_with(tmp_path, build).sizes == (2, 3, 2)
    assert build.calls == 1


def test_images_are_decoded_once_for_each_fingerprint(tmp_path: Path) -> None:
    build = Builder()
    for _ in range(3):
        open_with(tmp_path / "new" / "cache", build)
    assert build.calls == 1
    open_with(tmp_path / "new" / "cache", build, fingerprint="other")
    assert build.calls == 2


def test_nobody_can_write_through_the_images(tmp_path: Path) -> None:
    images = open_with(tmp_path, Builder()).images
    assert not images.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        images[0, 0, 0, 0] = 1


def test_any_arrow_reads_the_pixels(tmp_path: Path) -> None:
    open_with(tmp_path, Builder())
    table = pa.ipc.open_file(tmp_path / "f00d" / "images.arrow").read_all()
    rows = [np.frombuffer(row.as_py(), dtype=np.uint8) for row in table["image"]]
    assert np.array_equal(np.stack(rows).reshape(PIXELS.shape), PIXELS)
    meta = json.loads((tmp_path / "f00d" / "meta.json").read_text(encoding="utf-8"))
    assert meta["shape"] == [7, 5, 4, 3]
    assert meta["num_decoded"] == 7


@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
@pytest.mark.parametrize("name", ["images.arrow", "index.parquet", "meta.json"])
def test_a_damaged_entry_is_built_again(name: str, damage: str, tmp_path: Path) -> None:
    open_with(tmp_path, Builder())
    path = tmp_path / "f00d" / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    build = Builder()
    assert np.array_equal(open_with(tmp_path, build).images, PIXELS)
    assert build.calls == 1
    assert path.read_bytes() == whole


def test_images_that_are_open_survive_a_rebuild(tmp_path: Path) -> None:
    images = open_with(tmp_path, Builder()).images
    (tmp_path / "f00d" / "meta.json").unlink()
    open_with(tmp_path, Builder())
    assert np.array_equal(images, PIXELS)


def test_a_builder_that_fails_leaves_nothing_but_its_lock(tmp_path: Path) -> None:
    def fail() -> Decoded:
        raise RuntimeError("no such image")

    with pytest.raises(RuntimeError, match="no such image"):
        open_with(tmp_path, fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert np.array_equal(open_with(tmp_path, Builder()).images, PIXELS)


def build_slowly(mark: Path) -> Decoded:
    """Leaves a mark for every call, and time for the other process to come."""
    with mark.open("a", encoding="utf-8") as file:
        file.write("x")
    time.sleep(0.5)
    return DECODED


def open_together(cache: Path, barrier: Barrier) -> None:
    barrier.wait(60)
    assert np.array_equal(open_with(cache, lambda: build_slowly(cache / "calls")).images, PIXELS)


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    # Spawned, not forked: a fork of a process with threads of torch and arrow may hang.
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=open_together, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "calls").read_text(encoding="utf-8") == "x"

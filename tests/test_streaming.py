"""Images decoded for every batch: the pixels of the cache, indexed as an array is, and no others within reach."""

from __future__ import annotations

import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydml.baseline import raw_pixel_metrics
from raydml.config import ConfigError, FolderConfig
from raydml.data.building import decode_block
from raydml.data.cache import ImageSet
from raydml.data.decoding import Pixels
from raydml.data.folder import list_folder
from raydml.data.listing import Listing
from raydml.data.streaming import StreamedPixels
from raydml.data.subsets import Subset

SIZE, NUM_CLASSES, PER_CLASS = 20, 8, 3
COUNT = NUM_CLASSES * PER_CLASS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of different shapes, JPEG and PNG."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(COUNT):
        name = folder / f"class{number // PER_CLASS}" / f"{number}.{'jpg' if number % 2 else 'png'}"
        name.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (rng.integers(24, 60), rng.integers(24, 60), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    return folder


@pytest.fixture(scope="module")
def listing(root: Path) -> Listing:
    return list_folder(FolderConfig(kind="folder", root=str(root)))


@pytest.fixture(scope="module")
def decoded(listing: Listing) -> Pixels:
    """What the cache would hold."""
    return decode_block(listing, SIZE, np.arange(COUNT)).pixels


@pytest.fixture
def streamed(listing: Listing) -> StreamedPixels:
    return StreamedPixels(listing, SIZE)


def test_it_has_the_shape_of_the_array(streamed: StreamedPixels, decoded: Pixels) -> None:
    assert streamed.shape == decoded.shape
    assert len(streamed) == COUNT


@pytest.mark.parametrize(
    "index",
    [[0], [5, 3, 3, 23, 0], [], list(range(COUNT)), [-1, -24], [True, False] * (COUNT // 2)],
    ids=["one", "repeated", "none", "all", "from the end", "mask"],
)
def test_indices_mean_what_they_do_for_the_array(
    streamed: StreamedPixels, decoded: Pixels, index: list[int | bool]
) -> None:
    places = np.array(index, dtype=bool if index and isinstance(index[0], bool) else np.int64)
    found = streamed[places]
    assert found.dtype == np.uint8
    assert found.shape == decoded[places].shape
    assert np.array_equal(found, decoded[places])


@pytest.mark.parametrize("place", [0, 7, -1, np.int64(4)])
def test_one_image(streamed: StreamedPixels, decoded: Pixels, place: int) -> None:
    assert np.array_equal(streamed[place], decoded[place])


@pytest.mark.parametrize("places", [[COUNT], [0, -COUNT - 1]])
def test_there_is_nothing_beyond(streamed: StreamedPixels, places: list[int]) -> None:
    with pytest.raises(IndexError):
        streamed[np.array(places)]
    with pytest.raises(IndexError):
        streamed[places[-1]]


@pytest.mark.parametrize(
    "part", [slice(0, 9), slice(9), slice(4, 10), slice(0, 0), slice(20, 99), slice(None, None, 2)]
)
def test_a_part_holds_its_own_images(streamed: StreamedPixels, decoded: Pixels, part: slice) -> None:
    found = streamed[part]
    assert isinstance(found, StreamedPixels)
    assert found.shape == decoded[part].shape
    assert np.array_equal(found[np.arange(len(found))], decoded[part])


def test_a_part_knows_no_place_of_another_image(streamed: StreamedPixels, listing: Listing) -> None:
    """Test classes come last; what a training gets must not lead to them."""
    part, whole = pickle.dumps(streamed[:9]), pickle.dumps(streamed)
    for number, place in enumerate(listing.places):
        assert place.encode() in whole
        assert (place.encode() in part) == (number < 9)
    assert len(streamed) == COUNT, "the whole is as it was"


def test_it_travels(streamed: StreamedPixels, decoded: Pixels) -> None:
    again = pickle.loads(pickle.dumps(streamed[3:12]))
    assert np.array_equal(again[np.arange(9)], decoded[3:12])


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for number in range(8):
        folder = tmp_path / f"class{number}"
        folder.mkdir()
        Image.new("RGB", (30, 30)).save(folder / "0.png")
    (tmp_path / "class2" / "0.png").write_bytes(b"no image")
    listing = list_folder(FolderConfig(kind="folder", root=str(tmp_path)))
    (tmp_path / "class5" / "0.png").unlink()
    streamed = StreamedPixels(listing, SIZE)
    before = threading.active_count()
    for place in (2, 5):
        name = listing.places[place]
        message = f"^data.root: {re.escape(str(tmp_path))}/{name} is no readable image"
        with pytest.raises(ConfigError, match=message):
            streamed[place]
        with pytest.raises(ConfigError, match=message):
            streamed[np.array([0, 1, place, 3])]
    assert threading.active_count() == before
    assert streamed[np.array([0, 1, 3])].shape == (3, SIZE, SIZE, 3)


def image_set(images: Pixels | StreamedPixels) -> ImageSet:
    labels = np.repeat(np.arange(NUM_CLASSES, dtype=np.int64), PER_CLASS)
    names = tuple(map(str, range(NUM_CLASSES)))
    sizes = (PER_CLASS,) * NUM_CLASSES
    pixels: Pixels = images  # type: ignore[assignment]
    return ImageSet("test", pixels, labels, names, names * PER_CLASS, sizes, "0", synthetic=False)


def test_the_first_classes_alone(streamed: StreamedPixels, decoded: Pixels) -> None:
    part = image_set(streamed).of_first(2).images
    assert np.array_equal(part[np.arange(len(part))], decoded[: 2 * PER_CLASS])


def test_retrieval_by_raw_pixels_is_that_of_the_cache(streamed: StreamedPixels, decoded: Pixels) -> None:
    labels = np.repeat(np.arange(NUM_CLASSES, dtype=np.int64), PER_CLASS)
    subset = Subset(np.arange(COUNT), labels, np.arange(NUM_CLASSES))
    assert raw_pixel_metrics(image_set(streamed), subset) == raw_pixel_metrics(image_set(decoded), subset)

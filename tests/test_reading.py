"""Pixels for an embedding actor: those of evaluation, from the cache, decoded now, or in grey."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raydml.config import ConfigError, parse
from raydml.data.decoding import decode_image, in_grey
from raydml.data.found_images import find_images
from raydml.data.opening import open_images
from raydml.data.pixels import PixelSource
from raydml.data.reading import EncodedImages, Read, SplitImages
from raydml.data.subsets import split_subset
from tests.photographs import SIZE, config_of, make_photographs, photograph

LARGE = SIZE + 4


def delivered(read: Read) -> np.ndarray:
    """(n, SIZE, SIZE, C) as the network gets them: cut in the centre where the device does that."""
    pixels = read.source.deliver(read.pixels).permute(0, 2, 3, 1).cpu().numpy()
    cut = (pixels.shape[1] - SIZE) // 2
    return pixels[:, cut : cut + SIZE, cut : cut + SIZE] if cut else pixels


@pytest.mark.parametrize("decode", ["once", "always"])
def test_images_decoded_now_are_those_of_a_split(tmp_path: Path, device: torch.device, decode: str) -> None:
    root = make_photographs(tmp_path / "birds")
    config = config_of(root, decode=decode, image_size=LARGE)
    images = open_images(config, with_test=True)
    subset = split_subset(images, config, "test", None)
    split = pickle.loads(pickle.dumps(SplitImages(config, "test", images.fingerprint, None)))
    positions = np.array([3, 0, 7])
    expected = split.opened(device, input_size=SIZE, in_channels=3)(positions, [])
    found = find_images(str(root))
    now = pickle.loads(pickle.dumps(EncodedImages(found.encoded, LARGE)))
    places = [images.sources[at] for at in subset.index[positions]]
    read = now.opened(device, input_size=SIZE, in_channels=3)(positions, places)
    assert np.array_equal(delivered(read), delivered(expected))
    centre = slice(2, 2 + SIZE)
    whole = np.stack([decode_image((root / place).read_bytes(), LARGE) for place in places])
    assert np.array_equal(delivered(read), whole[:, centre, centre])
    assert read.readable.tolist() == [0, 1, 2]
    assert read.problems == expected.problems == {}


def test_other_images_are_no_split(tmp_path: Path) -> None:
    config = config_of(make_photographs(tmp_path / "birds"), decode="always")
    with pytest.raises(ConfigError, match="the images changed since this run began"):
        SplitImages(config, "test", "another", None).opened(torch.device("cpu"), input_size=SIZE, in_channels=3)


def test_what_cannot_be_read_is_said_and_left_out(tmp_path: Path) -> None:
    root = make_photographs(tmp_path / "birds", 1, 4)
    (root / "class00" / "1.jpg").write_bytes(b"")
    (root / "class00" / "3.jpg").unlink()
    found = find_images(str(root))
    places = [f"class00/{number}.jpg" for number in range(4)]
    read = EncodedImages(found.encoded, SIZE).opened(torch.device("cpu"), input_size=SIZE, in_channels=3)
    some = read(np.arange(4), places)
    assert some.readable.tolist() == [0, 2]
    assert some.pixels.shape == (2, SIZE, SIZE, 3)
    assert some.problems[1] == f"{root / places[1]} is no readable image: it is empty"
    assert "No such file" in some.problems[3]
    none = read(np.arange(2), places[1::2])
    assert none.pixels.shape == (0, SIZE, SIZE, 3)
    assert set(none.problems) == {0, 1}


def test_a_model_that_sees_grey_gets_grey(tmp_path: Path, cache: Path) -> None:
    data = {"kind": "glyphs", "num_classes": 24, "images_per_class": 8, "image_size": 16, "cache": str(cache)}
    images = open_images(parse({"data": data}).data, with_test=True)
    study = tmp_path / "a.yaml"
    study.write_text(f"base: {{data: {str(data).replace(chr(39), '')}}}\n", encoding="utf-8")
    found = find_images(str(study))
    read = EncodedImages(found.encoded, 16).opened(torch.device("cpu"), input_size=16, in_channels=1)
    got = read(np.arange(3), found.places[100:103])
    assert np.array_equal(got.pixels.numpy(), images.images[100:103])


def test_grey_is_luma() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], dtype=np.uint8)
    assert in_grey(pixels)[0, :, 0].tolist() == [76, 150, 29, 9]
    image = photograph(0)
    assert np.array_equal(in_grey(np.asarray(image))[:, :, 0], np.asarray(image.convert("L")))
    assert isinstance(image, Image.Image)


def test_what_is_taken_once_stays_on_the_host(device: torch.device) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    source = PixelSource(pixels, np.arange(4), device=device, taken_once=True)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    assert source.read(np.arange(2)).device.type == "cpu"
    assert (torch.cuda.memory_allocated() if device.type == "cuda" else 0) == before
    assert np.array_equal(source.take(np.arange(4)).permute(0, 2, 3, 1).cpu().numpy(), pixels)

"""A folder of folders of images: every format as RGB of one size, every mistake named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydml.config import ConfigError, FolderConfig
from raydml.data.decoding import UnreadableImageError, decode_image
from raydml.data.folder import list_folder
from raydml.data.opening import fingerprint, open_images

SIZE = 16


def solid(colour: tuple[int, int, int], size: tuple[int, int] = (24, 20)) -> Image.Image:
    return Image.new("RGB", size, colour)


def config_of(root: Path, **fields: object) -> FolderConfig:
    raw = {"kind": "folder", "root": str(root), "image_size": SIZE, "input_size": SIZE, "num_folds": 2}
    return FolderConfig.model_validate(raw | {"cache": str(root.parent / "cache"), **fields})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten classes of three images, one colour each."""
    for label in range(10):
        folder = tmp_path / "images" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(3):
            solid((20 * label, 0, 80 * number)).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_folders_are_classes_in_sorted_order(root: Path) -> None:
    images = open_images(config_of(root), with_test=True)
    assert images.classes == tuple(f"class{label}" for label in range(10))
    assert images.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert images.sources[:4] == ("class0/0.png", "class0/1.png", "class0/2.png", "class1/0.png")
    assert not images.synthetic
    for label, source, pixels in zip(images.labels, images.sources, images.images, strict=True):
        assert pixels.shape == (SIZE, SIZE, 3)
        assert (pixels == (20 * label, 0, 80 * int(source[-5]))).all()


def test_what_is_no_image_is_left_out(root: Path) -> None:
    (root / "README.txt").write_text("classes", encoding="utf-8")
    (root / ".hidden").mkdir()
    (root / "class0" / "notes.txt").touch()
    (root / "class0" / "._0.png").touch()
    (root / "class0" / ".thumbnails").mkdir()
    solid((1, 1, 1)).save(root / "class0" / ".thumbnails" / "0.png")
    (root / "class0" / "folder.png").mkdir()
    listing = list_folder(config_of(root))
    assert listing.classes == tuple(f"class{label}" for label in range(10))
    assert listing.places[:4] == ("class0/0.png", "class0/1.png", "class0/2.png", "class1/0.png")


def test_images_lie_at_any_depth_with_any_case(root: Path) -> None:
    (root / "class0" / "deep" / "er").mkdir(parents=True)
    solid((1, 1, 1)).save(root / "class0" / "deep" / "er" / "A.JPG")
    assert list_folder(config_of(root)).labels.tolist().count(0) == 4


FORMATS: dict[str, Callable[[Path], None]] = {
    "grey.png": lambda path: Image.new("L", (24, 20), 100).save(path),
    "black and white.png": lambda path: Image.new("1", (24, 20), 1).save(path),
    "transparent.png": lambda path: solid((200, 100, 50)).convert("RGBA").save(path),
    "grey and transparent.png": lambda path: Image.new("LA", (24, 20), (100, 255)).save(path),
    "palette.png": lambda path: solid((200, 100, 50)).quantize(4).save(path),
    "palette.gif": lambda path: solid((200, 100, 50)).save(path),
    "print.jpg": lambda path: Image.new("CMYK", (24, 20), (55, 155, 205, 0)).save(path, quality=100),
    "print.tif": lambda path: Image.new("CMYK", (24, 20), (55, 155, 205, 0)).save(path),
    "photo.jpeg": lambda path: solid((200, 100, 50)).save(path, quality=100),
    "photo.webp": lambda path: solid((200, 100, 50)).save(path, lossless=True),
    "photo.bmp": lambda path: solid((200, 100, 50)).save(path),
    "deep.png": lambda path: Image.fromarray(np.full((20, 24), 100 * 256 + 30, np.uint16)).save(path),
    "deep.tif": lambda path: Image.fromarray(np.full((20, 24), 100 * 256 + 30, np.uint16)).save(path),
}
_COLOURS = {"grey.png": (100,) * 3, "black and white.png": (255,) * 3, "grey and transparent.png": (100,) * 3}
_COLOURS |= {"deep.png": (100,) * 3, "deep.tif": (100,) * 3}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_rgb(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    pixels = decode_image((tmp_path / name).read_bytes(), SIZE)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - _COLOURS.get(name, (200, 100, 50))).max() <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(dtype: type[np.generic], tmp_path: Path) -> None:
    Image.fromarray(np.ones((20, 24), dtype)).save(tmp_path / "measured.tif")
    with pytest.raises(UnreadableImageError, match="no known range"):
        decode_image((tmp_path / "measured.tif").read_bytes(), SIZE)


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photo_is_turned_as_its_exif_says(orientation: int, quarter_turns: int, tmp_path: Path) -> None:
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :, 0], upright[:, :16, 2] = 255, 255
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright, -quarter_turns)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(decode_image((tmp_path / "photo.png").read_bytes(), 32), upright)


def test_the_short_side_is_resized_and_the_long_one_cropped_in_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:128] = 255  # the middle third, a square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pixels = decode_image((tmp_path / "wide.png").read_bytes(), 32)
    assert pixels[:, 1:-1].min() == 255
    Image.fromarray(wide.transpose(1, 0, 2).copy()).save(tmp_path / "high.png")
    assert decode_image((tmp_path / "high.png").read_bytes(), 32)[1:-1].min() == 255


def test_a_large_photo_is_shrunk_as_by_a_full_decode(tmp_path: Path) -> None:
    # JPEG decodes at half its size, a quarter, an eighth: too small a one loses what resizing would keep.
    coarse = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize((1024, 768), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        full = np.asarray(image.crop((128, 0, 896, 768)).resize((64, 64), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(decode_image((tmp_path / "large.jpg").read_bytes(), 64) - full).mean() < 1.6


@pytest.mark.parametrize("content", ["empty", "cut", "text"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_an_unreadable_image_is_named(suffix: str, content: str, root: Path) -> None:
    broken = root / "class3" / f"broken.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(broken)
    whole = broken.read_bytes()
    broken.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"Not found"}[content])
    with pytest.raises(ConfigError, match=rf"^data\.root: .*broken\.{suffix} is no readable image") as error:
        open_images(config_of(root))
    assert str(broken) in str(error.value)
    broken.unlink()
    assert len(open_images(config_of(root), with_test=True).labels) == 30


def test_an_empty_class_is_named(root: Path) -> None:
    (root / "class2" / "0.png").rename(root / "class2" / "0.txt")
    assert list_folder(config_of(root)).labels.tolist().count(2) == 2
    for path in (root / "class2").glob("*.png"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"^data\.root: .*no image.*class2"):
        open_images(config_of(root))


def test_too_few_classes_are_a_clear_error(tmp_path: Path) -> None:
    for label in range(7):
        (tmp_path / "few" / str(label)).mkdir(parents=True)
        solid((1, 1, 1)).save(tmp_path / "few" / str(label) / "0.png")
    with pytest.raises(ConfigError, match=r"^data\.root: .* at least 8 class folders .*holds 7"):
        open_images(config_of(tmp_path / "few"))


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: no such folder: .*nowhere"):
        open_images(config_of(tmp_path / "nowhere"))


def test_the_address_follows_the_content_not_the_place(root: Path, tmp_path: Path) -> None:
    address = fingerprint(config_of(root))
    moved = root.rename(tmp_path / "elsewhere")
    assert fingerprint(config_of(moved)) == address
    assert fingerprint(config_of(moved, image_size=17)) != address
    solid((9, 9, 9)).save(moved / "class0" / "0.png")
    assert fingerprint(config_of(moved)) != address


def test_a_renamed_class_is_another_data_set(root: Path) -> None:
    address = fingerprint(config_of(root))
    (root / "class0").rename(root / "first")
    assert fingerprint(config_of(root)) != address

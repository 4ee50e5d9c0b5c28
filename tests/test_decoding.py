"""Bytes to pixels: every mode and every orientation, and what is no image is said in a few words."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from raydml.data.decoding import UnreadableImageError, decode_image

SIZE = 16
Array = npt.NDArray[np.generic]
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(rows: Array, colour_type: int, *, transparent: bytes = b"", size: tuple[int, int] | None = None) -> bytes:
    """A PNG written by hand: Pillow writes no 16-bit colours. Values (H, W, channels), big endian where 16-bit."""
    height, width = rows.shape[:2] if size is None else size
    header = struct.pack(">IIBBBBB", width, height, 8 * rows.dtype.itemsize, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", header), *([(b"tRNS", transparent)] if transparent else [])]
    chunks += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def halves(left: Sequence[int], right: Sequence[int], dtype: str = "u1", height: int = 20, width: int = 20) -> Array:
    """(H, W, channels): two colours side by side."""
    values = np.empty((height, width, len(left)), dtype)
    values[:, : width // 2], values[:, width // 2 :] = left, right
    return values


def require_halves(data: bytes, left: Sequence[float], right: Sequence[float], *, atol: int = 0) -> None:
    pixels = decode_image(data, SIZE).astype(int)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert np.abs(pixels[:, : SIZE // 2 - 1] - left).max() <= atol
    assert np.abs(pixels[:, SIZE // 2 + 1 :] - right).max() <= atol


WHITE = (255, 255, 255)
RED, HIDDEN = (200, 30, 20), (10, 240, 30)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_transparent_pixels_are_white_whatever_they_hide(kind: str) -> None:
    image = Image.fromarray(halves((*RED, 255), (*HIDDEN, 0)))
    require_halves(encoded(image, kind, **({"lossless": True, "exact": True} if kind == "webp" else {})), RED, WHITE)


def test_half_transparent_pixels_are_half_white() -> None:
    half = [round(0.6 * colour + 0.4 * 255) for colour in RED]
    require_halves(encoded(Image.fromarray(halves((*RED, 255), (*RED, 153))), "png"), RED, half, atol=1)


def test_hidden_colours_do_not_bleed_over_the_edge() -> None:
    pixels = decode_image(encoded(Image.fromarray(halves((255, 255, 255, 255), (0, 0, 0, 0), width=22)), "png"), SIZE)
    assert pixels.min() == 255


def test_grey_with_transparency() -> None:
    require_halves(encoded(Image.fromarray(halves((90, 255), (7, 0)), "LA"), "png"), (90,) * 3, WHITE)


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_a_palette_with_and_without_transparency(kind: str) -> None:
    indices = Image.fromarray(halves((0,), (1,))[:, :, 0])
    palette = Image.new("P", indices.size)
    palette.putdata(list(np.asarray(indices).ravel()))
    palette.putpalette([*RED, *HIDDEN])
    require_halves(encoded(palette, kind), RED, HIDDEN)
    require_halves(encoded(palette, kind, transparency=1), RED, WHITE)
    if kind == "png":
        require_halves(
            encoded(palette, kind, transparency=bytes([255, 128])), RED, [(c + 255) / 2 for c in HIDDEN], atol=1
        )


def test_one_colour_may_be_transparent() -> None:
    key = struct.pack(">HHH", *HIDDEN)
    require_halves(png(halves(RED, HIDDEN), 2, transparent=key), RED, WHITE)
    require_halves(png(halves((90,), (7,)), 0, transparent=struct.pack(">H", 7)), (90,) * 3, WHITE)
    deep = halves((0x5A07,), (0x0701,), ">u2")
    require_halves(png(deep, 0, transparent=struct.pack(">H", 0x0701)), (0x5A,) * 3, WHITE)
    require_halves(png(deep, 0, transparent=struct.pack(">H", 0x5A01)), (0x5A,) * 3, (7,) * 3)


def test_black_and_white() -> None:
    bits = Image.fromarray(halves((255,), (0,))[:, :, 0]).convert("1")
    for kind in ("png", "tiff", "bmp"):
        require_halves(encoded(bits, kind), WHITE, (0, 0, 0))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_become_the_upper_eight(order: str) -> None:
    grey = halves((0x5A07,), (0xFF80,), f"{order}u2")
    mode = "I;16" if order == "<" else "I;16B"
    tiff = Image.frombytes(mode, (20, 20), grey.tobytes())
    require_halves(encoded(tiff, "tiff"), (0x5A,) * 3, (0xFF,) * 3)
    require_halves(png(grey.astype(">u2"), 0), (0x5A,) * 3, (0xFF,) * 3)


def test_sixteen_bit_colours() -> None:
    left, right = (0x5A07, 0x01FF, 0xC080), (0xFF80, 0x0000, 0x7FFF)
    require_halves(png(halves(left, right, ">u2"), 2), (0x5A, 0x01, 0xC0), (0xFF, 0, 0x7F))
    require_halves(png(halves((*left, 0xFFFF), (*right, 0), ">u2"), 6), (0x5A, 0x01, 0xC0), WHITE)
    require_halves(png(halves((0x5A07, 0xFFFF), (0x0101, 0), ">u2"), 4), (0x5A,) * 3, WHITE)


def test_print_colours_with_and_without_their_transform() -> None:
    # Adobe's files hold inverted inks, which Pillow writes too: 255 - ink.
    inks = halves((55, 155, 205, 0), (0, 0, 0, 100))
    rgb = [(255 - 55, 255 - 155, 255 - 205), (155, 155, 155)]
    plain = encoded(Image.fromarray(inks, "CMYK"), "jpeg", quality=100)
    require_halves(plain, *rgb, atol=4)
    require_halves(encoded(Image.fromarray(inks, "CMYK"), "tiff"), *rgb, atol=1)
    # YCCK: the three inks, taken as RGB, in YCbCr. A file of such values, marked so in Adobe's segment.
    ycc = np.asarray(Image.fromarray(inks[..., :3].astype(np.uint8)).convert("YCbCr"))
    stored = np.concatenate([255 - ycc, inks[..., 3:]], axis=2)
    marked = bytearray(encoded(Image.fromarray(stored, "CMYK"), "jpeg", quality=100))
    transform = marked.index(b"Adobe") + 11
    assert marked[transform] == 0
    marked[transform] = 2
    require_halves(bytes(marked), *rgb, atol=6)


# Pixels of which a viewer makes `upright`, as the EXIF standard says where row 0 and column 0 are.
STORED: dict[int, Callable[[Array], Array]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["png", "webp", "jpeg", "tiff"])
@pytest.mark.parametrize("scale", [1, 4], ids=["plain", "drafted"])
def test_every_orientation_is_turned_upright(orientation: int, kind: str, scale: int) -> None:
    corners = np.zeros((40, 60, 3), np.uint8)
    corners[:20, :30], corners[:20, 30:], corners[20:, :30] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    upright = corners.repeat(scale, 0).repeat(scale, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"quality": 100, "subsampling": 0} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    turned = decode_image(encoded(stored, kind, exif=exif, **options), SIZE).astype(int)
    plain = decode_image(encoded(Image.fromarray(upright), kind, **options), SIZE).astype(int)
    assert np.abs(turned - plain).max() <= 3
    assert plain[1, 1].argmax() == 0
    assert plain[1, -2].argmax() == 1
    assert plain[-2, 1].argmax() == 2
    assert plain[-2, -2].max() < 20


def test_a_broken_orientation_is_no_reason_to_lose_an_image() -> None:
    image = Image.fromarray(halves(RED, HIDDEN))
    for broken in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"):
        require_halves(encoded(image, "png", exif=broken), RED, HIDDEN)
    exif = Image.Exif()
    exif[0x0112] = 9
    require_halves(encoded(image, "png", exif=exif), RED, HIDDEN)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_the_first_picture_counts(kind: str) -> None:
    first, second = Image.fromarray(halves(RED, WHITE)), Image.fromarray(halves(HIDDEN, HIDDEN))
    options = {"lossless": True} if kind == "webp" else {}
    require_halves(encoded(first, kind, save_all=True, append_images=[second], **options), RED, WHITE, atol=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (7, 5000), (2, 2)])
def test_tiny_and_long_images(shape: tuple[int, int]) -> None:
    image = Image.new("RGB", (shape[1], shape[0]), RED)
    assert (decode_image(encoded(image, "png"), SIZE) == RED).all()
    assert np.abs(decode_image(encoded(image, "jpeg", quality=100), SIZE).astype(int) - RED).max() <= 3


def resized(photo: Image.Image, size: int) -> Array:
    """The short side to `size`, then the centre, in two steps."""
    short = min(photo.size)
    left, top = (photo.width - short) / 2, (photo.height - short) / 2
    box = (left, top, left + short, top + short)
    return np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR, box))


@pytest.mark.parametrize("shape", [(320, 2560), (2560, 320), (480, 500), (65, 1000)])
def test_a_jpeg_is_never_decoded_below_what_its_short_side_needs(shape: tuple[int, int]) -> None:
    # Decoded too small, a short side of 320 would be enlarged, and stripes of two pixels would be gone.
    size = 64
    height, width = shape
    stripes = ((np.arange(height)[:, None] // 5 + np.arange(width)[None, :] // 5) % 2 * 200).astype(np.uint8)
    photo = Image.fromarray(np.stack([stripes] * 3, axis=2))
    expected = resized(photo, size).astype(int)
    assert np.abs(decode_image(encoded(photo, "jpeg", quality=95), size).astype(int) - expected).mean() < 8


def message_for(data: bytes, whole: Array) -> str:
    """Why bytes are refused; nothing where they give the whole image."""
    try:
        pixels = decode_image(data, SIZE)
    except UnreadableImageError as error:
        return str(error)
    assert np.array_equal(pixels, whole), len(data)
    return ""


CUT: dict[str, dict[str, object]] = {
    "png": {},
    "gif": {},
    "jpeg": {},
    "progressive": {"progressive": True},
    "webp": {},
    "bmp": {},
    "tiff": {},
    "lzw": {"compression": "tiff_lzw"},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", CUT)
def test_a_cut_image_is_refused_or_whole(kind: str) -> None:
    name = {"progressive": "jpeg", "lzw": "tiff"}.get(kind, kind)
    data = encoded(Image.fromarray(NOISE), name, **CUT[kind])
    whole = decode_image(data, SIZE)
    messages = [message_for(data[:length], whole) for length in range(0, len(data), 7)]
    refused = [message for message in messages if message]
    assert len(refused) > 0.9 * len(messages)
    assert all(message.startswith("it ") and len(message) < 120 for message in refused)
    with pytest.raises(UnreadableImageError, match=r"^it ends too early"):
        decode_image(data[: len(data) * 2 // 3], SIZE)


OTHERS = {
    "it is empty": b"",
    "it is an HTML page": b"\n<!DOCTYPE html>\n<html><body>404 Not Found \xc3\xa9</body></html>",
    "it is an XML page": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
    "it is an SVG drawing, which has no pixels": b'<?xml version="1.0"?><svg width="1"/>',
    "it is JSON": b'{"error": "not found"}',
    "it is text": b"Not found\n",
    "it is a pointer of Git LFS to the image: run git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid 1\n",
    "it holds nothing but zeros": bytes(5000),
    "it is a PDF": b"%PDF-1.7\n",
    "it is an archive": b"PK\x03\x04\x14\x00",
    "it is a HEIC image, which Pillow does not read": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "it is no image that Pillow knows": bytes(range(128, 256)),
}


@pytest.mark.parametrize("message", OTHERS)
def test_what_is_no_image_is_called_by_its_name(message: str) -> None:
    with pytest.raises(UnreadableImageError) as error:
        decode_image(OTHERS[message], SIZE)
    assert str(error.value) == message


def test_an_image_without_pixels_is_refused() -> None:
    for size in ((0, 0), (0, 5), (5, 0)):
        with pytest.raises(UnreadableImageError, match=r"^it "):
            decode_image(png(halves(RED, RED), 2, size=size), SIZE)


def test_an_image_too_large_to_decode_is_refused() -> None:
    with pytest.raises(UnreadableImageError, match=r"^it has 400 million pixels, more than Pillow decodes$"):
        decode_image(png(halves(RED, RED), 2, size=(20_000, 20_000)), SIZE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["png", "gif", "jpeg", "webp", "bmp", "tiff"])
def test_damaged_bytes_raise_nothing_else(kind: str) -> None:
    rng = np.random.default_rng(1)
    data = np.frombuffer(encoded(Image.fromarray(NOISE), kind), np.uint8)
    for _ in range(150):
        damaged = data.copy()
        places = rng.integers(0, min(len(data), 400), 5)
        damaged[places] = rng.integers(0, 256, 5)
        with contextlib.suppress(UnreadableImageError):
            assert decode_image(damaged.tobytes(), SIZE).shape == (SIZE, SIZE, 3)

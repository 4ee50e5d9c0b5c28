"""Images on disk: a folder of folders, one per class."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from raydml.config import ConfigError, FolderConfig
from raydml.data.cache import Decoded, Pixels

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def list_images(root: Path) -> dict[str, list[Path]]:
    """Class name to its image files, both in sorted order. Raises ConfigError where there is nothing to learn from."""
    if not root.is_dir():
        raise ConfigError(f"data.root: no such folder: {root}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    images = {folder.name: sorted(path for path in folder.rglob("*") if _is_image(path, folder)) for folder in folders}
    empty = [name for name, files in images.items() if not files]
    if empty:
        raise ConfigError(f"data.root: {len(empty)} class folders in {root} hold no image, among them {empty[0]}")
    if len(images) < 8:
        raise ConfigError(
            f"data.root: {root} must hold at least 8 class folders (test, and folds of the rest), "
            f"but holds {len(images)}"
        )
    return images


def folder_fingerprint(config: FolderConfig) -> dict[str, object]:
    """What decides the pixels: every file's place and content, the size and the recipe of decoding."""
    root = Path(config.root)
    files = [path for paths in list_images(root).values() for path in paths]
    with ThreadPoolExecutor(_num_threads()) as pool:
        contents = list(pool.map(lambda path: hashlib.blake2b(path.read_bytes()).digest(), files))
    digest = hashlib.blake2b()
    for path, content in zip(files, contents, strict=True):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + content)
    return {"recipe": "folder-1", "image_size": config.image_size, "files": digest.hexdigest()}


def read_folder(config: FolderConfig, scratch: Path) -> Decoded:
    """Decodes every image in threads into a memory map below `scratch`: the data may be larger than memory.

    Raises ConfigError naming the first file that is no readable image.
    """
    root, size = Path(config.root), config.image_size
    images = list_images(root)
    files = [path for paths in images.values() for path in paths]
    raw = scratch / "pixels.raw"
    pixels: Pixels = np.memmap(raw, dtype=np.uint8, mode="w+", shape=(len(files), size, size, 3))

    def decode(position: int) -> None:
        pixels[position] = decode_image(files[position], size)

    with ThreadPoolExecutor(_num_threads()) as pool:
        for _ in pool.map(decode, range(len(files))):
            pass
    raw.unlink()  # the map keeps the pages until the cache is written
    labels = np.repeat(np.arange(len(images), dtype=np.int64), [len(paths) for paths in images.values()])
    return Decoded(pixels, labels, tuple(images), [path.relative_to(root).as_posix() for path in files])


def decode_image(path: Path, size: int) -> Pixels:
    """One image as RGB (size, size, 3): turned as its EXIF tag says, short side resized, centre cropped."""
    try:
        with Image.open(path) as image:
            # ImageOps.fit crops to the aspect and resizes in one pass; `draft` lets JPEG decode at a lower scale.
            image.draft("RGB", (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(_in_eight_bits(image)).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"data.root: {path} is no readable image: {error}") from None


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit: Pillow's own conversion clips, and all but the darkest pixels would be white."""
    if not image.mode.startswith("I;16"):
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range")
        return image
    narrow = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    narrow.info = image.info
    return narrow


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in _SUFFIXES and not hidden and path.is_file()


def _num_threads() -> int:
    return min(32, (os.cpu_count() or 1) + 4)

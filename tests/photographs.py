"""Folders of small photographs that are all different, and what may be wrong with one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from raydml.config import FolderConfig

SIZE = 16
NUM_CLASSES, PER_CLASS = 10, 4


def photograph(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Noise: no two seeds give the same."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def make_photographs(root: Path, num_classes: int = NUM_CLASSES, per_class: int = PER_CLASS) -> Path:
    """`root/class03/2.jpg`: folders of JPEGs of 24 x 20 pixels."""
    for label in range(num_classes):
        folder = root / f"class{label:02}"
        folder.mkdir(parents=True)
        for number in range(per_class):
            (folder / f"{number}.jpg").write_bytes(jpeg(photograph(label * per_class + number)))
    return root


def config_of(root: Path, **fields: object) -> FolderConfig:
    """A cache of its own, two folds."""
    raw = {"kind": "folder", "root": str(root), "image_size": SIZE, "input_size": SIZE, "num_folds": 2}
    return FolderConfig.model_validate(raw | {"cache": str(root.parent / "cache"), **fields})


def write_study(path: Path, root: Path) -> Path:
    """A study of a folder of photographs that searches the margin."""
    data = f"{{kind: folder, root: {root}, image_size: {SIZE}, input_size: {SIZE}, num_folds: 2}}"
    path.write_text(f"base: {{data: {data}}}\nspace: {{loss.margin: {{low: 0, high: 1}}}}\n", encoding="utf-8")
    return path

"""`prepare` looks at every pixel of what is in the cache already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raydml.config import GlyphsConfig
from raydml.prepare import prepare


def test_an_entry_with_another_pixel_is_made_again(tmp_path: Path) -> None:
    config = GlyphsConfig(kind="glyphs", num_classes=16, images_per_class=2, image_size=16, cache=str(tmp_path))
    first = prepare(config)
    pixels = first.images.images.copy()
    assert prepare(config).entry.stat().st_ino == first.entry.stat().st_ino, "what is whole stays"
    path = first.entry / "images.arrow"
    content = bytearray(path.read_bytes())
    place = content.find(pixels[3].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert np.array_equal(prepare(config).images.images, pixels)
    assert path.read_bytes() != bytes(content)

"""Images that are read when they are drawn."""

from __future__ import annotations

import io
import json

from PIL import Image

from raydml.block_folder import ABOUT
from raydml.config import ConfigError
from raydml.data.decoding import FORMATS, Pixels, UnreadableImageError, decode_image
from raydml.data.files import Files
from raydml.data.found_images import find_images
from raydml.data.listing import Encoded
from raydml.data.places import Places
from raydml.pictures.sheet import TILE


def encoded_of(files: Files) -> Encoded | None:
    """Reads the images of embeddings, by what their column `path` says; None where those are no longer found.

    `files` are a folder that `raydml.embed` wrote, which knows what its paths are below; or anything that another
    program wrote: its paths are absolute, URIs, or below the folder of the file.
    """
    if files.kind() == "file":
        files, _ = files.folder_and_name()
    if files.kind(ABOUT) != "file":
        return Places(files, table=files)
    try:
        what, *overrides = json.loads(files.read(ABOUT))["source"]
        return find_images(what, overrides, absent_too=True).encoded
    except (OSError, ValueError, LookupError, TypeError):
        return None


def read_pixels(encoded: Encoded | None, place: str) -> Pixels | None:
    """(n, n, 3), n at most TILE, and no more than the image has; None where it cannot be read: gone or damaged."""
    if encoded is None:
        return None
    try:
        content = encoded.read(place)
        pixels = decode_image(content, TILE)
    except (OSError, ConfigError, UnreadableImageError):
        return None
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        short = min(image.size)
    return pixels if short >= TILE else decode_image(content, short)

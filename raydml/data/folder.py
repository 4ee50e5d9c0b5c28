"""Your own images: a folder of folders, one per class."""

from __future__ import annotations

from raydml.config import ConfigError, FolderConfig
from raydml.data.files import Files, Stamp
from raydml.data.listing import Listed, Listing, listing_of, require_classes, version_of

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def is_image(path: str) -> bool:
    """Whether a file's name says that it is an image."""
    return path[path.rfind(".") :].lower() in SUFFIXES


def list_folder(config: FolderConfig) -> Listing:
    """Classes are the folders in sorted order. Raises ConfigError where there is nothing to learn from."""
    root = Files(config.root)
    files = root.listed()
    images: dict[str, Stamp] = {}
    has_image: dict[str, bool] = {}
    for path, stamp in files.items():
        folder, _, rest = path.partition("/")
        if rest:
            has_image[folder] = has_image.get(folder, False) or is_image(path)
            if is_image(path):
                images[path] = stamp
    _require_classes(config.root, has_image)
    classes = sorted(has_image)
    listed = (Listed(path, path.partition("/")[0]) for path in images)
    return listing_of(root, listed, classes, version=version_of(images))


def _require_classes(root: str, has_image: dict[str, bool]) -> None:
    empty = [name for name, any_image in has_image.items() if not any_image]
    if empty:
        raise ConfigError(f"data.root: {len(empty)} class folders in {root} hold no image, among them {empty[0]}")
    require_classes(root, len(has_image), called="class folders")

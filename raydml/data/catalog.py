"""The kinds of photographs that are known, and how each is listed."""

from __future__ import annotations

from raydml.config import ConfigError, FolderConfig, PhotosConfig
from raydml.data.folder import list_folder
from raydml.data.listing import Listing


def list_photos(config: PhotosConfig) -> Listing:
    """What a configuration's images are, without reading one. Raises ConfigError where they are not as they must be."""
    match config:
        case FolderConfig():
            return list_folder(config)
        case _:
            raise ConfigError(f"data.kind: {config.kind} is not there yet")

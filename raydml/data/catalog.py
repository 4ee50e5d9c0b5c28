"""The kinds of photographs that are known, and how each is listed."""

from __future__ import annotations

from raydml.config import (
    Cars196Config,
    ConfigError,
    CsvConfig,
    Cub200Config,
    FolderConfig,
    InShopConfig,
    ParquetConfig,
    PhotosConfig,
    SopConfig,
    VehicleIdConfig,
)
from raydml.data.benchmarks import list_cub200, list_inshop, list_sop, list_vehicleid
from raydml.data.cars import list_cars196
from raydml.data.folder import list_folder
from raydml.data.listing import Listing
from raydml.data.tables import list_csv, list_parquet


def list_photos(config: PhotosConfig) -> Listing:
    """What a configuration's images are, without reading one. Raises ConfigError where they are not as they must be."""
    match config:
        case FolderConfig():
            return list_folder(config)
        case Cub200Config():
            return list_cub200(config)
        case Cars196Config():
            return list_cars196(config)
        case SopConfig():
            return list_sop(config)
        case InShopConfig():
            return list_inshop(config)
        case VehicleIdConfig():
            return list_vehicleid(config)
        case CsvConfig():
            return list_csv(config)
        case ParquetConfig():
            return list_parquet(config)
        case _:
            raise ConfigError(f"data.kind: {config.kind} is not there yet")

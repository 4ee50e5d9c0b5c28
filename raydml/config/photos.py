"""Photographs that lie on a disk or in a bucket: the published benchmarks, and a user's own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raydml.config.places import Place
from raydml.config.sampling import AugmentConfig, FreeSplit, Sampling


class PhotoAugmentConfig(AugmentConfig):
    """Random changes of photographs; by default those of the Reality Check (Musgrave et al. 2020)."""

    smallest_crop: float = Field(default=0.16, gt=0.0, le=1.0)
    """Smallest share of the image's area a random crop may have; 1 takes the whole image."""

    flip: float = Field(default=0.5, ge=0.0, le=1.0)
    """Probability of a horizontal flip."""


class Photos(Sampling):
    """What all photographs have in common: where they lie, and at which sizes they are kept and seen."""

    root: Place = Field(min_length=1)
    """Where the data lie: a path, or a URI that pyarrow opens, such as `s3://bucket/folder`, without credentials."""

    image_size: int = Field(default=256, ge=16, le=1024)
    """Height and width in pixels of the cached images: short side resized to it, centre cropped, RGB."""

    input_size: int = Field(default=224, ge=16, le=1024)
    """Height and width in pixels of what the network sees: a crop of the cached image. Crops are bilinear without
    antialiasing: keep `image_size` below twice this."""

    decode: Literal["once", "always"] = "once"
    """`once` keeps decoded images in the cache; `always` decodes for every batch, for data larger than the disk."""

    augment: PhotoAugmentConfig = PhotoAugmentConfig()
    """Random changes of training images."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Photos:
        if self.input_size > self.image_size:
            raise ValueError(f"input_size must not exceed image_size, but got {self.input_size} and {self.image_size}")
        return self


class FolderConfig(Photos, FreeSplit):
    """Your own images: a folder of folders, one per class."""

    kind: Literal["folder"]


class Table(Photos, FreeSplit):
    """Your own images, listed in a table: `label`, and where there are such columns `split`, `role` and `group`."""

    images: Place | None = None
    """Folder or URI that paths of the table are relative to; that of the table where None."""


class CsvConfig(Table):
    """Your own images: a CSV file with the columns `path,label[,split][,role][,group]`; `root` is the file."""

    kind: Literal["csv"]


class ParquetConfig(Table):
    """Your own images in Parquet or Arrow: columns `image` (bytes) or `path`, `label[,split][,role][,group]`.

    `root` is a file, or a folder of files that are read in the order of their names.
    """

    kind: Literal["parquet"]


class Published(Photos):
    """A published benchmark, with its own split into training and test classes."""

    counts: Literal["published", "any"] = "published"
    """`published` refuses a copy with other numbers of images or classes than were published; `any` takes a part."""


class Cub200Config(Published):
    """CUB-200-2011: birds (Wah et al. 2011). Classes 1-100 train, 101-200 test."""

    kind: Literal["cub200"]


class Cars196Config(Published):
    """Cars196 (Krause et al. 2013), in any of the three layouts that circulate. Classes 1-98 train, 99-196 test."""

    kind: Literal["cars196"]


class SopConfig(Published):
    """Stanford Online Products (Song et al. 2016)."""

    kind: Literal["sop"]

    samples_per_class: int = Field(default=2, ge=2)
    """Images of one class slot of a batch; classes have five on average."""

    lists: Literal["official", "halves"] = "official"
    """`official`: Ebay_train.txt and Ebay_test.txt, 11,318 and 11,316 classes. `halves`: 11,317 each, as the Reality
    Check (Musgrave et al. 2020) and its code have it; numbers of one are not those of the other."""


class InShopConfig(Published):
    """In-shop Clothes Retrieval of DeepFashion (Liu et al. 2016): test queries against a gallery."""

    kind: Literal["inshop"]


class VehicleIdConfig(Published):
    """PKU VehicleID (Liu et al. 2016)."""

    kind: Literal["vehicleid"]

    test_list: Literal["small", "medium", "large"] = "small"
    """Which of the test lists is evaluated: 800, 1,600 or 2,400 vehicles."""

    gallery: Literal["random", "leave_one_out"] = "random"
    """`random`: one image of each vehicle is the gallery and all others are queries, drawn `gallery_draws` times and
    averaged. `leave_one_out`: every image against all others, as divide-and-conquer has it. Not comparable."""

    gallery_draws: int = Field(default=10, ge=1, le=1000)
    """Draws of the random gallery."""


PhotosConfig = (
    FolderConfig | CsvConfig | ParquetConfig | Cub200Config | Cars196Config | SopConfig | InShopConfig | VehicleIdConfig
)

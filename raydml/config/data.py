"""Which images a run sees, how they are split by class and how batches are drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydml.config.base import Model


class AugmentConfig(Model):
    """Random crop and flip of training images, computed on the device for the whole batch."""

    smallest_crop: float = Field(default=1.0, gt=0.0, le=1.0)
    """Smallest share of the image's area a random crop may have; 1 takes the whole image."""

    widest_aspect: float = Field(default=4.0 / 3.0, ge=1.0, le=4.0)
    """Largest ratio of the sides of a random crop."""

    flip: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of a horizontal flip."""


class Sampling(Model):
    """What every kind of data has: the geometry of a batch, the folds and the cache."""

    batch_size: int = Field(default=128, ge=2)
    """Images of the global batch of one step. Workers share it; they do not multiply it."""

    samples_per_class: int = Field(default=4, ge=2)
    """Images of one class slot of a batch; a batch has `batch_size / samples_per_class` slots."""

    num_folds: int = Field(default=4, ge=2)
    """Class-disjoint folds of the training classes; one of them validates."""

    test_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the classes, the last ones, that no training and no search ever sees."""

    augment: AugmentConfig = AugmentConfig()
    """Random changes of training images."""

    cache: str | None = None
    """Folder of decoded images; the user's cache folder where None. Not part of a study's identity."""

    @model_validator(mode="after")
    def _batch_is_whole_slots(self) -> Sampling:
        if self.batch_size % self.samples_per_class:
            raise ValueError(
                "batch_size must be divisible by samples_per_class, "
                f"but got batch_size={self.batch_size}, samples_per_class={self.samples_per_class}"
            )
        if self.batch_size == self.samples_per_class:
            raise ValueError(
                "a batch needs at least two class slots: batch_size must be at least 2 * samples_per_class, "
                f"but got batch_size={self.batch_size}, samples_per_class={self.samples_per_class}"
            )
        return self


class GlyphsConfig(Sampling):
    """Synthetic: characters rendered from fonts that ship with matplotlib; a character is a class."""

    kind: Literal["glyphs"]

    num_classes: int = Field(default=500, ge=8, le=700)
    """Characters, those with the most typefaces first. Characters that look alike are one class."""

    images_per_class: int = Field(default=20, ge=2, le=1000)
    """Rendered images of a class, cycling through its typefaces, weights and slants."""

    image_size: int = Field(default=32, ge=16, le=128)
    """Height and width in pixels; one grey channel."""

    noise: float = Field(default=0.1, ge=0.0, le=1.0)
    """Standard deviation of the Gaussian pixel noise, on a scale where white is 1."""

    render_seed: int = Field(default=0, ge=0, le=2**64 - 1)
    """Seed of the random affine maps, the noise and the order of the classes."""


class DigitsConfig(Sampling):
    """1,797 real scans of handwritten digits (UCI, inside scikit-learn): ten classes, grey."""

    kind: Literal["digits"]

    batch_size: int = Field(default=40, ge=2)
    """Images of the global batch of one step. Workers share it; they do not multiply it."""

    samples_per_class: int = Field(default=8, ge=2)
    """Images of one class slot of a batch. Fewer classes than slots: a class takes several slots."""

    num_folds: int = Field(default=2, ge=2, le=2)
    """Class-disjoint folds of the five training digits."""

    image_size: int = Field(default=32, ge=8, le=128)
    """Height and width in pixels to which the 8 x 8 scans are enlarged; one grey channel."""


class FolderConfig(Sampling):
    """Your own images: a folder of folders, one per class."""

    kind: Literal["folder"]

    root: str = Field(min_length=1)
    """Folder with one sub-folder of images per class."""

    image_size: int = Field(default=256, ge=16, le=1024)
    """Height and width in pixels of the cached images: short side resized to it, centre cropped, RGB."""

    input_size: int = Field(default=224, ge=16, le=1024)
    """Height and width in pixels of what the network sees: a crop of the cached image."""

    augment: AugmentConfig = AugmentConfig(smallest_crop=0.16, flip=0.5)
    """Random changes of training images; by default those of the Reality Check (Musgrave et al. 2020)."""

    @model_validator(mode="after")
    def _crop_fits(self) -> FolderConfig:
        if self.input_size > self.image_size:
            raise ValueError(f"input_size must not exceed image_size, but got {self.input_size} and {self.image_size}")
        return self


DataConfig = Annotated[GlyphsConfig | DigitsConfig | FolderConfig, Field(discriminator="kind")]

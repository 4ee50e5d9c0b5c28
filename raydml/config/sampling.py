"""How batches are drawn and changed: what every kind of data has."""

from __future__ import annotations

from pydantic import Field, model_validator

from raydml.config.base import Model
from raydml.config.places import Place


class AugmentConfig(Model):
    """Random crop, flip and colour of training images, computed for the whole batch."""

    smallest_crop: float = Field(default=1.0, gt=0.0, le=1.0)
    """Smallest share of the image's area a random crop may have; 1 takes the whole image."""

    widest_aspect: float = Field(default=4.0 / 3.0, ge=1.0, le=4.0)
    """Largest ratio of the sides of a random crop."""

    flip: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of a horizontal flip."""

    brightness: float = Field(default=0.0, ge=0.0, le=1.0)
    """Colours are multiplied with a factor within 1 - b ... 1 + b, uniform."""

    contrast: float = Field(default=0.0, ge=0.0, le=1.0)
    """Differences from the mean grey of the image are multiplied with a factor within 1 - c ... 1 + c, uniform."""

    saturation: float = Field(default=0.0, ge=0.0, le=1.0)
    """Differences from the grey of each pixel are multiplied with a factor within 1 - s ... 1 + s, uniform."""

    hue: float = Field(default=0.0, ge=0.0, le=0.5)
    """Hues are turned by a share of the circle within -h ... h, uniform."""


class Sampling(Model):
    """What every kind of data has: the geometry of a batch, the folds and the cache."""

    batch_size: int = Field(default=128, ge=2)
    """Images of the global batch of one step. Workers share it; they do not multiply it."""

    samples_per_class: int = Field(default=4, ge=2)
    """Images of one class slot of a batch; a batch has `batch_size / samples_per_class` slots."""

    num_folds: int = Field(default=4, ge=2)
    """Class-disjoint folds of the training classes; one of them validates."""

    augment: AugmentConfig = AugmentConfig()
    """Random changes of training images."""

    cache: Place | None = None
    """Where decoded images are kept: a folder on every node, or a URI from which each node copies them once. The user's
    cache folder where None. Not part of a study's identity."""

    prefetch_threads: int = Field(default=1, ge=0, le=64)
    """Threads that make the next batches while one is trained; 0 makes each when it is needed. Results do not depend
    on it. Not part of a study's identity."""

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


class FreeSplit(Sampling):
    """Data without a split of their own."""

    test_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the classes, the last ones, that no training and no search ever sees. A table's own split is kept."""

"""Which images a run sees: rendered, shipped with a package, or photographs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raydml.config.photos import PhotosConfig
from raydml.config.sampling import FreeSplit


class GlyphsConfig(FreeSplit):
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


class DigitsConfig(FreeSplit):
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


DataConfig = Annotated[GlyphsConfig | DigitsConfig | PhotosConfig, Field(discriminator="kind")]

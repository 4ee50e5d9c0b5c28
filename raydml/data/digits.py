"""Real images without a download: the 1,797 handwritten digits (UCI) inside scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from raydml.config import DigitsConfig
from raydml.data.cache import Decoded


def digits_fingerprint(config: DigitsConfig) -> dict[str, object]:
    """What decides the pixels."""
    return {"recipe": "digits-2", "image_size": config.image_size}


def read_digits(config: DigitsConfig) -> Decoded:
    """The scans, enlarged bilinearly from 8 x 8 to the configured size; class 0 ... 9 is the digit."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    pixels = torch.from_numpy(scans.images).float()[:, None] * (255.0 / 16.0)
    size = [config.image_size, config.image_size]
    images = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    return Decoded(
        images.round().byte().permute(0, 2, 3, 1).contiguous().numpy(),
        scans.target.astype(np.int64),
        tuple(str(digit) for digit in range(10)),
        [f"scikit-learn digits {number}" for number in range(len(scans.target))],
    )

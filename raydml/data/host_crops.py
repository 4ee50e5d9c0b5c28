"""Crops of uint8 images on the host, one by one: on a CPU many times faster than a batch at once."""

from __future__ import annotations

import cv2
import numpy as np

from raydml.data.augment import Crops
from raydml.data.decoding import Pixels
from raydml.data.streaming import StreamedPixels
from raydml.splits import Indices


def crop_rows(images: Pixels | StreamedPixels, index: Indices, crops: Crops, size: int) -> Pixels:
    """Images (N, H, W, C) at `index` (B,), cropped and flipped by `crops` (B, 5): (B, size, size, C).

    What `augment.crop` makes of them, rounded: bilinear, within each crop. Cut straight from the memory map.
    """
    # The loader's threads are the parallelism: others would only wait for the same cores.
    cv2.setNumThreads(0)
    _, height, width, channels = images.shape
    boxes = np.rint(crops[:, :4] * np.array([width, height, width, height])).astype(np.int64).tolist()
    # Streamed images are decoded many at a time, in threads of their own.
    rows = (images[place] for place in index) if isinstance(images, np.ndarray) else iter(images[index])
    found: Pixels = np.empty((len(index), size, size, channels), dtype=np.uint8)
    for row, (left, top, w, h), flipped, target in zip(rows, boxes, crops[:, 4] > 0.0, found, strict=True):
        cropped = row[top : top + h, left : left + w]
        if flipped:
            cv2.flip(cv2.resize(cropped, (size, size)), 1, dst=target)
        else:
            cv2.resize(cropped, (size, size), dst=target)
    return found


def centre_rows(images: Pixels | StreamedPixels, index: Indices, size: int) -> Pixels:
    """Images (N, H, W, C) at `index` (B,): (B, size, size, C), cut from their centres as `augment.centre_crop` does."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    inner = (slice(None), slice(top, top + size), slice(left, left + size))
    return images[inner][index] if isinstance(images, np.ndarray) else images[index][inner]

"""What no training at all achieves: retrieval by raw pixels, printed beside every result."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydml.data.cache import ImageSet
from raydml.data.catalog import Subset
from raydml.metrics import retrieval_metrics

# Larger images are averaged down to this first: neighbours of pixels get better, not worse, and memory stays small.
_LARGEST_SIDE = 32


def raw_pixel_metrics(images: ImageSet, subset: Subset, *, recall_at: Sequence[int] = (1, 2, 4, 8)) -> dict[str, float]:
    """Retrieval metrics of the pixels of a subset as embeddings: centred on their mean, scaled to unit length.

    Of plain, centred and Euclidean pixels this is the strongest on glyphs and digits.
    """
    pixels = torch.from_numpy(images.images[subset.index]).permute(0, 3, 1, 2).float()
    if max(pixels.shape[2:]) > _LARGEST_SIDE:
        pixels = torch.nn.functional.adaptive_avg_pool2d(pixels, _LARGEST_SIDE)
    rows = pixels.flatten(1)
    embeddings = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    return retrieval_metrics(embeddings, subset.labels, recall_at=recall_at)

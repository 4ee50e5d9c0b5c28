"""What no training at all achieves: retrieval by raw pixels, printed beside every result."""

from __future__ import annotations

import numpy as np
import torch

from raydml.config import Wanted
from raydml.data.cache import ImageSet
from raydml.data.decoding import Pixels
from raydml.data.subsets import Subset
from raydml.retrieval import RetrievalProtocol, every_other, protocol_metrics

# Larger images are averaged down to this first: neighbours of pixels get better, not worse, and memory stays small.
_LARGEST_SIDE = 32
# Images of full size that are in memory as floats.
_AT_A_TIME = 256
_DEFAULT = Wanted()


def raw_pixel_metrics(
    images: ImageSet,
    subset: Subset,
    *,
    wanted: Wanted = _DEFAULT,
    protocol: RetrievalProtocol | None = None,
) -> dict[str, float]:
    """Retrieval metrics of the pixels of a subset as embeddings: centred on their mean, scaled to unit length.

    Of plain, centred and Euclidean pixels this is the strongest on glyphs and digits. Without a protocol that of
    validation.
    """
    num_parts = -(-len(subset.index) // _AT_A_TIME)
    rows = torch.cat([_rows(images.images[part]) for part in np.array_split(subset.index, num_parts)])
    embeddings = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    return protocol_metrics(protocol or every_other(images, subset), embeddings, subset.labels, wanted=wanted).means()


def _rows(pixels: Pixels) -> torch.Tensor:
    """(n, H, W, C) uint8 -> (n, F) float32."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    if max(x.shape[2:]) > _LARGEST_SIDE:
        x = torch.nn.functional.adaptive_avg_pool2d(x, _LARGEST_SIDE)
    return x.flatten(1)

"""What every loss returns, and what every loss may refuse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LossOutput(NamedTuple):
    """A loss and what there is to know about it."""

    value: Tensor
    """(), with graph."""

    stats: dict[str, Tensor]
    """Scalars, detached, on the device."""


def check_batch(
    embeddings: Tensor, labels: Tensor, *, num_classes: int | None = None, embedding_dim: int | None = None
) -> None:
    """Refuses what would train silently wrong. Synchronises with the device; training checks labels once per split.

    Raises ValueError for wrong shapes, embeddings that are not finite or not of `embedding_dim`, or labels that are not
    int64 in [0, num_classes); any int64 label is good for a loss without proxies (`num_classes` None).
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"embeddings must be (G, D) and labels (G,), but got {tuple(embeddings.shape)} and {tuple(labels.shape)}"
        )
    if embedding_dim is not None and embeddings.shape[1] != embedding_dim:
        raise ValueError(f"embeddings must have D={embedding_dim} as the loss has, but got D={embeddings.shape[1]}")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, but got {labels.dtype}")
    if num_classes is not None and not bool(((labels >= 0) & (labels < num_classes)).all()):
        raise ValueError(f"labels must lie in [0, {num_classes}), but got {int(labels.min())} ... {int(labels.max())}")
    finite = torch.isfinite(embeddings).all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero()[:, 0]
        raise ValueError(
            f"embeddings must be finite, but some are NaN or infinite: {len(bad)} of {len(finite)} rows, "
            f"the first is row {int(bad[0])}"
        )

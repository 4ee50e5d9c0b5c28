"""Losses of deep metric learning: exact formulas, in matrix form.

Shapes, here and in the whole package; one letter, one meaning:

| letter | meaning | letter | meaning |
|---|---|---|---|
| `N` | images of a split | `C` | training classes |
| `B` | images of one worker's batch | `P` | triplets |
| `R` | workers (ranks) | `E` | expansions per embedding |
| `G` | `B * R`, the gathered batch | `L` | learners (clusters = subspaces) |
| `D` | embedding dimension | `Q` | queries |
| `F` | backbone features | `k` | neighbours |

Projections are what the head puts out; embeddings are projections scaled to unit length.
"""

from __future__ import annotations

from typing import assert_never

from torch import nn

from raydml.config import (
    ContrastiveConfig,
    DiscriminateConfig,
    LossConfig,
    MarginConfig,
    ProxyAnchorConfig,
    TripletConfig,
)
from raydml.losses.discriminate import DiscriminateLoss
from raydml.losses.output import LossOutput, check_batch
from raydml.losses.pair import ContrastiveLoss, MarginLoss, TripletLoss
from raydml.losses.proxy import ProxyAnchorLoss

__all__ = ["LossOutput", "build_loss", "check_batch"]


def build_loss(config: LossConfig, *, num_classes: int, embedding_dim: int) -> nn.Module:
    """The loss of a configuration: forward(embeddings (G, D) unit, labels (G,) int64, *, generator) -> LossOutput.

    Learned parameters (proxies, beta) start from torch's global generator; labels are 0 ... num_classes - 1.
    """
    match config:
        case DiscriminateConfig():
            return DiscriminateLoss(config)
        case ContrastiveConfig():
            return ContrastiveLoss(config)
        case TripletConfig():
            return TripletLoss(config)
        case MarginConfig():
            return MarginLoss(config, num_classes=num_classes, embedding_dim=embedding_dim)
        case ProxyAnchorConfig():
            return ProxyAnchorLoss(config, num_classes=num_classes, embedding_dim=embedding_dim)
        case _:
            assert_never(config)

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
    AngularConfig,
    ArcFaceConfig,
    CircleConfig,
    ContrastiveConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    DiscriminateConfig,
    HistogramConfig,
    LibraryConfig,
    LiftedStructureConfig,
    LossConfig,
    MarginConfig,
    MultiSimilarityConfig,
    NormalisedSoftmaxConfig,
    NPairConfig,
    NTXentConfig,
    PairLoss,
    PairLossConfig,
    ProxyAnchorConfig,
    ProxyNCAConfig,
    RecallAtKConfig,
    SmoothAPConfig,
    SoftTripleConfig,
    SupConConfig,
    TripletConfig,
)
from raydml.losses.contrast import CircleLoss, MultiSimilarityLoss, NPairLoss, NTXentLoss, SupConLoss
from raydml.losses.discriminate import DiscriminateLoss
from raydml.losses.library import LibraryLoss
from raydml.losses.masking import References
from raydml.losses.memory import CrossBatchMemory
from raydml.losses.output import LossOutput, check_batch
from raydml.losses.pair import ContrastiveLoss, MarginLoss, TripletLoss
from raydml.losses.proxy import ProxyAnchorLoss, ProxyNCALoss, SoftTripleLoss
from raydml.losses.ranking import RankingLoss
from raydml.losses.softmax import CurricularFaceLoss, MarginSoftmaxLoss
from raydml.losses.structured import AngularLoss, HistogramLoss, LiftedStructureLoss
from raydml.losses.view import ClassSubset, View

__all__ = ["ClassSubset", "LossOutput", "References", "View", "build_loss", "check_batch"]


def build_loss(
    config: LossConfig,
    *,
    num_classes: int,
    embedding_dim: int,
    max_positives: int | None = None,
    num_learners: int = 1,
) -> nn.Module:
    """The loss of a configuration: forward(embeddings (G, D) unit, labels (G,) int64, *, generator) -> LossOutput.

    Learned parameters (proxies, beta) start from torch's global generator; labels are 0 ... num_classes - 1.
    `max_positives` is the most positives an image can have in a batch; without it, the angular loss and those that
    smooth a metric ask the device in every step. `num_learners` is how many share the embedding: state that is not
    proxies then has a row for each (`View`). Raises ConfigError where a loss of a library cannot be had.
    """
    match config:
        case PairLoss():
            loss = _pair_loss(
                config,
                num_classes=num_classes,
                embedding_dim=embedding_dim,
                max_positives=max_positives,
                num_learners=num_learners,
            )
            memory = config.memory
            return loss if memory.size == 0 else CrossBatchMemory(loss, memory, embedding_dim=embedding_dim)
        case RecallAtKConfig() | SmoothAPConfig():
            return RankingLoss(config, max_positives=max_positives)
        case ProxyNCAConfig():
            return ProxyNCALoss(config, num_classes=num_classes, embedding_dim=embedding_dim)
        case ProxyAnchorConfig():
            return ProxyAnchorLoss(config, num_classes=num_classes, embedding_dim=embedding_dim)
        case SoftTripleConfig():
            return SoftTripleLoss(config, num_classes=num_classes, embedding_dim=embedding_dim)
        case NormalisedSoftmaxConfig() | CosFaceConfig() | ArcFaceConfig():
            return MarginSoftmaxLoss(config, num_classes=num_classes, embedding_dim=embedding_dim)
        case CurricularFaceConfig():
            sizes = {"num_classes": num_classes, "embedding_dim": embedding_dim, "num_learners": num_learners}
            return CurricularFaceLoss(config, **sizes)
        case LibraryConfig():
            sizes = {"num_classes": num_classes, "embedding_dim": embedding_dim, "num_learners": num_learners}
            return LibraryLoss(config, **sizes)
        case _:
            assert_never(config)


def _pair_loss(
    config: PairLossConfig, *, num_classes: int, embedding_dim: int, max_positives: int | None, num_learners: int
) -> nn.Module:
    match config:
        case DiscriminateConfig():
            return DiscriminateLoss(config)
        case ContrastiveConfig():
            return ContrastiveLoss(config)
        case TripletConfig():
            return TripletLoss(config)
        case MarginConfig():
            sizes = {"num_classes": num_classes, "embedding_dim": embedding_dim, "num_learners": num_learners}
            return MarginLoss(config, **sizes)
        case LiftedStructureConfig():
            return LiftedStructureLoss(config)
        case NPairConfig():
            return NPairLoss(config)
        case NTXentConfig():
            return NTXentLoss(config)
        case SupConConfig():
            return SupConLoss(config)
        case MultiSimilarityConfig():
            return MultiSimilarityLoss(config)
        case CircleConfig():
            return CircleLoss(config)
        case AngularConfig():
            return AngularLoss(config, max_positives=max_positives)
        case HistogramConfig():
            return HistogramLoss(config)
        case _:
            assert_never(config)

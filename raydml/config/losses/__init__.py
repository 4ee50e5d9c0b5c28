"""The losses: one model each, told apart by `kind`. Formulas, sources and shapes are in `raydml.losses`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raydml.config.losses.all_pairs import (
    AngularConfig,
    CircleConfig,
    HistogramConfig,
    LiftedStructureConfig,
    MultiSimilarityConfig,
    NPairConfig,
    NTXentConfig,
    SupConConfig,
)
from raydml.config.losses.library import LibraryConfig
from raydml.config.losses.pair import (
    ContrastiveConfig,
    DiscriminateConfig,
    MarginConfig,
    MemoryConfig,
    PairLoss,
    TripletConfig,
)
from raydml.config.losses.proxy import (
    ArcFaceConfig,
    CosFaceConfig,
    CurricularFaceConfig,
    NormalisedSoftmaxConfig,
    ProxyAnchorConfig,
    ProxyNCAConfig,
    SoftTripleConfig,
)
from raydml.config.losses.ranking import RecallAtKConfig, SmoothAPConfig

PairLossConfig = (
    DiscriminateConfig
    | ContrastiveConfig
    | TripletConfig
    | MarginConfig
    | LiftedStructureConfig
    | NPairConfig
    | NTXentConfig
    | SupConConfig
    | MultiSimilarityConfig
    | CircleConfig
    | AngularConfig
    | HistogramConfig
)
ProxyLossConfig = (
    ProxyNCAConfig
    | ProxyAnchorConfig
    | SoftTripleConfig
    | NormalisedSoftmaxConfig
    | CosFaceConfig
    | ArcFaceConfig
    | CurricularFaceConfig
)
RankingLossConfig = RecallAtKConfig | SmoothAPConfig

LossConfig = Annotated[
    PairLossConfig | ProxyLossConfig | RankingLossConfig | LibraryConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "AngularConfig",
    "ArcFaceConfig",
    "CircleConfig",
    "ContrastiveConfig",
    "CosFaceConfig",
    "CurricularFaceConfig",
    "DiscriminateConfig",
    "HistogramConfig",
    "LibraryConfig",
    "LiftedStructureConfig",
    "LossConfig",
    "MarginConfig",
    "MemoryConfig",
    "MultiSimilarityConfig",
    "NPairConfig",
    "NTXentConfig",
    "NormalisedSoftmaxConfig",
    "PairLoss",
    "PairLossConfig",
    "ProxyAnchorConfig",
    "ProxyLossConfig",
    "ProxyNCAConfig",
    "RankingLossConfig",
    "RecallAtKConfig",
    "SmoothAPConfig",
    "SoftTripleConfig",
    "SupConConfig",
    "TripletConfig",
]

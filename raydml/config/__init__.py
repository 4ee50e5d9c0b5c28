"""Every knob of raydml: frozen, strict pydantic models, one file a section. No torch, no ray.

`parse` and `dump` are inverse: `parse(dump(config)) == config`. A configuration is changed with `replace_at`, which
validates the result; nothing mutates one.
"""

from raydml.config.base import ConfigError, Model
from raydml.config.commands import EvaluateOptions, TrainOptions
from raydml.config.data import AugmentConfig, DataConfig, DigitsConfig, FolderConfig, GlyphsConfig, Sampling
from raydml.config.experiment import ExperimentConfig
from raydml.config.grammar import dump, parse, replace_at
from raydml.config.loss import (
    ContrastiveConfig,
    DiscriminateConfig,
    LossConfig,
    MarginConfig,
    ProxyAnchorConfig,
    TripletConfig,
)
from raydml.config.model import ModelConfig, backbone_names
from raydml.config.optimization import (
    AdamWConfig,
    ConstantConfig,
    CosineConfig,
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    SgdConfig,
    StepConfig,
    TrainingConfig,
)
from raydml.config.ranges import Distribution, Range, distribution_of
from raydml.config.study import EarlyStopping, Protocol, Resources, Scalar, SearchConfig

__all__ = [
    "AdamWConfig",
    "AugmentConfig",
    "ConfigError",
    "ConstantConfig",
    "ContrastiveConfig",
    "CosineConfig",
    "DataConfig",
    "DigitsConfig",
    "DiscriminateConfig",
    "Distribution",
    "EarlyStopping",
    "EvaluateOptions",
    "EvaluationConfig",
    "ExperimentConfig",
    "FolderConfig",
    "GlyphsConfig",
    "LossConfig",
    "MarginConfig",
    "Model",
    "ModelConfig",
    "OptimizerConfig",
    "Protocol",
    "ProxyAnchorConfig",
    "Range",
    "Resources",
    "Sampling",
    "Scalar",
    "ScheduleConfig",
    "SearchConfig",
    "SgdConfig",
    "StepConfig",
    "TrainOptions",
    "TrainingConfig",
    "TripletConfig",
    "backbone_names",
    "distribution_of",
    "dump",
    "parse",
    "replace_at",
]

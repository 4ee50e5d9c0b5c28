"""Every loss as plain data, and a second value for each of its options."""

from __future__ import annotations

from collections.abc import Mapping

from raydml.config import LossConfig, parse

CASES: tuple[dict[str, object], ...] = (
    {"kind": "discriminate"},
    {"kind": "discriminate", "scope": "batch", "similarity": "euclidean", "positive_scale": 4.0},
    {"kind": "contrastive"},
    {"kind": "triplet", "mining": "all"},
    {"kind": "triplet", "mining": "semi_hard"},
    {"kind": "triplet", "mining": "hardest"},
    {"kind": "margin", "learn_beta": "fixed"},
    {"kind": "margin", "learn_beta": "shared"},
    {"kind": "margin", "learn_beta": "per_class"},
    {"kind": "lifted_structure", "form": "generalised"},
    {"kind": "lifted_structure", "form": "original"},
    {"kind": "n_pair"},
    {"kind": "nt_xent"},
    {"kind": "supcon"},
    {"kind": "multi_similarity"},
    {"kind": "multi_similarity", "epsilon": None},
    {"kind": "circle", "scale": 16.0},
    {"kind": "angular"},
    {"kind": "histogram"},
    {"kind": "proxy_nca", "form": "original"},
    {"kind": "proxy_nca", "form": "plus_plus"},
    {"kind": "proxy_anchor"},
    {"kind": "soft_triple"},
    {"kind": "normalised_softmax"},
    {"kind": "cosface"},
    {"kind": "arcface"},
    {"kind": "curricularface"},
    {"kind": "recall_at_k"},
    {"kind": "smooth_ap"},
)
# A second value for every number; words are tried one and all.
SECOND_VALUE: dict[tuple[str, str], object] = {
    ("discriminate", "margin"): 0.5,
    ("discriminate", "scale"): 4.0,
    ("discriminate", "positive_scale"): 4.0,
    ("discriminate", "negative_scale"): 4.0,
    ("contrastive", "positive_margin"): 0.4,
    ("contrastive", "negative_margin"): 1.1,
    ("triplet", "margin"): 0.3,
    ("margin", "margin"): 0.4,
    ("margin", "beta"): 0.9,
    ("margin", "cutoff"): 1.1,
    ("margin", "nonzero_cutoff"): 0.8,
    ("lifted_structure", "margin"): 1.4,
    ("n_pair", "scale"): 4.0,
    ("nt_xent", "temperature"): 0.5,
    ("supcon", "temperature"): 0.5,
    ("multi_similarity", "alpha"): 5.0,
    ("multi_similarity", "beta"): 20.0,
    ("multi_similarity", "base"): 0.1,
    ("multi_similarity", "epsilon"): 0.4,
    ("circle", "margin"): 0.2,
    ("circle", "scale"): 8.0,
    ("angular", "angle_deg"): 25.0,
    ("histogram", "num_bins"): 20,
    ("proxy_nca", "scale"): 1.0,
    ("proxy_anchor", "margin"): 0.3,
    ("proxy_anchor", "scale"): 8.0,
    ("soft_triple", "centers_per_class"): 2,
    ("soft_triple", "scale"): 5.0,
    ("soft_triple", "assignment_scale"): 2.0,
    ("soft_triple", "margin"): 0.3,
    ("soft_triple", "regularizer_weight"): 0.0,
    ("normalised_softmax", "temperature"): 0.5,
    ("cosface", "margin"): 0.1,
    ("cosface", "scale"): 8.0,
    ("arcface", "margin_deg"): 10.0,
    ("arcface", "scale"): 8.0,
    ("curricularface", "margin_deg"): 10.0,
    ("curricularface", "scale"): 8.0,
    ("curricularface", "momentum"): 0.5,
    ("recall_at_k", "ranks"): (1, 3),
    ("recall_at_k", "temperature"): 0.3,
    ("recall_at_k", "rank_temperature"): 0.2,
    ("smooth_ap", "temperature"): 0.3,
}
WITH_CLASSES = {
    "proxy_nca",
    "proxy_anchor",
    "soft_triple",
    "normalised_softmax",
    "cosface",
    "arcface",
    "curricularface",
}


def config_of(fields: Mapping[str, object]) -> LossConfig:
    """A loss of the configuration from plain data."""
    return parse({"loss": {**fields}, "data": {"kind": "glyphs", "batch_size": 8, "samples_per_class": 4}}).loss

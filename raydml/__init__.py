"""raydml: a distributed experiment runner for deep metric learning on Ray.

Importing it loads neither torch nor ray. `raydml.load(run)` gives a trained embedding model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__version__ = "0.1.0"


def load(run: str | Path, *, fold: int | None = None) -> nn.Module:
    """The trained model of a run: images (B, C_in, H, W), uint8 or float in [0, 1], to unit embeddings (B, D).

    `run` is whatever `python -m raydml.evaluate` takes except embeddings: a checkpoint, a run, a study or its
    best.yaml, by path or URI. The model is in evaluation mode on the CPU. Raises ConfigError where `run` names no
    single model.
    """
    from raydml.brought_runs import bringing
    from raydml.runs import load_model

    with bringing() as brought:
        return load_model(brought.model(run), fold=fold)

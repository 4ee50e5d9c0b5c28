"""A training to its end in this process, without a driver: what tests compare the drivers with."""

from __future__ import annotations

from collections.abc import Callable

import torch

from raydml.epoch import Leave, stay
from raydml.training import Run, RunSpec


def train(
    spec: RunSpec, *, device: torch.device, report: Callable[[dict[str, float]], None], leave: Leave = stay
) -> None:
    """Reports every epoch; those that a checkpoint already has are reported again."""
    run = Run(spec, device=device, leave=leave)
    try:
        while (metrics := run.advance()) is not None:
            report(metrics)
    finally:
        run.close()

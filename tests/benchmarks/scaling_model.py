"""What a simulated search is made of: work, cluster, driver, and what comes out. Pure data, and the rule of pruning."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raydml.config import EarlyStopping

What = Literal["training", "repeated", "upload", "driver", "start", "idle"]
KINDS: tuple[What, ...] = ("training", "repeated", "upload", "driver", "start", "idle")


@dataclass(frozen=True)
class Work:
    """What is searched. Times in seconds, of a trial that has its GPU for itself."""

    curves: NDArray[np.float64]
    """(trials, epochs): what each trial would report."""
    factors: NDArray[np.float64]
    """(trials,): how much slower than `epoch_s` each is."""
    epoch_s: float
    open_s: float = 0.0
    """Of a trial before its first epoch: data, model, checkpoint."""
    upload_s: float = 0.0
    """Of an epoch's snapshot, before it is reported."""
    stopping: EarlyStopping | None = None


@dataclass(frozen=True)
class Cluster:
    """What it runs on. Times in seconds."""

    gpus: int
    gpus_per_node: int = 1
    trials_per_gpu: int = 1
    packed_factor: float = 1.0
    """How much longer an epoch takes beside the other trials of its GPU."""
    boot_s: float = 0.0
    """From the wish for a node to its first actor."""
    decode_s: float = 0.0
    """Of the images, once a node."""
    actor_s: float = 0.0
    """Of an actor's start: process, imports, device."""
    starting: int | None = None
    """Actors that may be waited for at a time; None: any number (TUNE_MAX_PENDING_TRIALS_PG)."""
    losses_per_hour: float = 0.0
    """Of a node."""
    detect_s: float = 0.0
    """From the loss of a node until its trials can go on elsewhere."""
    idle_s: float = 0.0
    """After which a node without a trial is given back."""

    @property
    def slots(self) -> int:
        """Trials at a time."""
        return self.gpus * self.trials_per_gpu


@dataclass(frozen=True)
class Driver:
    """Seconds that Tune's loop is busy with an event, at these numbers of trials begun; straight lines between."""

    trials: Sequence[int] = (1,)
    start_s: Sequence[float] = (0.0,)
    report_s: Sequence[float] = (0.0,)
    end_s: Sequence[float] = (0.0,)


@dataclass(frozen=True)
class Outcome:
    """What a search came to."""

    cluster: Cluster
    num_trials: int
    wall_s: float
    seconds: Mapping[What, float]
    """Of all slots together, by what they did."""
    driver_s: float
    epochs: int
    """Finished, each counted once."""
    losses: int
    """How often a trial lost its node."""
    billed_s: float
    """Seconds of all GPUs, from the wish for a node until it is lost or given back."""

    def share(self, what: What) -> float:
        """Of the time of all slots."""
        return self.seconds[what] / (self.cluster.slots * self.wall_s)


def random_work(num_trials: int, num_epochs: int, *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Curves that approach a normally distributed quality at speeds of their own, with noise; and factors 0.9 to 1.1.

    Early ranks tell late ones only in part, as in a real search.
    """
    generator = np.random.default_rng(seed)
    quality, speed = generator.standard_normal((num_trials, 1)), generator.lognormal(0.0, 0.3, (num_trials, 1))
    progress = np.arange(1, num_epochs + 1) / num_epochs
    curves = quality - 3.0 * np.exp(-4.0 * speed * progress)
    curves = curves + 0.2 * generator.standard_normal(curves.shape)
    return curves, generator.uniform(0.9, 1.1, num_trials)


class Rungs:
    """ASHA as Ray's AsyncHyperBandScheduler decides it with one bracket; tests compare them."""

    def __init__(self, stopping: EarlyStopping, num_epochs: int) -> None:
        factor, grace = stopping.reduction_factor, stopping.grace_epochs
        count = int(np.log(num_epochs / grace) / np.log(factor) + 1) if grace < num_epochs else 0
        self._percent = (1.0 - 1.0 / factor) * 100.0
        self._seen: dict[int, list[float]] = {math.ceil(grace * factor**k): [] for k in range(count)}

    def goes_on(self, epoch: int, value: float) -> bool:
        """Whether a trial passes; a trial must come once with each of its epochs."""
        seen = self._seen.get(epoch)
        if seen is None:
            return True
        passes = not seen or value >= float(np.percentile(seen, self._percent))
        insort(seen, value)
        return passes

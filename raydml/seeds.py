"""Independent streams of random numbers from one seed: every use has a purpose, and none disturbs another."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for. The values are part of every result: never renumber them."""

    BATCHES = 0
    CROPS = 1
    LOSS = 2
    LAYERS = 3
    SAMPLER = 4
    FRAMES = 5
    CLUSTERS = 6
    CONFIRM = 7
    FINAL = 8
    GALLERY = 9


def stream(purpose: Purpose, *parts: int) -> np.random.Generator:
    """A generator for a purpose and whatever tells its uses apart: seed, epoch, step, rank."""
    return np.random.default_rng(np.random.SeedSequence((int(purpose), *parts)))


def stream_at(block: int, purpose: Purpose, *parts: int) -> np.random.Generator:
    """A stream of another kind that can be entered anywhere: `block` times four 64-bit words on."""
    counters = np.random.Philox(np.random.SeedSequence((int(purpose), *parts)))
    return np.random.Generator(counters.advance(block))


def derive(purpose: Purpose, *parts: int) -> int:
    """A seed in [0, 2^32) for libraries that take one number."""
    return int(np.random.SeedSequence((int(purpose), *parts)).generate_state(1, np.uint32)[0])

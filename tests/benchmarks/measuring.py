"""Time, memory and operations of one side of a comparison, by the rules of specs/performance.md, 1.1.

Time is process CPU time: medians of rounds in which both sides take turns, after a warm-up.

Memory is the peak of the running sum of what torch allocates and frees on the CPU, as torch.profiler records it for
every tensor, forward and backward, results included. It is exact to the byte and repeats, where resident memory moves
in steps of megabytes with the allocator's mood. What it does not see: scratch memory that a kernel takes elsewhere, and
Python lists. `require_honest_memory` measures a case of known size first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests.operations import Operations

Action = Callable[[], object]

_SHORTEST_S = 0.05
"""CPU time that a round takes at least: shorter ones measure the clock."""


def cpu_seconds(action: Action, repeats: int = 1) -> float:
    """CPU time of one action of several."""
    start = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - start) / repeats


def in_turns(actions: Sequence[Action], rounds: int) -> list[float]:
    """Median CPU time of each action; A B A B, so that a change of the machine's speed meets both."""
    repeats = [max(1, round(_SHORTEST_S / max(1e-6, cpu_seconds(action)))) for action in actions]
    times = [[cpu_seconds(a, n) for a, n in zip(actions, repeats, strict=True)] for _ in range(rounds)]
    return [median(column) for column in zip(*times, strict=True)]


def peak_bytes(action: Action) -> int:
    """Largest sum of the memory that an action holds at one time, on top of what was there before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes two lines of every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def require_honest_memory() -> None:
    """Raises ValueError where the recorded peak is not the known one: exp keeps its result, its square is a third."""
    size = 2**20

    def three_arrays() -> Tensor:
        leaf = torch.ones(size, requires_grad=True)
        return leaf.exp().square().sum()

    expected, found = 3 * 4 * size, peak_bytes(three_arrays)
    if abs(found - expected) > 4096:
        raise ValueError(f"memory of three arrays must be {expected} bytes, but the profiler saw {found}")


def operations(action: Action) -> int:
    """Aten operations of an action, forward and backward, views left out."""
    with Operations() as recorded:
        action()
    return len(recorded.names)

"""Process groups on this machine: every rank computes the same function, and its results come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing

T = TypeVar("T")


def in_groups(
    function: Callable[..., T], *arguments: object, worlds: Sequence[int], folder: Path, timeout_s: float = 60.0
) -> dict[int, list[T]]:
    """What the function gives on every rank of groups of these sizes; an importable one, because processes spawn.

    A rank that waits for another one for longer than the timeout fails.
    """
    served = (function, arguments, worlds, folder, timeout_s)
    torch.multiprocessing.spawn(_serve, args=served, nprocs=max(worlds))  # type: ignore[attr-defined, no-untyped-call]
    return {world: [torch.load(folder / f"{world}-{place}.pt") for place in range(world)] for world in worlds}


def _serve(
    place: int,
    function: Callable[..., object],
    arguments: tuple[object, ...],
    worlds: Sequence[int],
    folder: Path,
    timeout_s: float,
) -> None:
    """The same rank in one group after another, because starting processes is what takes time."""
    torch.set_num_threads(1)
    limit = timedelta(seconds=timeout_s)
    for world in worlds:
        if place < world:
            store = f"file://{folder / f'store-{world}'}"
            dist.init_process_group("gloo", init_method=store, rank=place, world_size=world, timeout=limit)
            torch.save(function(*arguments), folder / f"{world}-{place}.pt")
            dist.destroy_process_group()

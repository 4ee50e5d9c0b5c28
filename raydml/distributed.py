"""Rank, world size and collectives with gradient; the identity where there is no process group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of data-parallel workers; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's place; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """All shards in rank order; backward sums every rank's gradient before it cuts out its own shard.

    Every rank computes the whole loss, so the sum holds R equal gradients, and the mean that DDP takes over ranks
    makes it exact. Ranks that sampled differently get the exact gradient of the mean of their losses
    (specs/losses.md, 4.3, R1 B).
    """

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        shards = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(shards, x.contiguous())
        return torch.cat(shards)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        size = grad.shape[0] // world_size()
        return grad[rank() * size : (rank() + 1) * size]


def gather(x: Tensor) -> Tensor:
    """(B, ...) -> (G, ...): every rank's rows in rank order, with gradient to every shard.

    Every rank must bring the same number of rows. The identity without a process group.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


def gather_ragged(x: Tensor) -> Tensor:
    """(n_r, ...) -> (sum n_r, ...): as `gather` for any number of rows per rank, without gradient."""
    if world_size() == 1:
        return x
    sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([x.shape[0]], device=x.device))
    counts = [int(size) for size in sizes]
    padded = x.new_zeros((max(counts), *x.shape[1:]))
    padded[: x.shape[0]] = x
    shards = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(shards, padded)
    return torch.cat([shard[:count] for shard, count in zip(shards, counts, strict=True)])


def barrier() -> None:
    """Waits for every rank."""
    if world_size() > 1:
        dist.barrier()

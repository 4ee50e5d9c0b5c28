"""Rank, world size and collectives with gradient; the identity where there is no process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# At a tenth of a second a step, a notice of 30 s leaves room for it twenty times.
_AGREE_STEPS = 8


def world_size() -> int:
    """Number of data-parallel workers; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's place; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def share(num_rows: int, place: int, workers: int) -> slice:
    """The rows of a global batch that a worker gets: in order of rank, sizes that differ by at most one."""
    return slice(place * num_rows // workers, (place + 1) * num_rows // workers)


class _Gather(torch.autograd.Function):
    """All shards in rank order; backward sums every rank's gradient before it cuts out its own shard.

    Every rank computes the whole loss, so the sum holds R equal gradients, and the mean that DDP takes over ranks
    makes it exact. Ranks that sampled differently get the exact gradient of the mean of their losses
    (specs/losses.md, 4.3, R1 B).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_rows: int) -> Tensor:  # noqa: ANN401
        workers = world_size()
        ctx.mine = share(num_rows, rank(), workers)
        sizes = [len(range(num_rows)[share(num_rows, place, workers)]) for place in range(workers)]
        # A collective wants equal shards: the smaller ones get a row that is cut off again.
        padded = torch.nn.functional.pad(x, [0, 0] * (x.ndim - 1) + [0, max(sizes) - len(x)])
        shards = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(shards, padded.contiguous())
        return torch.cat([shard[:size] for shard, size in zip(shards, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad[ctx.mine], None


def gather(x: Tensor, *, num_rows: int | None = None) -> Tensor:
    """(B, ...) -> (G, ...): every rank's rows in rank order, with gradient to every shard.

    `num_rows` is G, cut among the ranks by `share`; without it every rank brings the same number of rows. The identity
    without a process group. Raises ValueError where this rank's rows are not its share.
    """
    workers = world_size()
    if workers == 1:
        return x
    total = len(x) * workers if num_rows is None else num_rows
    mine = share(total, rank(), workers)
    if len(x) != mine.stop - mine.start:
        raise ValueError(
            f"rank {rank()} of {workers} must bring {mine.stop - mine.start} of {total} rows, not {len(x)}"
        )
    gathered: Tensor = _Gather.apply(x, total)
    return gathered


def gather_ragged(x: Tensor) -> Tensor:
    """(n_r, ...) -> (sum n_r, ...): as `gather` for any number of rows per rank, without gradient."""
    if world_size() == 1:
        return x
    sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([x.shape[0]], device=x.device))
    counts = [int(size) for size in sizes]
    if max(counts) == 0:
        return x
    padded = x.new_zeros((max(counts), *x.shape[1:]))
    padded[: x.shape[0]] = x
    shards = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(shards, padded)
    return torch.cat([shard[:count] for shard, count in zip(shards, counts, strict=True)])


def sum_over_ranks(x: Tensor) -> Tensor:
    """(...) -> (...), without gradient: the same bits on every rank. The identity without a process group."""
    if world_size() > 1:
        x = x.contiguous().clone()
        dist.all_reduce(x)
    return x


class Agreement:
    """Whether any rank wants something, the same answer on every rank; nobody waits for it.

    Asked every step, it sends the wish of this rank every few steps, and reads what came of it a few steps later, when
    it has long been there: a read at once would stop the host until the device has done all its work.
    """

    def __init__(self, wish: Callable[[], bool], *, device: torch.device) -> None:
        """`device` is one that the process group can reduce on."""
        self._wish, self._device = wish, device
        self._asked = 0
        self._sent: tuple[Tensor, torch.cuda.Event | None] | None = None

    def __call__(self) -> bool:
        """To be called equally often by every rank."""
        if world_size() == 1:
            return self._wish()
        self._asked += 1
        if self._asked % _AGREE_STEPS != 1:
            return False
        agreed = self._sent is not None and self._answer(*self._sent)
        self._sent = self._send()
        return agreed

    def _send(self) -> tuple[Tensor, torch.cuda.Event | None]:
        wishes = torch.full((), float(self._wish()), device=self._device)
        dist.all_reduce(wishes)
        if not wishes.is_cuda:
            return wishes, None
        on_host = torch.empty((), pin_memory=True)
        on_host.copy_(wishes, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return on_host, copied

    def _answer(self, wishes: Tensor, copied: torch.cuda.Event | None) -> bool:
        if copied is not None:
            copied.synchronize()
        return bool(wishes > 0)


def barrier() -> None:
    """Waits for every rank."""
    if world_size() > 1:
        dist.barrier()

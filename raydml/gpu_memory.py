"""A process's share of the memory of a GPU that trials share: what is left of it, and giving back what is unused."""

from __future__ import annotations

import gc

import torch

# The rest of a GPU's memory is for the context that each process has besides.
_TENSORS = 0.9


def keep_to_share(gpus: float) -> None:
    """From now on this process runs out of memory at its share, rather than the others that are on its GPU."""
    if 0 < gpus < 1:
        torch.cuda.set_per_process_memory_fraction(_TENSORS * gpus)


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process may still take."""
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return remaining(free=free, total=total, share=share, taken=torch.cuda.memory_reserved(device))


def remaining(*, free: int, total: int, share: float, taken: int) -> int:
    """What is left of a share of `total` bytes, of which `taken` are; never more than is `free`."""
    return max(0, min(free, int(share * total) - taken))


def give_back() -> None:
    """Lets others have the memory of tensors that are no more: a reused process would keep it."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()

"""A process keeps to its share of a GPU: arithmetic in tables, and the GPU itself where there is one."""

from __future__ import annotations

import pytest
import torch

from raydml import gpu_memory

GB = 10**9


@pytest.mark.parametrize(
    ("free", "share", "taken", "left"),
    [
        (24, 1.0, 0, 24),
        (10, 1.0, 14, 10),  # others have the rest
        (24, 0.25, 0, 6),
        (24, 0.25, 4, 2),
        (1, 0.25, 0, 1),
        (24, 0.25, 7, 0),
    ],
)
def test_what_is_left_is_the_smaller_of_share_and_free_memory(free: int, share: float, taken: int, left: int) -> None:
    found = gpu_memory.remaining(free=free * GB, total=24 * GB, share=share, taken=taken * GB)
    assert found == left * GB


def test_without_a_gpu_nothing_is_touched() -> None:
    gpu_memory.keep_to_share(0.0)
    gpu_memory.give_back()
    if not torch.cuda.is_available():
        assert not torch.cuda.is_initialized()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_quarter_of_a_gpu_is_a_quarter_of_its_memory() -> None:
    device = torch.device("cuda")
    _, total = torch.cuda.mem_get_info(device)
    try:
        gpu_memory.keep_to_share(0.25)
        assert gpu_memory.free_bytes(device) <= 0.25 * total
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(int(0.3 * total), dtype=torch.uint8, device=device)
        taken = torch.empty(int(0.1 * total), dtype=torch.uint8, device=device)
        assert gpu_memory.free_bytes(device) <= 0.15 * total
        del taken
        gpu_memory.give_back()
        assert torch.cuda.memory_reserved(device) < 0.01 * total
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

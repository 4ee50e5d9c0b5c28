"""Pixels of a subset by position: from the GPU where they fit there, else from the memory map, or decoded now."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raydml import gpu_memory
from raydml.data.augment import Crops
from raydml.data.decoding import Pixels
from raydml.data.host_crops import centre_rows, crop_rows
from raydml.data.streaming import StreamedPixels
from raydml.splits import Indices

# Pixels stay on the GPU where they take at most this share of the memory that this process may still take of it.
_RESIDENT_SHARE = 0.25
_UPLOADED_AT_A_TIME = 1024


class PixelSource:
    """Where a subset's pixels are taken from. A host's part may be done ahead, by any thread."""

    def __init__(
        self,
        images: Pixels | StreamedPixels,
        index: Indices,
        *,
        device: torch.device,
        input_size: int | None = None,
        taken_once: bool = False,
    ) -> None:
        """`input_size` is the network's, by default that of the images. `index` are the subset's places in them.

        What is `taken_once` is not kept on a GPU: to bring all of it there first would only make the first batch wait.
        """
        self._images, self._index, self.device = images, index, device
        self.height, self.width = images.shape[1:3]
        self._input_size = input_size or self.height
        self._resident: Tensor | None = None
        if device.type == "cuda" and isinstance(images, np.ndarray) and not taken_once:
            num_bytes = len(index) * int(np.prod(images.shape[1:]))
            if num_bytes <= _RESIDENT_SHARE * gpu_memory.free_bytes(device):
                self._resident = _uploaded(images, index, device)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def crops_on_host(self) -> bool:
        """Whether `read` crops, to the size of the network's input; else that is left to the device."""
        return self.device.type == "cpu"

    def take(self, positions: Indices) -> Tensor:
        """(B, C_in, H, W) uint8 on the device, for positions within the subset; cut to the centre on a CPU."""
        return self.deliver(self.read(positions))

    def read(self, positions: Indices, crops: Crops | None = None) -> Tensor:
        """The host's part of taking pixels, which any thread may do; for `deliver`."""
        if self._resident is not None:
            return pinned(torch.from_numpy(positions), self.device)
        index = self._index[positions]
        if not self.crops_on_host:
            return self._gathered(index)
        if crops is None:
            return torch.from_numpy(centre_rows(self._images, index, self._input_size))
        return torch.from_numpy(crop_rows(self._images, index, crops, self._input_size))

    def _gathered(self, index: Indices) -> Tensor:
        """(B, H, W, C) pinned."""
        if not isinstance(self._images, np.ndarray):
            return pinned(torch.from_numpy(self._images[index]), self.device)
        rows = torch.empty((len(index), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=True)
        # Any other mode gathers into a buffer first.
        np.take(self._images, index, axis=0, out=rows.numpy(), mode="clip")
        return rows

    def deliver(self, read: Tensor) -> Tensor:
        """(B, C_in, H, W) uint8 on the device, of what `read` gave; does not wait for the copy."""
        moved = read.to(self.device, non_blocking=True)
        pixels = moved if self._resident is None else self._resident.index_select(0, moved)
        return pixels.permute(0, 3, 1, 2)


def _uploaded(images: Pixels, index: Indices, device: torch.device) -> Tensor:
    """(N, H, W, C) on the device, a part at a time: the host need not hold them all."""
    resident = torch.empty((len(index), *images.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(index), _UPLOADED_AT_A_TIME):
        part = index[start : start + _UPLOADED_AT_A_TIME]
        resident[start : start + len(part)] = torch.from_numpy(images[part])
    return resident


def pinned(x: Tensor, device: torch.device) -> Tensor:
    """On the host, where a copy to the device need not be waited for."""
    return x.pin_memory() if device.type == "cuda" else x

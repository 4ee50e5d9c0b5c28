"""faiss as the rest of the room calls it: loaded when it is needed, with as many threads as torch has."""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]


class Searched(Protocol):
    """What every index of faiss can do; arrays are float32 and contiguous."""

    def train(self, rows: Array) -> None:
        """Finds cells and code words."""

    def add(self, rows: Array) -> None:
        """Rows are numbered as they come."""

    def search(self, rows: Array, k: int) -> tuple[Array, npt.NDArray[np.int64]]:
        """Similarities and numbers (Q, k); -1 where nothing was found."""


def load_faiss() -> ModuleType:
    """The library, on as many threads as torch has."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    module: ModuleType = faiss
    return module


def as_array(rows: Tensor) -> Array:
    """What faiss takes."""
    array: Array = rows.detach().float().cpu().contiguous().numpy()
    return array


def flat_index(gallery: Tensor) -> Searched:
    """The exact index of (M, D) rows."""
    flat: Searched = load_faiss().IndexFlatIP(gallery.shape[1])
    flat.add(as_array(gallery))
    return flat

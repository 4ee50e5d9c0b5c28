"""What metrics accept: tensors or arrays, checked once, as sides that can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydml.counting import Side
from raydml.distances import full_precision
from raydml.neighbors import blocks

Rows = Tensor | npt.NDArray[np.floating]
Labels = Tensor | npt.NDArray[np.integer]

_NAMED_ROWS = 5
NO_POSITIVE = "no query has a positive: each is alone in its class, or with images of its own group"


def checked_side(rows: Rows, labels: Labels, groups: Labels | None, name: str) -> Side:
    """Rows (N, D) in float32 or float64 with int64 labels and groups (N,) on their device.

    Raises ValueError that begins with the name where they are something else, none at all or not finite.
    """
    x = full_precision(torch.as_tensor(rows)).detach()
    y = _as_tensor(labels, name, "labels")
    if x.ndim != 2 or y.shape != x.shape[:1] or len(x) == 0:
        raise ValueError(
            f"{name}: embeddings must be (N, D) and labels (N,), but got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    _require_finite(x, name)
    g = None if groups is None else _as_tensor(groups, name, "groups")
    if g is not None and g.shape != y.shape:
        raise ValueError(f"{name}: groups must be (N,) as the labels, but got {tuple(g.shape)} and {tuple(y.shape)}")
    return Side(x, _integers(y, x, name, "labels"), None, None if g is None else _integers(g, x, name, "groups"))


def _as_tensor(values: Labels, name: str, what: str) -> Tensor:
    try:
        return torch.as_tensor(values)
    except TypeError:  # NumPy's words and objects
        raise ValueError(f"{name}: {what} must be integers, but got {np.asarray(values).dtype}") from None


def _integers(values: Tensor, rows: Tensor, name: str, what: str) -> Tensor:
    if values.dtype.is_floating_point or values.dtype == torch.bool:
        raise ValueError(f"{name}: {what} must be integers, but got {values.dtype}")
    return values.to(device=rows.device, dtype=torch.int64)


def _require_finite(rows: Tensor, name: str) -> None:
    finite = torch.cat([torch.isfinite(rows[part]).all(1) for part in blocks(len(rows), rows.shape[1])])
    bad = (~finite).nonzero()[:, 0].tolist()
    if bad:
        listed = ", ".join(map(str, bad[:_NAMED_ROWS])) + (" ..." if len(bad) > _NAMED_ROWS else "")
        raise ValueError(
            f"{name}: embeddings must be finite, but {len(bad)} of {len(rows)} rows hold NaN or infinity: {listed}"
        )


@contextmanager
def exact_products() -> Iterator[None]:
    """float32 products without tf32: narrower ones make ties, and ties move recall by half a point."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)

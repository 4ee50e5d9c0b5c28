"""What torch computes in a piece of code, operation by operation: how many, how large, and each look at the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

# On CUDA each of these waits for the device; an index of booleans does too.
_SYNCHRONISING = ("_local_scalar_dense", "item", "nonzero", "unique", "masked_select", "equal", "is_nonzero")


class Operations(TorchDispatchMode):
    """Records every aten operation inside a `with`, forward and backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        """Without views, which cost no kernel."""
        self.looks: list[str] = []
        """Those for which the host waits for the device."""
        self.shapes: list[tuple[str, tuple[int, ...]]] = []
        """Of every tensor that came out, views too."""

    @property
    def largest(self) -> int:
        """Entries of the largest tensor that came out."""
        return max((math.prod(shape) for _, shape in self.shapes), default=0)

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        name = func.overloadpacket.__name__
        if not any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
            self.names.append(name)
        if _waits(name, args):
            self.looks.append(name)
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.shapes.append((name, tuple(tensor.shape)))
        return made


def _waits(name: str, args: tuple[object, ...]) -> bool:
    chosen = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
    by_booleans = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in chosen)
    return by_booleans or any(name.startswith(look) for look in _SYNCHRONISING)

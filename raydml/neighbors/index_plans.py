"""How large the parts of a faiss index are for so many rows, and where it runs: a choice, before anything is built.

cells           4 sqrt(N), or fewer where each would be trained on fewer than 39 rows (faiss's own least)
looked into     4 sqrt(cells), or as many as hold four times the rows that a list is long
codes of PQ     a byte for eight dimensions, but eight at least: their number divides D
graph of HNSW   32 neighbours a row (Malkov, Yashunin 2016 advise 5 to 48)
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Kind = Literal["flat", "ivf", "ivf_pq", "hnsw"]

ROWS_PER_CENTROID = 39
"""Fewer than these and faiss warns that a centroid is badly trained."""
CODE_WORDS = 256
"""Of each byte of a code."""
GRAPH_DEGREE = 32
EF_SEARCH = 64

_FEWEST_CELLS = 4
_DIMENSIONS_PER_CODE = 8
_FEWEST_CODES = 8
# Longer lists than these do not fit the registers of faiss's selection on a GPU.
_LONGEST_ON_GPU = 2048
# What faiss's scan of codes is compiled for on a GPU.
_CODES_ON_GPU = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
# From here on a copy to the GPU is worth it for rows that are not there yet.
_MANY_ROWS = 100_000


class Plan(NamedTuple):
    """An index that may be built."""

    asked: Kind
    kind: Kind
    """What is built: `flat` where there are too few rows for what was asked for."""
    num_cells: int = 0
    nprobe: int = 0
    """Cells that a query looks into."""
    code_bytes: int = 0
    """Of a row, for ivf_pq."""
    ef_search: int = 0
    """Candidates that a search in the graph keeps."""
    on_gpu: bool = False
    note: str = ""
    """Why it is not what was asked for, or not on the GPU that there is."""

    def described(self) -> str:
        """Such as `ivf_pq, 1,024 cells, 32 looked into`."""
        parts: list[str] = [self.asked]
        if self.num_cells:
            parts += [f"{self.num_cells:,} cells", f"{self.nprobe:,} looked into"]
        if self.ef_search:
            parts.append(f"{self.ef_search:,} candidates")
        return ", ".join([*parts, *([self.note] if self.note else [])])

    def facts(self) -> dict[str, int | str]:
        """What a reader must know to build the same again."""
        numbers = {
            "num_cells": self.num_cells,
            "nprobe": self.nprobe,
            "code_bytes": self.code_bytes,
            "ef_search": self.ef_search,
        }
        chosen = {name: value for name, value in numbers.items() if value}
        return {"engine": self.asked, **chosen, **({"engine_note": self.note} if self.note else {})}


def plan_index(
    kind: Kind,
    num_rows: int,
    dim: int,
    *,
    depth: int = 100,
    nprobe: int | None = None,
    ef_search: int | None = None,
    num_gpus: int = 0,
    on_cuda: bool = False,
) -> Plan:
    """The index for so many rows of so many dimensions, of which searches ask for lists of `depth`.

    `num_gpus` are those that faiss can use, `on_cuda` says that the rows are on one. Raises ValueError where nprobe is
    more than there are cells.
    """
    found = _sized(kind, num_rows, dim, depth, nprobe, ef_search or EF_SEARCH)
    if num_gpus == 0 or not (on_cuda or num_rows >= _MANY_ROWS):
        return found
    obstacle = _no_gpu(found, depth)
    return found._replace(on_gpu=True) if obstacle is None else found._replace(note=_joined(found.note, obstacle))


def _sized(kind: Kind, num_rows: int, dim: int, depth: int, nprobe: int | None, ef_search: int) -> Plan:
    if kind == "flat":
        return Plan(kind, kind)
    if kind == "hnsw":
        return Plan(kind, kind, ef_search=ef_search)
    fewest = ROWS_PER_CENTROID * (_FEWEST_CELLS if kind == "ivf" else CODE_WORDS)
    if num_rows < fewest:
        return Plan(kind, "flat", note=f"searched exactly: {num_rows:,} rows, and it is trained on {fewest:,} or more")
    cells = min(round(4 * math.sqrt(num_rows)), num_rows // ROWS_PER_CENTROID)
    if nprobe is not None and nprobe > cells:
        raise ValueError(f"nprobe must be at most {cells}, the cells for {num_rows:,} rows, but got nprobe={nprobe}")
    enough = max(4 * math.sqrt(cells), 4 * depth * cells / num_rows)
    codes = _code_bytes(dim) if kind == "ivf_pq" else 0
    return Plan(kind, kind, cells, nprobe or min(cells, math.ceil(enough)), codes)


def _code_bytes(dim: int) -> int:
    """The fewest parts that D divides into, of eight dimensions or fewer and at least eight: D where it is prime."""
    fewest = max(-(-dim // _DIMENSIONS_PER_CODE), min(dim, _FEWEST_CODES))
    return next(m for m in range(fewest, dim + 1) if dim % m == 0)


def _no_gpu(plan: Plan, depth: int) -> str | None:
    """Why an index cannot be searched on a GPU."""
    if plan.kind == "hnsw":
        return "on the CPU: faiss has no hnsw on a GPU"
    if depth > _LONGEST_ON_GPU or plan.nprobe > _LONGEST_ON_GPU:
        return f"on the CPU: a GPU makes lists of at most {_LONGEST_ON_GPU:,} from as many cells"
    if plan.code_bytes and plan.code_bytes not in _CODES_ON_GPU:
        return f"on the CPU: faiss has no codes of {plan.code_bytes} bytes on a GPU"
    return None


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))

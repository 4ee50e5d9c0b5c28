"""What an evaluation wrote, read back as anybody would have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raydml.data.listing import Roles
from raydml.embedding_files import Rows
from raydml.shards import read_columns
from raydml.splits import Indices
from raydml.stored import open_stored, read_rows


def read_embeddings(path: Path) -> tuple[Rows, Indices]:
    """Embeddings (N, D), the bits that were written, and labels (N,)."""
    stored = open_stored(path, scaled=True)
    return read_rows(stored, np.arange(stored.num_rows)), read_columns(stored).labels


def read_roles(path: Path) -> Roles | None:
    """(N,), None where the file has none."""
    return read_columns(open_stored(path)).roles

"""`python -m raydml.export RUN`, from words to an exit code."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console


def export(run: str, overrides: Sequence[str], console: Console) -> int:
    """Writes the model and says where it lies. Raises ConfigError for bad input."""
    raise NotImplementedError

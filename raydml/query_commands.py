"""`python -m raydml.evaluate RUN --query IMAGES [--among GALLERY]`, from words to an exit code."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from raydml.config import EvaluateOptions


def query(
    runs: Sequence[str], images: str, among: str | None, options: EvaluateOptions, console: Console, *, verbose: bool
) -> int:
    """Finds the nearest images and draws them. Raises ConfigError for bad input."""
    raise NotImplementedError

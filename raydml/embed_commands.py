"""`python -m raydml.embed RUN IMAGES`, from words to an exit code."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console


def embed(run: str, images: str, overrides: Sequence[str], console: Console, *, verbose: bool) -> int:
    """Embeds the images and says where they lie. Raises ConfigError for bad input."""
    raise NotImplementedError

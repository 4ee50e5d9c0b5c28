"""Terms of use of published benchmarks, told once to every user."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import platformdirs

from raydml.data.published import terms


def first_terms(kind: str, *, told: Path | None = None) -> str | None:
    """The terms of a kind where this user was not told before; None otherwise. `told` keeps the marks."""
    text = terms(kind)
    mark = (told or platformdirs.user_cache_path("raydml") / "terms") / kind
    if text is None or mark.exists():
        return None
    # A home that cannot be written is told again next time.
    with suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return text

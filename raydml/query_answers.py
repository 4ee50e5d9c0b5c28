"""What was found for queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Match(NamedTuple):
    """An image of the gallery that was found."""

    place: int
    """In the order of the gallery."""
    path: str
    class_name: str | None
    similarity: float
    """Cosine."""


@dataclass(frozen=True)
class Answer:
    """A query and what is nearest to it."""

    path: str
    class_name: str | None
    """None where it has none, or one that no image of the gallery has: then no match is right or wrong."""
    matches: tuple[Match, ...]
    """The nearest first."""

"""Every file of a kind with one key misspelt: what checks such files has to notice each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Json = Any
Place = tuple[str | int, ...]


def places(value: Json, *, free: frozenset[str], place: Place = ()) -> Iterator[Place]:
    """Where the keys are, but for those inside of the mappings named `free`, whose keys are the user's own."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*place, key)
            if key not in free:
                yield from places(inner, free=free, place=(*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, free=free, place=(*place, number))


def _opened(document: Json, place: Place) -> tuple[Json, Json]:
    """A copy that shares nothing, and what holds the last key of a place in it."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    return copy, inner


def with_value(document: Json, place: Place, value: Json) -> Json:
    """A copy with another value at a place."""
    copy, inner = _opened(document, place)
    inner[place[-1]] = value
    return copy


def with_misspelt(document: Json, place: Place) -> Json:
    """A copy in which the key at a place has a letter too many."""
    copy, inner = _opened(document, place)
    wrong = str(place[-1])
    moved = {(key[:1] + "q" + key[1:] if key == wrong else key): value for key, value in inner.items()}
    inner.clear()
    inner.update(moved)
    return copy

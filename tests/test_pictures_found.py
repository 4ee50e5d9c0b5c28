"""What is nearest to the queries that are shown, by every protocol, against a loop; and the files of the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydml.config import EvaluateOptions
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.neighbor_pictures import Depicted, write_pictures
from raydml.pictures.found import Query, Shown, shown_queries
from raydml.retrieval import (
    EveryOther,
    QueryGallery,
    RandomGallery,
    RetrievalProtocol,
    first_sides,
    protocol_metrics,
)

NUM_IMAGES = 40
LABELS = np.repeat(np.arange(11), 4)[:NUM_IMAGES]
LABELS[-1] = 99  # alone: never a query with a positive
ROLES = np.array([QUERY, GALLERY, GALLERY, ANY_ROLE] * 10, dtype=np.int8)
# Cameras, of which some took several images of a class; every seventh image has none.
GROUPS = np.where(np.arange(NUM_IMAGES) % 7 == 0, -1 - np.arange(NUM_IMAGES), np.arange(NUM_IMAGES) // 2 % 3)
PROTOCOLS: list[RetrievalProtocol] = [
    EveryOther(),
    EveryOther(GROUPS),
    QueryGallery(ROLES),
    QueryGallery(ROLES, GROUPS),
    RandomGallery(3),
]


def name_of(protocol: RetrievalProtocol) -> str:
    return f"{type(protocol).__name__}{' with groups' if groups_of(protocol) is not None else ''}"


def groups_of(protocol: RetrievalProtocol) -> np.ndarray | None:
    return None if isinstance(protocol, RandomGallery) else protocol.groups


def excluded(protocol: RetrievalProtocol, one: int, other: int) -> bool:
    groups = groups_of(protocol)
    return one == other or (groups is not None and LABELS[one] == LABELS[other] and groups[one] == groups[other])


def embedded(seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(NUM_IMAGES, 5)).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def shown(protocol: RetrievalProtocol, *, count: int = 3, k: int = 5) -> Shown:
    rows = embedded()
    return shown_queries(protocol, rows, LABELS, protocol_metrics(protocol, rows, LABELS), count=count, k=k)


def every(found: Shown) -> list[Query]:
    return [query for queries in found.values() for query in queries]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=name_of)
def test_hits_are_those_of_a_loop(protocol: RetrievalProtocol) -> None:
    rows = embedded()
    query, gallery, _ = (side.tolist() for side in first_sides(protocol, LABELS))
    found = every(shown(protocol))
    assert len(found) == 9
    for one in found:
        assert one.position in query
        others = [position for position in gallery if not excluded(protocol, one.position, position)]
        nearest = sorted(others, key=lambda position: (-float(rows[position] @ rows[one.position]), position))[:5]
        assert [hit.position for hit in one.hits] == nearest
        for hit in one.hits:
            assert hit.similarity == pytest.approx(float(rows[hit.position] @ rows[one.position]), abs=1e-6)
            assert hit.right == (LABELS[hit.position] == LABELS[one.position])


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=name_of)
def test_values_belong_to_the_queries(protocol: RetrievalProtocol) -> None:
    queries = protocol_metrics(protocol, embedded(), LABELS)
    assert queries.place is not None
    value_of = dict(zip(queries.place.tolist(), queries.values["map@r"].tolist(), strict=True))
    found = shown(protocol)
    assert all(one.average_precision == value_of[one.position] for one in every(found))
    assert found["best"][0].average_precision >= found["typical"][0].average_precision
    assert found["typical"][-1].average_precision >= found["worst"][0].average_precision
    if not isinstance(protocol, RandomGallery):
        assert found["best"][0].average_precision == max(value_of.values())
        assert found["worst"][0].average_precision == min(value_of.values())


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=name_of)
def test_a_gallery_smaller_than_asked_for_is_shown_whole(protocol: RetrievalProtocol) -> None:
    _, gallery, _ = first_sides(protocol, LABELS)
    for one in every(shown(protocol, k=100)):
        found = [hit.position for hit in one.hits]
        assert sorted(found) == [p for p in sorted(gallery.tolist()) if not excluded(protocol, one.position, p)]


class Images:
    """Images that tell their position, and remember which were looked at."""

    def __init__(self, missing: int | None = None) -> None:
        self.read: set[int] = set()
        self.missing = missing

    def pixels(self, position: int) -> np.ndarray | None:
        self.read.add(position)
        return None if position == self.missing else np.full((8, 8, 1), 5 * position, dtype=np.uint8)

    def depicted(self) -> Depicted:
        return Depicted(self.pixels, lambda p: f"class {LABELS[p]}", lambda p: f"{p}.jpg", lambda p: 100 + p)


def written(directory: Path, images: Images, **options: object) -> dict[str, bytes]:
    protocol, rows = EveryOther(), embedded()
    queries = protocol_metrics(protocol, rows, LABELS)
    return write_pictures(
        directory, images.depicted(), protocol, rows, LABELS, queries, EvaluateOptions.model_validate(options)
    )


def test_the_files_show_the_same_and_only_what_is_shown_is_read(tmp_path: Path) -> None:
    images = Images()
    drawn = written(tmp_path, images, pictures=2, neighbors=3)
    content: dict[str, Any] = json.loads((tmp_path / "neighbors.json").read_text(encoding="utf-8"))
    found = shown(EveryOther(), count=2, k=3)
    assert list(drawn) == ["best", "typical", "worst"]
    assert {kind: [q["index"] - 100 for q in queries] for kind, queries in content.items()} == {
        kind: [query.position for query in queries] for kind, queries in found.items()
    }
    first, same = content["best"][0], found["best"][0]
    assert first["map@r"] == same.average_precision
    assert first["image"] == f"{same.position}.jpg"
    assert first["class"] == f"class {LABELS[same.position]}"
    assert [(h["index"] - 100, h["similarity"], h["right"]) for h in first["hits"]] == [tuple(h) for h in same.hits]
    assert images.read == {p for q in every(found) for p in (q.position, *(hit.position for hit in q.hits))}
    with Image.open(tmp_path / "neighbors.png") as picture:
        shades = set(np.unique(np.asarray(picture)).tolist())
    assert {5 * position for position in images.read} <= shades, "every image is in it"


def test_an_image_that_is_gone_leaves_a_gap(tmp_path: Path) -> None:
    whole = written(tmp_path, Images(), pictures=2)
    position = shown(EveryOther(), count=2)["worst"][0].position
    gap = written(tmp_path, Images(missing=position), pictures=2)
    assert gap["worst"] != whole["worst"]


def test_none_are_drawn_where_none_are_wanted_and_old_ones_go(tmp_path: Path) -> None:
    written(tmp_path, Images())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["neighbors.json", "neighbors.png"]
    images = Images()
    assert written(tmp_path, images, pictures=0) == {}
    assert list(tmp_path.iterdir()) == []
    assert not images.read

"""Ranks by counting, compiled and with torch, against a loop: ties, huge classes, limits, shards, tiles, threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import config as numba_config

from raydml.counting import (
    Positives,
    Side,
    added,
    count_negatives,
    count_within,
    merged,
    positives_of,
    sorted_by_class,
    sweep,
)
from tests.counting_cases import CASES, UNLIMITED, require_counts, slow_counts, slow_positives, split

_ENGINES = ["compiled", "torch", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=_ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device of the rows; on a CPU the engine that is taken however few they are."""
    monkeypatch.setattr(sweep, "_COMPILED_FROM", 0 if request.param == "compiled" else 2**62)
    return torch.device("cuda" if request.param == "cuda" else "cpu")


def at(side: Side, rows: slice | torch.device) -> Side:
    """Some rows of a side, or all on a device."""
    change = (lambda x: x.to(rows)) if isinstance(rows, torch.device) else (lambda x: x[rows])
    return Side(*(None if x is None else change(x) for x in side))  # type: ignore[arg-type, no-untyped-call]


def limit_of(positives: Positives, kind: str) -> torch.Tensor:
    counts = positives.counts()
    return {"R": counts.clamp(min=1), "rank 20": counts.clamp(min=20), "none": torch.full_like(counts, UNLIMITED)}[kind]


@pytest.mark.parametrize("limit", ["R", "rank 20", "none"])
@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_a_loop(
    case: str, limit: str, engine: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set in itself, half of the products and all of them; and two thirds of it in the rest, which it overlaps."""
    whole = CASES[case]()
    third = len(whole.labels) // 3
    sides = {"itself": (whole, whole), "a gallery": (at(whole, slice(0, 2 * third + 1)), at(whole, slice(third, None)))}
    for query, gallery in sides.values():
        expected = slow_positives(query, gallery)
        counts = slow_counts(query, gallery, expected)
        q, g = at(query, engine), at(gallery, engine)
        positives = positives_of(q, g)
        if engine.type == "cpu":
            assert split(positives) == expected
        last = limit_of(positives, limit)
        for size in (48, 96, 768):
            monkeypatch.setattr(sweep, "_TILE", size)
            require_counts(count_negatives(q, g, positives, last), counts, last)
            if query is gallery:
                require_counts(count_within(q, positives, last), counts, last)


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7])
@pytest.mark.parametrize("case", ["classes of five", "one huge class", "integer codes", "all rows equal", "groups"])
def test_counts_of_parts_add_up(case: str, num_parts: int, engine: torch.device) -> None:
    on_host = CASES[case]()
    side = at(on_host, engine)
    expected = slow_counts(on_host, on_host, slow_positives(on_host, on_host))
    bounds = [len(side.labels) * part // num_parts for part in range(num_parts + 1)]
    parts = [at(side, slice(low, high)) for low, high in pairwise(bounds)]
    positives = merged([positives_of(side, part) for part in parts])
    whole = positives_of(side, side)
    assert torch.equal(positives.similarity, whole.similarity)
    assert torch.equal(positives.offsets, whole.offsets)
    for kind in ("R", "none"):
        limit = limit_of(positives, kind)
        found = added([count_negatives(side, part, positives, limit) for part in parts])
        require_counts(found, expected, limit)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 40), (3, 11), (11, 3), (40, 1), (49, 97)])
def test_few_rows_tie_as_many_do(sizes: tuple[int, int], engine: torch.device) -> None:
    row = torch.randn(1, 513, generator=torch.Generator().manual_seed(0)).to(engine)
    query, gallery = (Side(row.repeat(size, 1), torch.arange(size, device=engine) % 2) for size in sizes)
    positives = positives_of(query, gallery)
    found = count_negatives(query, gallery, positives, limit_of(positives, "none"))
    assert found.tied.tolist() == [sizes[1] > 1] * sizes[0]
    first = found.at_least[positives.offsets[:-1][positives.counts() > 0]].tolist()
    expected = [sizes[1] // 2, -(-sizes[1] // 2)]
    assert first == [expected[q % 2] for q in range(sizes[0]) if q % 2 < sizes[1]]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_share_the_queries_of_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_COMPILED_FROM", 0)
    side = CASES["one huge class"]()
    positives = positives_of(side, side)
    counts = slow_counts(side, side, split(positives))
    for kind in ("R", "none"):
        limit = limit_of(positives, kind)
        require_counts(count_within(side, positives, limit), counts, limit)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=25), st.integers(1, 30))
def test_any_rows_and_any_limit(rows: list[tuple[int, int]], last: int) -> None:
    """One number a row: rows tie whenever they can."""
    values, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    side = Side(values[:, None].float(), labels, torch.arange(len(rows)))
    positives = positives_of(side, side)
    assert split(positives) == slow_positives(side, side)
    limit = torch.full_like(labels, last)
    expected = slow_counts(side, side, split(positives))
    for compiled_from in (0, 2**62):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep, "_COMPILED_FROM", compiled_from)
            for found in (count_within(side, positives, limit), count_negatives(side, side, positives, limit)):
                require_counts(found, expected, limit)


@pytest.mark.parametrize("case", ["two classes", "one huge class"])
def test_a_limit_spares_work(case: str, engine: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last rank at 3, what is behind it is known to be behind it, and no more."""
    monkeypatch.setattr(sweep, "_TILE", 48)
    side = at(CASES[case](), engine)
    positives = positives_of(side, side)
    limit = torch.full_like(side.labels, 3)
    pruned = count_negatives(side, side, positives, limit)
    whole = count_negatives(side, side, positives, limit_of(positives, "none"))
    if engine.type == "cpu":  # where one product holds all, nothing is left to be spared
        assert pruned.at_least.sum() < whole.at_least.sum()


@pytest.mark.parametrize("case", ["classes of five", "groups"])
def test_rows_that_are_sorted_already_give_the_same(case: str, engine: torch.device) -> None:
    side = at(CASES[case](), engine)
    ordered, order = sorted_by_class(side)
    assert torch.equal(ordered.labels, side.labels[order])
    again, unmoved = sorted_by_class(ordered)
    assert again is ordered
    assert unmoved.tolist() == list(range(len(order)))
    assert split(positives_of(ordered, side)) == [split(positives_of(side, side))[row] for row in order.tolist()]


NO_NUMBA = """
import sys, torch
from raydml.metrics import retrieval_metrics
found = retrieval_metrics(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), metrics=("map",))
assert found["map"] == 1.0, found
assert "numba" not in sys.modules
"""


def test_few_rows_do_not_wait_for_numba() -> None:
    done = subprocess.run([sys.executable, "-c", NO_NUMBA], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_where_nothing_can_be_kept_kernels_are_compiled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raydml.counting.kernels import compiled

    (tmp_path / "a file").touch()
    monkeypatch.setattr(numba_config, "CACHE_DIR", str(tmp_path / "a file" / "below"))
    monkeypatch.setattr(numba_config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    with pytest.raises((RuntimeError, OSError)):
        numba.njit(numba.int64(numba.int64), cache=True)(_next)
    assert compiled(numba.int64(numba.int64))(_next)(2) == 3


def _next(x: int) -> int:
    return x + 1

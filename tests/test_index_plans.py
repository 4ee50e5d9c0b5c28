"""Which index is built for how many rows, and where: no index is."""

from __future__ import annotations

import re

import pytest

from raydml.neighbors import Kind, Plan, plan_index


@pytest.mark.parametrize(
    ("kind", "num_rows", "dim", "cells", "code_bytes"),
    [
        ("ivf", 156, 8, 4, 0),
        ("ivf", 5_924, 512, 151, 0),
        ("ivf", 60_502, 512, 984, 0),
        ("ivf", 1_000_000, 128, 4_000, 0),
        ("ivf_pq", 9_984, 512, 256, 64),
        ("ivf_pq", 200_000, 128, 1_789, 16),
        ("ivf_pq", 200_000, 100, 1_789, 20),
        ("ivf_pq", 200_000, 64, 1_789, 8),
        ("ivf_pq", 200_000, 12, 1_789, 12),
        ("ivf_pq", 200_000, 13, 1_789, 13),
        ("ivf_pq", 200_000, 1, 1_789, 1),
    ],
)
def test_cells_and_codes_follow_the_gallery(kind: Kind, num_rows: int, dim: int, cells: int, code_bytes: int) -> None:
    plan = plan_index(kind, num_rows, dim)
    assert (plan.kind, plan.num_cells, plan.code_bytes, plan.note) == (kind, cells, code_bytes, "")
    assert num_rows >= 39 * plan.num_cells
    assert code_bytes == 0 or dim % code_bytes == 0


def test_every_cell_that_a_long_list_needs_is_looked_into() -> None:
    short, long = (plan_index("ivf", 60_502, 512, depth=depth).nprobe for depth in (10, 4_000))
    assert short * 60_502 / 984 >= 4 * 10
    assert long * 60_502 / 984 >= 4 * 4_000
    assert plan_index("ivf", 60_502, 512, depth=60_000).nprobe == 984
    assert plan_index("ivf", 60_502, 512, depth=60_000, nprobe=3).nprobe == 3


@pytest.mark.parametrize(
    ("kind", "num_rows", "least"), [("ivf", 155, "156"), ("ivf_pq", 9_983, "9,984"), ("ivf", 1, "156")]
)
def test_few_rows_are_searched_exactly_and_it_is_said(kind: Kind, num_rows: int, least: str) -> None:
    plan = plan_index(kind, num_rows, 64, nprobe=2)
    assert plan == Plan(kind, "flat", note=f"searched exactly: {num_rows:,} rows, and it is trained on {least} or more")
    assert plan.described() == f"{kind}, {plan.note}"
    assert plan.facts() == {"engine": kind, "engine_note": plan.note}


def test_more_cells_than_there_are_cannot_be_looked_into() -> None:
    assert plan_index("ivf", 60_502, 512, nprobe=984).nprobe == 984
    with pytest.raises(ValueError, match="at most 984, the cells for 60,502 rows, but got nprobe=985"):
        plan_index("ivf", 60_502, 512, nprobe=985)


def test_a_plan_is_said_in_a_line_and_in_facts() -> None:
    plan = plan_index("ivf_pq", 1_000_000, 128, nprobe=32)
    assert plan.described() == "ivf_pq, 4,000 cells, 32 looked into"
    assert plan.facts() == {"engine": "ivf_pq", "num_cells": 4_000, "nprobe": 32, "code_bytes": 16}
    assert plan_index("hnsw", 10, 4).described() == "hnsw, 64 candidates"
    assert plan_index("hnsw", 10, 4, ef_search=100).facts() == {"engine": "hnsw", "ef_search": 100}
    assert plan_index("flat", 10, 4).described() == "flat"


@pytest.mark.parametrize(
    ("num_rows", "num_gpus", "on_cuda", "on_gpu"),
    [
        (60_502, 0, True, False),
        (60_502, 1, True, True),
        (60_502, 1, False, False),
        (200_000, 1, False, True),
        (200_000, 0, False, False),
    ],
)
def test_a_gpu_is_used_for_its_own_rows_or_many(num_rows: int, num_gpus: int, on_cuda: bool, on_gpu: bool) -> None:
    for kind in ("flat", "ivf", "ivf_pq"):
        plan = plan_index(kind, num_rows, 512, num_gpus=num_gpus, on_cuda=on_cuda)
        assert (plan.on_gpu, plan.note) == (on_gpu, "")


@pytest.mark.parametrize(
    ("kind", "dim", "depth", "reason"),
    [
        ("hnsw", 512, 10, "faiss has no hnsw on a GPU"),
        ("flat", 512, 2_049, "a GPU makes lists of at most 2,048 from as many cells"),
        ("ivf_pq", 200, 10, "faiss has no codes of 25 bytes on a GPU"),
    ],
)
def test_what_a_gpu_cannot_do_stays_on_the_cpu_with_a_reason(kind: Kind, dim: int, depth: int, reason: str) -> None:
    plan = plan_index(kind, 60_502, dim, depth=depth, num_gpus=1, on_cuda=True)
    assert not plan.on_gpu
    assert re.fullmatch(f"{kind}, .*on the CPU: {reason}", plan.described())

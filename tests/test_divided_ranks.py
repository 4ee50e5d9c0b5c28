"""Divided training on 2 to 4 ranks is that of one process: batches, divisions, steps and how it ends badly.

Processes are spawned, never forked: a forked child inherits the threads of torch as locks that nobody holds, and hangs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from tests.divided_ranks_cases import CASES, RUNS, SINGLE, WORLDS, Case, Result, everything
from tests.ranks import in_groups

Found = dict[str, Any]

# On one worker: what its tests share takes a minute to make.
pytestmark = pytest.mark.timeout(300)
"""Nothing here may hang: a rank that waits for another one gives up after a minute."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[int, list[Found]]:
    """What every rank found, by size of the group."""
    folder = tmp_path_factory.mktemp("ranks")
    return in_groups(everything, folder, cache, worlds=WORLDS, folder=folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Found:
    """What one process without a group finds; first, so that it fills the cache."""
    return everything(tmp_path_factory.mktemp("alone"), cache)


@pytest.fixture(params=sorted(WORLDS))
def ranks(request: pytest.FixtureRequest, alone: Found, worlds: dict[int, list[Found]]) -> list[Found]:
    """What every rank of one group found."""
    return worlds[request.param]


def vector(result: Result, prefix: str) -> Tensor:
    return torch.cat([x.flatten().double() for name, x in sorted(result.items()) if name.startswith(prefix)])


def error(found: Result, expected: Result, prefix: str = "") -> float:
    """Norm of the difference over the norm, of all tensors whose names start so."""
    assert found.keys() == expected.keys()
    norm = vector(expected, prefix).norm()
    return float((vector(found, prefix) - vector(expected, prefix)).norm() / norm)


def prefixes(result: Result) -> set[str]:
    """Model, loss, prototypes and masks apart, and their buffers: none hides behind a larger one."""
    parts = {".".join(name.split(".")[:2]) for name in result if "." in name}
    return {part for part in parts if float(vector(result, part).norm()) > 0.0} | {"loss"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step_is_that_of_one_process(case: Case, ranks: list[Found], alone: Found) -> None:
    assert_one_step(case, "divide", ranks, alone)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_so_is_a_step_of_all_learners(case: Case, worlds: dict[int, list[Found]], alone: Found) -> None:
    assert_one_step(case, "full", worlds[3], alone)


def assert_one_step(case: Case, stage: str, ranks: list[Found], alone: Found) -> None:
    expected = alone[f"{stage} {case.name}"]
    assert float(vector(expected, "move.model.head").norm()) > 0.0
    for found in (r[f"{stage} {case.name}"] for r in ranks):
        for prefix in prefixes(expected):
            assert error(found, expected, prefix) < 1e-10, prefix


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
def test_float32_differs_by_rounding_only(case: Case, ranks: list[Found], alone: Found) -> None:
    """Each is about as far from float64 as one process in float32 is, 4e-7 to 2e-5: euclidean distances lose most."""
    exact = alone[f"divide {replace(case, precision='float64').name}"]
    own = error(alone[f"divide {case.name}"], exact, "gradient")
    assert own < 5e-5
    for found in (r[f"divide {case.name}"] for r in ranks):
        assert error(found, exact, "gradient") < 3.0 * own + 1e-6


def test_a_rank_without_an_image_does_no_harm(ranks: list[Found], alone: Found) -> None:
    """A batch of two: three workers have 0, 1 and 1 of them."""
    for found in (r["few"] for r in ranks):
        assert error(found, alone["few"]) < 1e-10


def runs(ranks: list[Found]) -> list[Case]:
    return list(RUNS[len(ranks)])


def test_batches_and_divisions_are_those_of_one_process(ranks: list[Found], alone: Found) -> None:
    """Exactly, in float64; on every rank."""
    for case in runs(ranks):
        expected = alone[f"run {case.name}"]
        assert all(len(learners) == len(rows) for rows, learners in expected["batches"][1:-1])
        for found in (r[f"run {case.name}"] for r in ranks):
            assert found["batches"] == expected["batches"]
            assert all(map(torch.equal, found["divisions"], expected["divisions"]))


def test_epochs_end_at_the_same_parameters(ranks: list[Found], alone: Found) -> None:
    """Across three clusterings, the full stage and the conquest."""
    for case in runs(ranks):
        expected = alone[f"run {case.name}"]
        for found in (r[f"run {case.name}"] for r in ranks):
            assert error(found["parameters"], expected["parameters"]) < 1e-8
            assert len(found["rows"]) == 4
            for row, right in zip(found["rows"], expected["rows"], strict=True):
                assert row == pytest.approx(right, rel=1e-8, abs=1e-10)


def test_parameters_stay_equal_on_all_ranks_to_the_bit(ranks: list[Found]) -> None:
    for case in runs(ranks):
        first, *others = (r[f"run {case.name}"]["parameters"] for r in ranks)
        for other in others:
            assert all(torch.equal(other[name], x) for name, x in first.items())


def test_features_that_are_not_finite_on_one_rank_stop_all(ranks: list[Found]) -> None:
    """The second row of the last rank, which has images R - 1, 2 R - 1, ..."""
    last = 2 * len(ranks) - 1
    message = f"before epoch 2: 1 of 96 rows are NaN or infinite, first {last}"
    assert {found["broken"] for found in ranks} == {
        f"after 1 epochs: backbone features of the training images {message}"
    }

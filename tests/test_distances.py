"""Distances against differences of rows in float64, where rows coincide, and in every dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raydml.distances import cosine, euclidean, full_precision, squared_euclidean
from tests.loss_oracles import unit_rows

_SIZES = ((5, 7, 2), (3, 8, 64), (6, 4, 512))


def _rows(num: int, dim: int, device: torch.device, *, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return unit_rows(num, dim, seed=seed).to(device, dtype)


@pytest.mark.parametrize(("n", "m", "dim"), _SIZES)
def test_the_matrix_holds_every_pair(n: int, m: int, dim: int, device: torch.device) -> None:
    a, b = _rows(n, dim, device, seed=1), _rows(m, dim, device, seed=2)
    apart = a[:, None] - b[None]
    torch.testing.assert_close(cosine(a, b), (a[:, None] * b[None]).sum(2), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(squared_euclidean(a, b), apart.square().sum(2), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(euclidean(a, b), apart.norm(dim=2), rtol=1e-12, atol=1e-13)


def test_rows_need_not_have_unit_length(device: torch.device) -> None:
    a, b = 30.0 * _rows(4, 8, device, seed=1), 0.1 * _rows(5, 8, device, seed=2)
    torch.testing.assert_close(euclidean(a, b), (a[:, None] - b[None]).norm(dim=2), rtol=1e-11, atol=0.0)


def test_gradient_of_a_distance_is_the_unit_vector_between_the_rows(device: torch.device) -> None:
    a, b = _rows(1, 8, device, seed=1).requires_grad_(), _rows(1, 8, device, seed=2)
    euclidean(a, b).sum().backward()
    towards = (a - b).detach()
    torch.testing.assert_close(a.grad, towards / towards.norm(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 64, 128, 512, 2048])
def test_coinciding_rows_are_at_distance_zero_with_gradient_zero(
    dim: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Class-balanced batches repeat images of small classes: the root must not see their zero (0 * inf is NaN).

    Rows of one sign are the hard case: no two products cancel, so the rounding of a sum over D adds up.
    """
    rows = _rows(64, dim, device, seed=3, dtype=dtype).abs()
    rows = torch.cat([rows, _rows(64, dim, device, seed=4, dtype=dtype)])
    twice = torch.cat([rows, rows]).requires_grad_()
    distance = euclidean(twice, twice)
    same = torch.eye(128, dtype=torch.bool, device=device).repeat(2, 2)
    assert bool((distance[same] == 0).all())
    distance[same].sum().backward()
    assert twice.grad is not None
    assert bool((twice.grad == 0).all())


def test_a_distance_just_above_rounding_is_kept_with_its_gradient(device: torch.device) -> None:
    """What is swept to zero is the rounding of float32, about 1e-3 between unit rows, and no more."""
    angle = torch.tensor(2e-3)
    a = torch.tensor([[1.0, 0.0]], device=device).requires_grad_()
    b = torch.tensor([[float(angle.cos()), float(angle.sin())]], device=device)
    distance = euclidean(a, b)
    distance.sum().backward()
    assert a.grad is not None
    assert distance.item() == pytest.approx(2e-3, rel=0.1)
    assert float(a.grad[0, 1]) == pytest.approx(-1.0, rel=0.1)


def test_no_squared_distance_is_negative(device: torch.device) -> None:
    """Products of nearly equal rows round below zero: the root of that is NaN."""
    row = _rows(1, 256, device, seed=4, dtype=torch.float32)
    near = nn.functional.normalize(row + 1e-5 * torch.randn(200, 256, device=device), dim=1)
    raw = near.square().sum(1, keepdim=True) + near.square().sum(1) - 2.0 * near @ near.T
    assert bool((raw < 0).any()), "the rows do not provoke the rounding this test is about"
    assert bool((squared_euclidean(near, near) >= 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("matrix", [cosine, squared_euclidean, euclidean])
def test_half_precision_rows_are_multiplied_in_float32(
    matrix: object, dtype: torch.dtype, device: torch.device
) -> None:
    assert callable(matrix)
    half = _rows(16, 64, device, seed=5, dtype=dtype)
    assert torch.equal(matrix(half, half), matrix(half.float(), half.float()))


def test_float64_stays_and_the_rest_becomes_float32() -> None:
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    found = [full_precision(torch.zeros(1, dtype=dtype)).dtype for dtype in dtypes]
    assert found == [torch.float32, torch.float32, torch.float32, torch.float64]

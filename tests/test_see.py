"""Geometry and schedule of Spherical Embedding Expansion: the invariants of specs/see.md, section 7."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from raydml.config import SeeConfig
from raydml.see import expand, expanded_fraction, has_direction, num_expanded, reflected, rim_of, simplex
from tests.loss_oracles import unit_rows

Frames = Literal["shared", "independent"]
FRAMES: tuple[Frames, ...] = ("shared", "independent")
# K, D: a frame that needs no draw, small ones, the tight case K = D - 1, and sizes of a training.
SIZES = ((1, 2), (1, 7), (2, 3), (3, 9), (4, 5), (8, 9), (8, 64), (15, 16))
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}


def seeded(device: torch.device, seed: int = 5) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def around(num: int, dim: int, device: torch.device, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(num, D) embeddings and the class direction of each, at every angle; float64."""
    return unit_rows(num, dim, seed=seed).to(device), unit_rows(num, dim, seed=seed + 100).to(device)


def recurrence(k: int) -> list[list[float]]:
    """The centres as Pang et al. and the release make them, one entry after another."""
    a = [[0.0] * (k + 1) for _ in range(k + 1)]
    a[0][0] = 1.0
    for i in range(1, k + 1):
        for j in range(i):
            a[i][j] = -(1.0 / k + math.fsum(x * y for x, y in zip(a[i][:j], a[j][:j], strict=True))) / a[j][j]
        a[i][i] = math.sqrt(abs(1.0 - math.fsum(x * x for x in a[i][:i])))
    return [row[:k] for row in a]


@pytest.mark.parametrize("k", [1, 2, 3, 8, 16, 64])
def test_centres_are_those_of_the_recurrence(k: int, device: torch.device) -> None:
    """I0; and with the vectors of the specification the recurrence is itself checked."""
    centres = simplex(k, device=device)
    assert centres.device.type == device.type
    known = {1: [[1.0], [-1.0]], 2: [[1.0, 0.0], [-0.5, 0.866025404], [-0.5, -0.866025404]]}
    known[3] = [
        [1.0, 0.0, 0.0],
        [-0.333333333, 0.942809042, 0.0],
        [-0.333333333, -0.471404521, 0.816496581],
        [-0.333333333, -0.471404521, -0.816496581],
    ]
    if k in known:
        torch.testing.assert_close(centres.cpu(), torch.tensor(known[k], dtype=torch.float64), atol=1e-9, rtol=0.0)
    torch.testing.assert_close(centres.cpu(), torch.tensor(recurrence(k), dtype=torch.float64), atol=1e-13, rtol=0.0)


@pytest.mark.parametrize("k", [1, 2, 3, 8, 64, 512])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-7)])
def test_centres_are_a_regular_simplex(k: int, dtype: torch.dtype, tolerance: float, device: torch.device) -> None:
    """I0: Gram matrix, sum, tight frame, first vertex, lower triangle."""
    a = simplex(k, dtype=dtype, device=device)
    assert (a.dtype, a.shape) == (dtype, (k + 1, k))
    gram = torch.full((k + 1, k + 1), -1.0 / k, dtype=torch.float64).fill_diagonal_(1.0)
    wide = a.cpu().double()
    assert float((wide @ wide.T - gram).abs().max()) < tolerance
    assert float(wide.sum(0).abs().max()) < tolerance * k
    assert float((wide.T @ wide - (k + 1) / k * torch.eye(k, dtype=torch.float64)).abs().max()) < tolerance * k
    assert wide[0].tolist() == [1.0] + [0.0] * (k - 1)
    assert not bool(wide.triu(1).any())


def test_no_centres_are_refused() -> None:
    with pytest.raises(ValueError, match="num_expansions must be at least 1, but got 0"):
        simplex(0)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize(("k", "dim"), SIZES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_invariants(k: int, dim: int, dtype: torch.dtype, frames: Frames, device: torch.device) -> None:
    """I1 to I8: length, angle to the direction, rim, mutual angles, sums, frame; with the embedding as vertex 0."""
    z, p = (x.to(dtype) for x in around(12, dim, device))
    found = expand(z, p, k, generator=seeded(device), frames=frames)
    assert (found.shape, found.dtype, found.requires_grad) == ((12, k, dim), dtype, False)
    z, p, found = z.cpu().double()[:, None], p.cpu().double()[:, None], found.cpu().double()
    # A QR of an almost fully projected draw loses a digit.
    tolerance = TOLERANCE[dtype] * (10 if dim == k + 1 else 1)
    c = (z * p).sum(2, keepdim=True)
    s2 = 1.0 - c.square()
    vertices = torch.cat([z, found], dim=1)
    assert float((found.norm(dim=2) - 1.0).abs().max()) < tolerance
    assert float(((found * p).sum(2, keepdim=True) - c).abs().max()) < tolerance
    rim = vertices - c * p
    assert float((rim * p).sum(2).abs().max()) < tolerance
    assert float((rim.square().sum(2, keepdim=True) - s2).abs().max()) < tolerance
    apart = ~torch.eye(k + 1, dtype=torch.bool)
    assert float((vertices @ vertices.mT - (c.square() - s2 / k))[:, apart].abs().max()) < tolerance
    assert float((vertices.sum(1, keepdim=True) - (k + 1) * c * p).abs().max()) < tolerance * k
    assert float((found.mean(1, keepdim=True) - ((k + 1) * c * p - z) / k).abs().max()) < tolerance * k
    # I8: rank K with equal singular values.
    values = torch.linalg.svdvals(rim / s2.sqrt())
    assert float((values[:, :k] - math.sqrt((k + 1) / k)).abs().max()) < tolerance * k / float(s2.min().sqrt())
    assert float((found - z).norm(dim=2).min()) > 0.0


@pytest.mark.parametrize("frames", FRAMES)
def test_near_the_direction_the_rim_is_still_orthogonal(frames: Frames, device: torch.device) -> None:
    """In float32 one projection leaves 1e-7 / s along p: a tenth at the nearest of these."""
    p = around(4, 9, device)[1].float()
    offset = torch.tensor([1e-2, 1e-3, 1e-4, 1e-5], device=device)[:, None]
    z = torch.nn.functional.normalize(p + offset * around(4, 9, device)[0].float(), dim=1)
    rim = rim_of(z, p)
    assert float((rim.outward * p).sum(1).abs().max()) < 1e-6
    rows = expand(z, p, 8, generator=seeded(device), frames=frames)
    assert float((rows.norm(dim=2) - 1.0).abs().max()) < 2e-6


@pytest.mark.parametrize("frames", FRAMES)
def test_one_expansion_is_the_mirror_image(frames: Frames, device: torch.device) -> None:
    """I9; and it needs no draw."""
    z, p = around(9, 6, device)
    generator = seeded(device)
    before = generator.get_state()
    found = expand(z, p, 1, generator=generator, frames=frames)[:, 0]
    torch.testing.assert_close(found, 2.0 * (z * p).sum(1, keepdim=True) * p - z, atol=1e-14, rtol=0.0)
    assert torch.equal(generator.get_state(), before)


def moments(z: Tensor, p: Tensor, k: int, *, frames: Frames, device: torch.device) -> tuple[Tensor, Tensor]:
    """(K, D) mean and covariance (K, D, D) over frames of the expansions of one embedding."""
    generator, num = seeded(device), 4000
    if frames == "independent":
        found = expand(z.expand(num, -1), p.expand(num, -1), k, generator=generator, frames=frames)
    else:
        found = torch.cat([expand(z, p, k, generator=generator) for _ in range(num)])
    mean = found.mean(0)
    rest = (found - mean).permute(1, 2, 0)
    return mean, rest @ rest.mT / num


@pytest.mark.parametrize("frames", FRAMES)
def test_frames_lean_to_no_side(frames: Frames, device: torch.device) -> None:
    """I10 in law: every frame is uniform, so mean and covariance are those of specs/see.md, 5.1, in every direction.

    Columns of a QR have signs that depend on them: with those the mean is off by 0.3 s.
    """
    k, dim = 4, 6
    z, p = around(1, dim, device, seed=3)
    mean, covariance = moments(z, p, k, frames=frames, device=device)
    c = (z * p).sum()
    s = (1.0 - c.square()).sqrt()
    u = (z - c * p) / s
    assert float((mean - (c * p - s / k * u)).abs().max()) < 0.05 * float(s)
    free = torch.eye(dim, dtype=torch.float64, device=device) - p.T @ p - u.T @ u
    expected = (s * s * (1.0 - 1.0 / k**2) / (dim - 2)) * free
    assert float((covariance - expected).abs().max()) < 0.05 * float(s * s)


@pytest.mark.parametrize("frames", FRAMES)
def test_expansions_depend_on_seed_and_nothing_else(frames: Frames, device: torch.device) -> None:
    """I19: the same generator gives the same points to the bit, and torch's own generator is left alone."""
    z, p = around(7, 8, device)
    before = torch.get_rng_state()
    first, again, other = (expand(z, p, 3, generator=seeded(device, seed), frames=frames) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shared_frame_follows_the_order_of_rows(device: torch.device) -> None:
    """I11: row i of what comes out belongs to row i of what came in."""
    z, p = around(8, 6, device)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1)).to(device)
    straight = expand(z, p, 3, generator=seeded(device))
    mixed = expand(z[order], p[order], 3, generator=seeded(device))
    torch.testing.assert_close(mixed, straight[order], atol=1e-14, rtol=0.0)


@pytest.mark.parametrize("frames", FRAMES)
def test_random_directions_keep_the_angle_and_nothing_else(frames: Frames, device: torch.device) -> None:
    z, p = around(10, 8, device)
    found = expand(z, p, 5, generator=seeded(device), frames=frames, directions="random")
    cosine = (found * p[:, None]).sum(2)
    torch.testing.assert_close(cosine, (z * p).sum(1, keepdim=True).expand(-1, 5), atol=1e-12, rtol=0.0)
    torch.testing.assert_close(found.norm(dim=2), torch.ones_like(cosine), atol=1e-12, rtol=0.0)
    mahalanobis = expand(z, p, 5, generator=seeded(device), frames=frames)
    assert float((found.sum(1) - mahalanobis.sum(1)).norm(dim=1).min()) > 0.1


@pytest.mark.parametrize("directions", ["mahalanobis", "random"])
@pytest.mark.parametrize("frames", FRAMES)
def test_autocast_changes_nothing(frames: Frames, directions: Any, device: torch.device) -> None:  # noqa: ANN401
    """I20: half precision would cost three digits of every angle, and Proxy-Anchor multiplies them by 32."""
    z, p = (x.float() for x in around(6, 9, device))
    alone = expand(z, p, 4, generator=seeded(device), frames=frames, directions=directions)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(device.type, dtype):
            found = expand(z, p, 4, generator=seeded(device), frames=frames, directions=directions)
        assert torch.equal(found, alone)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_degenerate_places_are_finite(k: int, frames: Frames, device: torch.device) -> None:
    """I18: on the direction, opposite of it, twice the same, a single row, and p = +-q_0 of the frame."""
    dim = 6
    z, p = around(5, dim, device)
    z[0], z[1], z[2], p[2] = p[0], -p[1], z[3], p[3]
    found = expand(z, p, k, generator=seeded(device), frames=frames)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[0], p[0].expand(k, -1), atol=1e-7, rtol=0.0)
    torch.testing.assert_close(found[1], -p[1].expand(k, -1), atol=1e-7, rtol=0.0)
    assert has_direction(rim_of(z, p)).tolist() == [False, False, True, True, True]
    if frames == "shared":
        torch.testing.assert_close(found[2], found[3], atol=1e-14, rtol=0.0)
    assert expand(z[:1], p[:1], k, generator=seeded(device), frames=frames).shape == (1, k, dim)
    drawn = torch.randn(dim, k + 1, generator=seeded(device), dtype=torch.float64, device=device)
    q = torch.linalg.qr(drawn).Q[:, :1].T
    for pole in (q, -q):
        on_pole = expand(z[4:], pole, k, generator=seeded(device), frames=frames)
        torch.testing.assert_close((on_pole @ pole[0]).flatten(), (z[4:] @ pole[0]).expand(k), atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("frames", FRAMES)
def test_more_expansions_than_the_null_space_holds_are_refused(frames: Frames, device: torch.device) -> None:
    """I22, with both numbers."""
    z, p = around(3, 5, device)
    with pytest.raises(ValueError, match="must not exceed D - 1, but got num_expansions=5, D=5"):
        expand(z, p, 5, generator=seeded(device), frames=frames)


@pytest.mark.parametrize(("k", "dim"), [(1, 4), (3, 6), (5, 6)])
def test_reflections_are_the_same_points_with_an_orthogonal_jacobian(k: int, dim: int, device: torch.device) -> None:
    """I14."""
    z, p = around(1, dim, device, seed=2)
    fixed = expand(z, p, k, generator=seeded(device))
    torch.testing.assert_close(reflected(z, fixed), fixed, atol=1e-14, rtol=0.0)
    jacobian = torch.autograd.functional.jacobian(lambda x: reflected(x, fixed)[0], z)[:, :, 0]
    identity = torch.eye(dim, dtype=torch.float64, device=device).expand(k, -1, -1)
    torch.testing.assert_close(jacobian @ jacobian.mT, identity, atol=1e-13, rtol=0.0)
    assert float((jacobian[0] - identity[0]).norm()) > 1.0


def test_reflections_of_embeddings_on_their_direction_are_finite(device: torch.device) -> None:
    _, p = around(4, 6, device)
    for offset in (0.0, 1e-12, 1e-9):
        z = torch.nn.functional.normalize(p + offset, dim=1).float().requires_grad_()
        points = reflected(z, expand(z, p.float(), 3, generator=seeded(device)))
        (gradient,) = torch.autograd.grad(points.sum(), z)
        assert bool(points.isfinite().all())
        assert bool(gradient.isfinite().all())


def of(schedule: Any, low: float, high: float) -> SeeConfig:  # noqa: ANN401
    return SeeConfig(num_expansions=8, schedule=schedule, initial_fraction=low, final_fraction=high)


SCHEDULES: tuple[tuple[SeeConfig, int, list[int], list[float]], ...] = (
    (of("cosine", 0.0, 0.4), 100, [0, 10, 50, 99], [0.0, 0.009789, 0.2, 0.399901]),
    (of("cosine", 0.0, 0.4), 300, [0, 100, 199, 200, 299], [0.0, 0.2, 0.399975, 0.4, 0.4]),
    (of("threshold", 0.0, 0.4), 100, [0, 10, 50, 99], [0.4, 0.390211, 0.2, 9.9e-05]),
    (of("threshold", 0.0, 0.4), 300, [0, 150, 200, 299], [0.4, 0.2, 0.1, 1.1e-05]),
    (of("linear", 0.1, 0.5), 4, [0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4]),
    (of("linear", 0.0, 0.4), 400, [0, 100, 200, 399], [0.0, 0.2, 0.4, 0.4]),
    (of("constant", 0.0, 0.4), 3, [0, 1, 2], [0.4, 0.4, 0.4]),
)


@pytest.mark.parametrize(("config", "num_epochs", "epochs", "values"), SCHEDULES, ids=lambda x: None)
def test_schedules(config: SeeConfig, num_epochs: int, epochs: list[int], values: list[float]) -> None:
    assert [expanded_fraction(e, num_epochs, config) for e in epochs] == pytest.approx(values, abs=5e-7)


@pytest.mark.parametrize(("config", "num_epochs", "epochs", "values"), SCHEDULES, ids=lambda x: None)
def test_shares_rise_and_thresholds_fall(
    config: SeeConfig, num_epochs: int, epochs: list[int], values: list[float]
) -> None:
    """I17."""
    found = [expanded_fraction(e, num_epochs, config) for e in range(num_epochs)]
    assert found == sorted(found, reverse=config.schedule == "threshold")


def test_numbers_of_images_of_the_release() -> None:
    config, epochs = of("cosine", 0.0, 0.4), [0, 1, 5, 10, 25, 50, 75, 99]
    found = [num_expanded(180, expanded_fraction(e, 100, config)) for e in range(100)]
    assert [found[e] for e in epochs] == [0, 0, 0, 2, 11, 36, 61, 72]
    assert next(e for e, n in enumerate(found) if n >= 1) == 6


def test_halves_are_rounded_to_even() -> None:
    assert [num_expanded(n, 0.5) for n in (1, 3, 5, 7)] == [0, 2, 2, 4]
    assert [num_expanded(10, q) for q in (0.0, 0.04, 0.06, 1.0)] == [0, 0, 1, 10]

"""Distances, spectra and silhouettes against loops over all pairs and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples
from torch import Tensor

from raydml.metrics import distance_metrics, geometry, silhouettes, spectral_decay
from raydml.neighbors import exact
from tests.retrieval_oracles import unit_rows
from tests.test_metrics import Watch

LABELS = {
    "few big classes": [0] * 60 + [1] * 50 + [2] * 41,
    "many small classes": [i % 50 for i in range(170)],
    "sizes one and two": [*range(20), *range(20, 60), *range(20, 60)],
    "two classes": [0, 1, 1],
    "labels in any order": [2**53, -4, 7, 7, -4, 2**53, 2**53],
}


def rows_of(case: str, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """float64 rows that are not of unit length, and labels."""
    names = sorted(set(LABELS[case]))
    rows, _ = unit_rows([names.index(label) for label in LABELS[case]], seed=seed)
    return rows * torch.linspace(0.5, 3.0, len(rows), dtype=rows.dtype)[:, None], torch.tensor(LABELS[case])


def cosine_distance(a: Tensor, b: Tensor) -> float:
    return 1 - float(a @ b / max(float(a.norm() * b.norm()), 1e-300))


def mean_distance(rows: list[Tensor]) -> float:
    """Of all ordered pairs, one at a time."""
    pairs = [cosine_distance(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    return float(np.mean(pairs))


def by_class(rows: Tensor, labels: Tensor) -> dict[int, list[Tensor]]:
    classes: dict[int, list[Tensor]] = {}
    for row, label in zip(rows, labels.tolist(), strict=True):
        classes.setdefault(label, []).append(row / row.norm().clamp(min=1e-300))
    return classes


@pytest.mark.parametrize("case", LABELS)
def test_distances_equal_a_loop_over_pairs(case: str, device: torch.device) -> None:
    rows, labels = rows_of(case)
    classes = by_class(rows, labels)
    intra = {label: mean_distance(members) for label, members in classes.items() if len(members) > 1}
    inter = mean_distance([torch.stack(members).mean(0) for members in classes.values()])
    found = geometry(rows.to(device), labels.to(device), names=("distances",))
    mean = float(np.mean(list(intra.values())))
    expected = {"intra_distance": mean, "inter_distance": inter, "density": mean / inter}
    assert found.metrics == pytest.approx(expected, abs=1e-12)
    assert found.by_class == {"intra_distance": pytest.approx(intra, abs=1e-12)}
    assert found.by_row == {}
    assert distance_metrics(rows.numpy(), labels.numpy()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", LABELS)
def test_silhouettes_equal_scikit_learn(case: str, device: torch.device) -> None:
    rows, labels = rows_of(case)
    expected = silhouette_samples(rows.numpy(), labels.numpy(), metric="cosine")
    values = silhouettes(rows.to(device), labels.to(device))
    assert values.device.type == device.type
    assert values.tolist() == pytest.approx(expected, abs=1e-12)
    found = geometry(rows.to(device), labels, names=("silhouette",))
    assert found.metrics == {"silhouette": pytest.approx(expected.mean(), abs=1e-12)}
    assert torch.equal(found.by_row["silhouette"], values)
    means = {label: expected[labels.numpy() == label].mean() for label in set(labels.tolist())}
    assert found.by_class == {"silhouette": pytest.approx(means, abs=1e-12)}


@pytest.mark.parametrize("shape", [(200, 12), (7, 12), (12, 12), (5, 1)])
def test_spectral_decay_is_a_divergence_of_singular_values(shape: tuple[int, int], device: torch.device) -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(shape, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, shape[1])
    values = torch.linalg.svdvals(torch.nn.functional.normalize(rows, dim=1))
    shares = (values / values.sum()).tolist()
    expected = sum(1 / len(shares) * math.log(1 / len(shares) / share) for share in shares)
    assert spectral_decay(rows.to(device)) == pytest.approx(expected, abs=1e-9)


def test_directions_used_alike_have_no_decay_and_dead_ones_a_finite_one(device: torch.device) -> None:
    eye = torch.eye(8, device=device)
    assert spectral_decay(eye.repeat(3, 1)) == pytest.approx(0.0, abs=1e-12)
    half_dead = spectral_decay(torch.cat([eye[:4], -eye[:4]]))
    # Half of the values are as small as float32 rounds.
    eps = torch.finfo(torch.float32).eps
    assert half_dead == pytest.approx(math.log(4 * (1 + eps) / 8) - 0.5 * math.log(eps), abs=1e-6)
    assert spectral_decay(torch.ones(20, 8, device=device)) > half_dead


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_rows_are_at_no_distance(dtype: torch.dtype, device: torch.device) -> None:
    """Sums of equal rows round: no silhouette may be made of that."""
    row = torch.randn(33, generator=torch.Generator().manual_seed(4))
    rows = row.to(dtype=dtype, device=device).repeat(3000, 1)
    labels = torch.arange(3000) % 7
    found = geometry(rows, labels, names=("distances", "silhouette"))
    assert found.metrics["intra_distance"] == pytest.approx(0.0, abs=1e-12)
    assert found.metrics["inter_distance"] == pytest.approx(0.0, abs=1e-12)
    assert found.metrics["density"] < 1e-4
    assert found.metrics["silhouette"] == 0.0


def test_centres_that_coincide_have_a_finite_density() -> None:
    found = distance_metrics(torch.eye(3)[[0, 1, 0, 1]], torch.tensor([5, 5, 6, 6]))
    assert found == pytest.approx({"intra_distance": 1.0, "inter_distance": 0.0, "density": 1e8}, abs=1e-9)


def test_rows_of_zeros_are_at_distance_one_from_all(device: torch.device) -> None:
    rows, labels = rows_of("many small classes")
    rows[[3, 53, 70]] = 0.0  # two of one class, one of another
    found = geometry(rows.to(device), labels, names=("distances", "silhouette"))
    intra = {label: mean_distance(members) for label, members in by_class(rows, labels).items()}
    assert found.by_class["intra_distance"] == pytest.approx(intra, abs=1e-12)
    expected = silhouette_samples(rows.numpy(), labels.numpy(), metric="cosine")
    assert found.by_row["silhouette"].tolist() == pytest.approx(expected, abs=1e-12)


def test_half_precision_is_computed_in_full() -> None:
    rows, labels = rows_of("few big classes")
    half = rows.bfloat16()
    assert geometry(half, labels).metrics == pytest.approx(geometry(half.double(), labels).metrics, abs=1e-9)


@pytest.mark.parametrize("entries", [1, 900])
def test_the_size_of_blocks_does_not_matter(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = rows_of("few big classes")
    whole = geometry(rows, labels)
    monkeypatch.setattr(exact, "_BLOCK_ENTRIES", entries)
    in_blocks = geometry(rows, labels)
    assert in_blocks.metrics == pytest.approx(whole.metrics, abs=1e-12)
    assert torch.allclose(in_blocks.by_row["silhouette"], whole.by_row["silhouette"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("num_classes", [2, 500])
def test_nothing_compares_all_rows_with_all(
    num_classes: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_BLOCK_ENTRIES", 1)
    rows, labels = unit_rows([i % num_classes for i in range(2000)], seed=3)
    rows, labels = rows.to(device), labels.to(device)
    with Watch() as watch:
        geometry(rows, labels)
    assert watch.most_entries <= max(16 * num_classes, rows.numel())


ALL: dict[str, Callable[[Tensor, Tensor], object]] = {
    "geometry": geometry,
    "distances": distance_metrics,
    "silhouettes": silhouettes,
    "decay": lambda rows, _: spectral_decay(rows),
}


@pytest.mark.parametrize("name", ALL)
def test_rows_that_are_not_finite_are_named(name: str, device: torch.device) -> None:
    rows = torch.ones(20, 3, device=device)
    rows[4, 1], rows[11, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"2 of 20 rows hold NaN or infinity: 4, 11$"):
        ALL[name](rows, torch.arange(20) % 2)
    rows[12:] = torch.nan
    with pytest.raises(ValueError, match=r"10 of 20 rows hold NaN or infinity: 4, 11, 12, 13, 14 \.\.\."):
        ALL[name](rows, torch.arange(20) % 2)


_ROWS, _LABELS = torch.eye(4), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("function", "rows", "labels", "law"),
    [
        ("geometry", _ROWS[0], _LABELS, r"embeddings must be \(N, D\) and labels \(N,\), but got \(4,\)"),
        ("geometry", _ROWS[:0], _LABELS[:0], r"got \(0, 4\)"),
        ("geometry", _ROWS, _LABELS[:3], r"but got \(4, 4\) and \(3,\)"),
        ("geometry", _ROWS, _LABELS.float(), "labels must be integers, but got torch.float32"),
        ("geometry", _ROWS, _LABELS > 0, "labels must be integers, but got torch.bool"),
        ("distances", _ROWS, torch.arange(4), "every row is alone in its class"),
        ("distances", _ROWS, torch.zeros(4).long(), "all rows are of one class"),
        ("silhouettes", _ROWS, torch.zeros(4).long(), "all rows are of one class"),
        ("decay", _ROWS * 0, _LABELS, "must not all be zero"),
    ],
)
def test_what_makes_no_sense_is_refused(function: str, rows: Tensor, labels: Tensor, law: str) -> None:
    with pytest.raises(ValueError, match=law):
        ALL[function](rows, labels)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="distances, spectral_decay, silhouette, but got 'nmi'"):
        geometry(_ROWS, _LABELS, names=("nmi",))

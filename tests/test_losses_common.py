"""What holds for every loss: no look at the device, few operations, no dead option, no order, no narrow arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from raydml.config import LibraryConfig, LossConfig, Model
from raydml.config.grammar import literal_values
from raydml.losses import build_loss
from tests import loss_oracles as oracle
from tests.loss_cases import CASES, SECOND_VALUE, WITH_CLASSES
from tests.operations import Operations

_CONFIGS: tuple[type[Model], ...] = get_args(get_args(LossConfig)[0])
# The memory and what a library brings have tests of their own.
_FIELDS = [
    (config, field)
    for config in _CONFIGS
    for field in config.model_fields
    if field not in ("kind", "memory") and config is not LibraryConfig
]


@pytest.fixture(params=CASES, ids=lambda case: " ".join(str(v) for v in case.values()))
def case(request: pytest.FixtureRequest) -> dict[str, object]:
    """A loss as plain data."""
    fields: dict[str, object] = request.param
    return fields


def _build(fields: dict[str, object], device: torch.device, *, num_classes: int = 8) -> torch.nn.Module:
    """With the same proxies every time."""
    (config,) = [c for c in _CONFIGS if fields["kind"] in literal_values(c.model_fields["kind"].annotation)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = config.model_validate(fields)
        loss = build_loss(built, num_classes=num_classes, embedding_dim=6, max_positives=7)  # type: ignore[arg-type]
    return loss.to(device)


def _rows(names: list[int], device: torch.device) -> Tensor:
    return oracle.unit_rows(len(names), 6, seed=3, noise=1.5, classes=names).to(device)


def _seeded(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(5)


def _names_without_choice(fields: dict[str, object]) -> list[int]:
    """Where negatives are drawn, the draw depends on order and dtype: with a single negative there is no choice."""
    return [0, 0, 0, 0, 1] if fields["kind"] == "margin" else [0, 2, 2, 1, 0, 0, 2, 3, 1]


def _operations(
    fields: dict[str, object], device: torch.device, *, samples_per_class: int, num_classes: int
) -> Operations:
    names = [i // samples_per_class for i in range(32)]
    loss, labels = _build(fields, device, num_classes=num_classes), torch.tensor(names, device=device)
    embeddings, generator = _rows(names, device).float().requires_grad_(), _seeded(device)
    operations = Operations()
    with operations:
        loss(embeddings, labels, generator=generator).value.backward()
    return operations


def test_counter_of_operations_sees_what_it_is_for(device: torch.device) -> None:
    x = torch.ones(3, device=device)
    with Operations() as operations:
        x[x > 0].sum().item()
    assert {"gt", "index", "sum", "_local_scalar_dense"} <= {*operations.names}
    assert {"index", "_local_scalar_dense"} <= {*operations.looks}
    assert ("sum", ()) in operations.shapes
    assert operations.largest == 3


def test_few_operations_whatever_the_number_of_classes(case: dict[str, object], device: torch.device) -> None:
    """Goal L1 of specs/performance.md; batch scope on distances costs the discriminate loss twenty more."""
    few = _operations(case, device, samples_per_class=8, num_classes=10)
    many = _operations(case, device, samples_per_class=2, num_classes=1000)
    assert few.names == many.names
    assert len(many.names) <= (120 if "scope" in case else 100)


def test_the_host_never_looks_at_the_device(case: dict[str, object], device: torch.device) -> None:
    """By name, and on tensors without data: whatever depends on a value or makes a shape of one fails there."""
    assert _operations(case, device, samples_per_class=4, num_classes=8).looks == []
    nowhere = torch.device("meta")
    embeddings = torch.empty(12, 6, device=nowhere, requires_grad=True)
    value = _build(case, nowhere)(embeddings, torch.empty(12, dtype=torch.int64, device=nowhere)).value
    value.backward()
    assert value.shape == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks CUDA itself")
def test_cuda_sees_no_synchronisation(case: dict[str, object]) -> None:
    cuda = torch.device("cuda")
    _operations(case, cuda, samples_per_class=4, num_classes=8)  # the first call sets up libraries
    names = [i // 4 for i in range(32)]
    loss, labels = _build(case, cuda), torch.tensor(names, device=cuda)
    embeddings, generator = _rows(names, cuda).float().requires_grad_(), _seeded(cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(embeddings, labels, generator=generator).value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("config", "field"), _FIELDS, ids=[f"{c.__name__}.{f}" for c, f in _FIELDS])
def test_every_field_changes_the_loss(config: type[Model], field: str, device: torch.device) -> None:
    """An option that does nothing is a published setting that never applied. A new field needs a value above."""
    (kind,) = literal_values(config.model_fields["kind"].annotation)
    words = literal_values(config.model_fields[field].annotation)
    default = config.model_fields[field].default
    values = words or (default, SECOND_VALUE[str(kind), field])
    names = [0, 0, 0, 1, 1, 2, 2, 3]
    found = [
        oracle.run_loss(
            _build({"kind": kind, field: value}, device),
            _rows(names, device).float(),
            torch.tensor(names, device=device),
            generator=_seeded(device),
        )
        for value in values
    ]
    fingerprints = {(float(f.value), *(tuple(g.flatten().tolist()) for g in f.parameter_gradients)) for f in found}
    assert len(fingerprints) == len(values) >= 2


def test_order_does_not_matter(case: dict[str, object], device: torch.device) -> None:
    names = _names_without_choice(case)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(1))
    rows, labels = _rows(names, device), torch.tensor(names, device=device)
    straight = oracle.run_loss(_build(case, device).double(), rows, labels)
    mixed = oracle.run_loss(_build(case, device).double(), rows[order.to(device)], labels[order.to(device)])
    assert float(straight.value) > 0
    oracle.assert_agree(mixed, straight._replace(gradient=straight.gradient[order]), 1e-12)


def test_float32_is_near_float64(case: dict[str, object], device: torch.device) -> None:
    names = _names_without_choice(case)
    rows, labels = _rows(names, device), torch.tensor(names, device=device)
    wide = oracle.run_loss(_build(case, device).double(), rows, labels)
    oracle.assert_agree(oracle.run_loss(_build(case, device), rows.float(), labels), wide, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_are_judged_in_float32(
    dtype: torch.dtype, case: dict[str, object], device: torch.device
) -> None:
    """A loss returned in the dtype of its input loses two digits (specs/losses.md, 2.3, number 13)."""
    names = [0, 0, 0, 1, 1, 2, 2, 3]
    half, labels = _rows(names, device).to(dtype), torch.tensor(names, device=device)
    value = _build(case, device)(half, labels, generator=_seeded(device)).value
    assert value.dtype == torch.float32
    assert torch.equal(value, _build(case, device)(half.float(), labels, generator=_seeded(device)).value)


def test_a_loss_under_autocast_stays_in_float32(case: dict[str, object], device: torch.device) -> None:
    names = [0, 0, 0, 1, 1, 2, 2, 3]
    rows, labels = _rows(names, device).float(), torch.tensor(names, device=device)
    alone = _build(case, device)(rows, labels, generator=_seeded(device)).value
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(_build(case, device)(rows, labels, generator=_seeded(device)).value, alone)


def test_statistics_are_detached_scalars_on_the_device(case: dict[str, object], device: torch.device) -> None:
    names = [0, 0, 1, 1]
    rows = _rows(names, device).float().requires_grad_()
    output = _build(case, device)(rows, torch.tensor(names, device=device), generator=_seeded(device))
    assert output.value.requires_grad
    assert output.stats
    for number in output.stats.values():
        assert (number.shape, number.requires_grad, number.device.type) == ((), False, device.type)


_SPOILT: dict[str, tuple[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "three axes": (r"embeddings must be \(G, D\)", lambda x, y: (x[None], y)),
    "a label short": (r"labels \(G,\), but got \(4, 6\) and \(3,\)", lambda x, y: (x, y[:3])),
    "narrow labels": ("labels must be int64, but got torch.int32", lambda x, y: (x, y.int())),
    "not a number": (
        "embeddings must be finite.*1 of 4 rows, the first is row",
        lambda x, y: (x.masked_fill(x == x.max(), torch.nan), y),
    ),
    "infinite": ("embeddings must be finite", lambda x, y: (x.masked_fill(x == x.max(), torch.inf), y)),
}


@pytest.mark.parametrize("spoilt", _SPOILT)
def test_a_checked_loss_refuses_a_bad_batch(spoilt: str, case: dict[str, object], device: torch.device) -> None:
    message, spoil = _SPOILT[spoilt]
    rows, labels = _rows([0, 0, 1, 1], device).float(), torch.tensor([0, 0, 1, 1], device=device)
    loss = _build(case, device)
    loss(rows, labels, generator=_seeded(device), check=True)
    with pytest.raises(ValueError, match=message):
        loss(*spoil(rows, labels), generator=_seeded(device), check=True)


def test_embeddings_must_have_the_dimension_of_the_loss(case: dict[str, object], device: torch.device) -> None:
    """Where it has proxies, or a density that depends on it; the numbers are in the message."""
    rows, labels = oracle.unit_rows(4, 7, seed=0).float().to(device), torch.tensor([0, 0, 1, 1], device=device)
    loss = _build(case, device)
    if case["kind"] in WITH_CLASSES | {"margin"}:
        with pytest.raises(ValueError, match="embeddings must have D=6 as the loss has, but got D=7"):
            loss(rows, labels, generator=_seeded(device), check=True)
    else:
        assert bool(loss(rows, labels, generator=_seeded(device), check=True).value.isfinite())


@pytest.mark.parametrize("label", [-1, 8, 2**40])
def test_labels_are_checked_where_each_class_has_a_parameter(
    label: int, case: dict[str, object], device: torch.device
) -> None:
    """Any int64 tells classes apart for the other losses."""
    rows, labels = _rows([0, 0, 1, 1], device).float(), torch.tensor([0, 0, label, label], device=device)
    loss = _build(case, device)
    if case["kind"] in WITH_CLASSES or case.get("learn_beta") == "per_class":
        with pytest.raises(
            ValueError, match=rf"labels must lie in \[0, 8\), but got {min(0, label)} ... {max(0, label)}"
        ):
            loss(rows, labels, generator=_seeded(device), check=True)
    else:
        assert bool(loss(rows, labels, generator=_seeded(device), check=True).value.isfinite())

"""Classes in chunks: the same loss, and no matrix of all embeddings with all classes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from raydml.config import parse
from raydml.losses import build_loss, classes
from tests import loss_oracles as oracle
from tests.operations import Operations

_CONFIGS: dict[str, dict[str, object]] = {
    "proxy nca, original": {"kind": "proxy_nca", "form": "original"},
    "proxy nca++": {"kind": "proxy_nca"},
    "proxy anchor": {"kind": "proxy_anchor"},
    "soft triple": {"kind": "soft_triple", "centers_per_class": 2},
    "softmax": {"kind": "normalised_softmax"},
    "cosface": {"kind": "cosface", "scale": 8.0},
    "arcface": {"kind": "arcface", "scale": 8.0},
    "curricularface": {"kind": "curricularface", "scale": 8.0, "momentum": 0.3},
}
_DIM = 4


def _build(fields: Mapping[str, object], device: torch.device, *, num_classes: int, dim: int = _DIM) -> nn.Module:
    """In float64, with the same proxies every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        loss = build_loss(parse({"loss": fields}).loss, num_classes=num_classes, embedding_dim=dim)
    return loss.to(device).double()


def _spread_names(count: int, num_classes: int) -> list[int]:
    """Some twice, the first and the last among them, in no order."""
    return [(5 * (i // 2)) % num_classes for i in range(count - 1)] + [num_classes - 1]


def _chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the sizes of the chunks that the losses see."""
    sizes: list[int] = []
    made = classes.SomeClasses

    def counted(proxies: Tensor, labels: Tensor, everything: bool) -> classes.SomeClasses:
        sizes.append(len(proxies))
        return made(proxies, labels, everything)

    monkeypatch.setattr(classes, "SomeClasses", counted)
    return sizes


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
@pytest.mark.parametrize(
    ("num_classes", "largest", "expected"),
    [(12, 36, [4, 4, 4]), (13, 36, [4, 3, 3, 3]), (11, 1, [3, 2, 2, 2, 2]), (4, 1, [2, 2]), (5, 1, [3, 2]),
     (3, 1, [3]), (2, 1, [2])],
)  # fmt: skip
def test_chunks_equal_the_whole(
    fields: dict[str, object],
    num_classes: int,
    largest: int,
    expected: list[int],
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Uneven ones too, and never one of a single class, which would have no other class. Nine rows a batch."""
    names = _spread_names(9, num_classes)
    rows = oracle.unit_rows(9, _DIM, seed=2, classes=names).to(device)
    labels = torch.tensor(names, device=device)
    whole = oracle.run_loss(_build(fields, device, num_classes=num_classes), rows, labels)
    # A class of SoftTriple has two rows: as many chunks at twice as many entries.
    rows_per_class = 2 if fields["kind"] == "soft_triple" else 1
    monkeypatch.setattr(classes, "_LARGEST", rows_per_class * largest)
    sizes = _chunks(monkeypatch)
    loss = _build(fields, device, num_classes=num_classes)
    found = oracle.run_loss(loss, rows, labels)
    assert sizes == expected
    oracle.assert_agree(found, whole, 1e-12)
    assert bool(torch.cat([g.flatten() for g in (found.gradient, *found.parameter_gradients)]).isfinite().all())


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_a_class_alone_in_its_chunk_of_extremes(
    fields: dict[str, object], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal rows at and opposite to proxies, all of one class: other chunks hold nobody's class."""
    whole, chunked = (_build(fields, device, num_classes=6) for _ in range(2))
    pole = nn.functional.normalize(next(whole.parameters()).detach().reshape(6, -1, _DIM)[2, 0], dim=0)
    rows, labels = torch.stack([pole, pole, -pole]), torch.tensor([2, 2, 2], device=device)
    expected = oracle.run_loss(whole, rows, labels)
    monkeypatch.setattr(classes, "_LARGEST", 1)
    oracle.assert_agree(oracle.run_loss(chunked, rows, labels), expected, 1e-12)


def test_the_curriculum_moves_once_a_step(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are computed twice, the buffer is not."""
    names = _spread_names(9, 12)
    rows, labels = oracle.unit_rows(9, _DIM, seed=2).to(device), torch.tensor(names, device=device)
    whole, chunked = (_build(_CONFIGS["curricularface"], device, num_classes=12) for _ in range(2))
    for _ in range(3):
        oracle.run_loss(whole, rows, labels)
    monkeypatch.setattr(classes, "_LARGEST", 1)
    for _ in range(3):
        oracle.run_loss(chunked, rows, labels)
    assert float(whole.state_dict()["curriculum"]) != 0.0
    assert torch.equal(whole.state_dict()["curriculum"], chunked.state_dict()["curriculum"])


def test_chunks_are_computed_again_with_the_curriculum_of_their_step(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another step may come between forward and backward."""
    names = _spread_names(9, 12)
    rows, labels = oracle.unit_rows(9, _DIM, seed=2).to(device), torch.tensor(names, device=device)
    gradients: list[Tensor] = []
    for largest in (2**26, 1):
        monkeypatch.setattr(classes, "_LARGEST", largest)
        loss, leaf = _build(_CONFIGS["curricularface"], device, num_classes=12), rows.clone().requires_grad_()
        value = loss(leaf, labels).value
        loss(-rows, labels)
        gradients += torch.autograd.grad(value, leaf)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-14)


def _largest_of(fields: Mapping[str, object], device: torch.device) -> tuple[int, int]:
    """Entries of the largest tensor of a step, and of all tensors that the forward pass keeps; 32 rows, 200 classes."""
    loss, names = _build(fields, device, num_classes=200, dim=2), [i * 6 for i in range(32)]
    rows = oracle.unit_rows(32, 2).to(device).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with Operations() as operations:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(rows, torch.tensor(names, device=device)).value
        value.backward()
    return operations.largest, sum(kept.values())


@pytest.mark.parametrize("fields", _CONFIGS.values(), ids=_CONFIGS)
def test_no_tensor_is_as_large_as_all_embeddings_with_all_classes(
    fields: dict[str, object], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, recomputation and backward. What is left: 800 coordinates of centres, 32 x 32 pairs of rows."""
    whole, whole_kept = _largest_of(fields, device)
    rows_per_class = 2 if fields["kind"] == "soft_triple" else 1
    assert whole == 32 * 200 * rows_per_class
    assert whole_kept > 32 * 200
    monkeypatch.setattr(classes, "_LARGEST", 800)
    largest, kept = _largest_of(fields, device)
    assert largest <= 1024
    assert kept < 32 * 200

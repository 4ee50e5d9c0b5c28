"""Cross-batch memory: the loss within the batch and against the last embeddings, for every loss on pairs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from pytorch_metric_learning import losses as pml
from torch import Tensor, nn

from raydml.config import ConfigError, ExperimentConfig, PairLossConfig, dump, parse
from raydml.config.grammar import literal_values
from raydml.losses import LossOutput, References, build_loss
from raydml.losses.memory import CrossBatchMemory
from tests import loss_oracles as oracle
from tests import pair_oracles as loops
from tests.operations import Operations

Fields = dict[str, object]
Batch = tuple[Tensor, list[int]]
_DIM = 6
_CASES: tuple[Fields, ...] = (
    {"kind": "discriminate"},
    {"kind": "contrastive", "negative_margin": 1.2},
    {"kind": "triplet"},
    {"kind": "margin", "beta": 1.6, "nonzero_cutoff": 2.0},
    {"kind": "lifted_structure", "form": "generalised"},
    {"kind": "lifted_structure", "form": "original"},
    {"kind": "n_pair"},
    {"kind": "nt_xent"},
    {"kind": "supcon"},
    {"kind": "multi_similarity"},
    {"kind": "circle", "scale": 16.0},
    {"kind": "angular"},
    {"kind": "histogram", "num_bins": 9},
)
_WITHOUT_DRAWS = [case for case in _CASES if case["kind"] != "margin"]


def _plain(fields: Fields, device: torch.device) -> nn.Module:
    return build_loss(loops.configured(fields), num_classes=8, embedding_dim=_DIM).to(device).double()


def _with_memory(fields: Fields, device: torch.device, **memory: object) -> CrossBatchMemory:
    config = loops.configured({**fields, "memory": memory})
    loss = build_loss(config, num_classes=8, embedding_dim=_DIM, max_positives=15).to(device).double()
    assert isinstance(loss, CrossBatchMemory)
    return loss


def _batches(num: int, size: int, device: torch.device, *, seed: int = 0) -> Iterator[Batch]:
    """Two of every class and, where the size is odd, a singleton; other classes in every step."""
    for step in range(num):
        names = [(step + i // 2) % 5 for i in range(size)]
        yield oracle.unit_rows(size, _DIM, seed=seed + step, noise=1.5, classes=names).to(device), names


def _seeded(device: torch.device, seed: int = 5) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def _step(loss: nn.Module, batch: Batch, *, references: References | None = None) -> oracle.Judged:
    """Value and gradient of one step."""
    rows, names = batch
    leaf = rows.clone().requires_grad_()
    more = {} if references is None else {"references": references}
    output = loss(leaf, torch.tensor(names, device=rows.device), generator=_seeded(rows.device), **more)
    (gradient,) = torch.autograd.grad(output.value, leaf)
    return oracle.Judged(output.value.detach().cpu().double(), gradient.cpu().double())


def _sum(first: oracle.Judged, second: oracle.Judged, weight: float) -> oracle.Judged:
    return oracle.Judged(first.value + weight * second.value, first.gradient + weight * second.gradient)


def test_every_pair_loss_is_a_case() -> None:
    kinds = {str(*literal_values(config.model_fields["kind"].annotation)) for config in get_args(PairLossConfig)}
    assert {case["kind"] for case in _CASES} == kinds


@pytest.mark.parametrize("fields", _CASES, ids=str)
def test_no_memory_is_the_plain_loss(fields: Fields, device: torch.device) -> None:
    without = build_loss(loops.configured({**fields, "memory": {"size": 0}}), num_classes=8, embedding_dim=_DIM)
    remembering = _with_memory(fields, device, size=16)
    assert type(without) is type(_plain(fields, device)) is type(remembering.loss)
    assert not isinstance(without, CrossBatchMemory)
    assert remembering.embeddings.shape == (16, _DIM)


@pytest.mark.parametrize("fields", _CASES, ids=str)
def test_the_batch_as_its_own_references_is_the_batch(fields: Fields, device: torch.device) -> None:
    """In whatever order, and with empty places between; one negative leaves a loss that draws no choice."""
    names = [0, 0, 0, 0, 1] if fields["kind"] == "margin" else [0, 0, 1, 1, 2, 2, 3, 3, 4]
    size = len(names)
    rows = oracle.unit_rows(size, _DIM, noise=1.5, classes=names).to(device)
    place = torch.randperm(size + 3, generator=torch.Generator().manual_seed(1))[:size].to(device)
    others = oracle.unit_rows(size + 3, _DIM, seed=9).to(device).index_copy(0, place, rows)
    labels = torch.full((size + 3,), -1, device=device).index_copy(0, place, torch.tensor(names, device=device))
    plain = _plain(fields, device)
    expected = _step(plain, (rows, names))
    found = _step(plain, (rows, names), references=References(others, labels, place))
    assert float(expected.value) > 0
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-12)


@pytest.mark.parametrize("fields", _WITHOUT_DRAWS, ids=str)
def test_equals_the_loop_over_the_last_embeddings(fields: Fields, device: torch.device) -> None:
    """Seven embeddings, batches of three: the third wraps around. Gradients reach the anchors alone."""
    loss, config, history = _with_memory(fields, device, size=7, weight=0.6), loops.configured(fields), list[Batch]()
    for rows, names in _batches(5, 3, device):
        history.append((rows, names))
        others = torch.cat([r for r, _ in history]).cpu()[-7:]
        other_names = [y for _, n in history for y in n][-7:]
        own = range(len(other_names) - 3, len(other_names))

        def both(x: Tensor, known: Tensor, y: list[int], known_y: list[int], own: range) -> Tensor:
            across = loops.loop(loops.Compared(x, y, known.detach(), known_y, own), config)
            return loops.loop(loops.within(x, y), config) + 0.6 * across

        expected = oracle.judge(lambda x: both(x, others, names, other_names, own), rows)  # noqa: B023
        oracle.assert_agree(_step(loss, (rows, names)), expected, 1e-10)


@pytest.mark.parametrize("fields", _CASES, ids=str)
def test_equals_explicit_references_whatever_the_size(fields: Fields, device: torch.device) -> None:
    """Forty embeddings, batches of sixteen: the third batch lies at both ends of the queue."""
    loss, plain = _with_memory(fields, device, size=40, weight=0.7), _plain(fields, device)
    kept: list[tuple[Tensor, int]] = [(torch.zeros(_DIM, device=device, dtype=torch.float64), -1)] * 40
    for step, (rows, names) in enumerate(_batches(5, 16, device)):
        own = [(16 * step + i) % 40 for i in range(16)]
        for place, row, name in zip(own, rows, names, strict=True):
            kept[place] = (row, name)
        labels = torch.tensor([name for _, name in kept], device=device)
        references = References(torch.stack([row for row, _ in kept]), labels, torch.tensor(own, device=device))
        # Draws go on where those within the batch ended: the second loss has to follow the first on one generator.
        leaf, y, generator = rows.clone().requires_grad_(), torch.tensor(names, device=device), _seeded(device)
        first: LossOutput = plain(leaf, y, generator=generator)
        second: LossOutput = plain(leaf, y, references=references, generator=generator)
        (gradient,) = torch.autograd.grad(first.value + 0.7 * second.value, leaf)
        value = (first.value + 0.7 * second.value).detach().cpu()
        oracle.assert_agree(_step(loss, (rows, names)), oracle.Judged(value, gradient.cpu()), 1e-12)


@pytest.mark.parametrize("fields", _CASES, ids=str)
def test_empty_places_are_neither_positive_nor_negative(fields: Fields, device: torch.device) -> None:
    clean, dirty = (_with_memory(fields, device, size=20) for _ in range(2))
    dirty.embeddings.copy_(oracle.unit_rows(20, _DIM, seed=8))
    for batch in _batches(2, 6, device):
        oracle.assert_agree(_step(dirty, batch), _step(clean, batch), 0.0)


def test_the_first_step_counts_the_batch_twice(device: torch.device) -> None:
    """As the paper does: the batch enters first. Its value again, and half of the gradient, for the anchors alone."""
    (batch,) = _batches(1, 8, device)
    once = _step(_plain({"kind": "nt_xent"}, device), batch)
    twice = _step(_with_memory({"kind": "nt_xent"}, device, size=8), batch)
    assert float(twice.value) == pytest.approx(2.0 * float(once.value), rel=1e-12)
    assert 0.0 < oracle.relative(twice.gradient, 2.0 * once.gradient) < 1.0


def test_warm_up_fills_the_memory_and_does_not_count(device: torch.device) -> None:
    fields: Fields = {"kind": "nt_xent"}
    warming = _with_memory(fields, device, size=40, weight=2.0, warmup_steps=2)
    from_the_start, plain = _with_memory(fields, device, size=40, weight=2.0), _plain(fields, device)
    for step, batch in enumerate(_batches(4, 8, device)):
        counted = _step(from_the_start, batch)
        oracle.assert_agree(_step(warming, batch), _step(plain, batch) if step < 2 else counted, 1e-12)
        assert int(warming.enqueued) == 8 * (step + 1)


@pytest.mark.parametrize("fields", [{"kind": "margin", "learn_beta": "shared"}, {"kind": "supcon"}], ids=str)
def test_a_state_continues_where_it_was_saved(fields: Fields, device: torch.device) -> None:
    """In the middle of a wrap and of a warm-up. The library forgets where its queue is (specs/losses.md, 2.3)."""
    straight, resumed = (_with_memory(fields, device, size=10, warmup_steps=4) for _ in range(2))
    batches = list(_batches(6, 4, device))
    for batch in batches[:3]:
        _step(straight, batch)
    saved = io.BytesIO()
    torch.save(straight.state_dict(), saved)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert {"embeddings", "labels", "enqueued", "steps"} <= {*straight.state_dict()}
    for batch in batches[3:]:
        first, second = _step(straight, batch), _step(resumed, batch)
        assert torch.equal(first.value, second.value)
        assert torch.equal(first.gradient, second.gradient)
        for name, buffer in straight.named_buffers():
            assert torch.equal(buffer, resumed.get_buffer(name)), name
    theirs = pml.CrossBatchMemory(pml.ContrastiveLoss(), _DIM, memory_size=10)
    assert {*theirs.state_dict()} == {"embedding_memory", "label_memory"}


def test_a_batch_beyond_the_memory_is_refused(device: torch.device) -> None:
    loss = _with_memory({"kind": "circle"}, device, size=8)
    exact, larger = next(_batches(1, 8, device)), next(_batches(1, 9, device))
    assert bool(_step(loss, exact).value.isfinite())
    with pytest.raises(ValueError, match="a memory of 8 embeddings cannot hold a batch of 9"):
        _step(loss, larger)


def test_a_configuration_has_room_for_a_batch(tiny: ExperimentConfig) -> None:
    def with_size(size: int) -> ExperimentConfig:
        return parse({**dump(tiny), "loss": {"kind": "contrastive", "memory": {"size": size}}})

    for size in (0, 16, 17):
        with_size(size)
    for size in (1, 15):
        with pytest.raises(ConfigError, match=rf"loss\.memory\.size={size}, data\.batch_size=16"):
            with_size(size)


def test_a_checked_memory_has_no_use_for_negative_labels(device: torch.device) -> None:
    """They mean an empty place: such an anchor would find positives there."""
    loss, (batch,) = _with_memory({"kind": "supcon"}, device, size=8), _batches(1, 4, device)
    labels = torch.tensor([0, 0, -1, -1], device=device)
    with pytest.raises(ValueError, match=r"labels must not be negative .* but got -1"):
        loss(batch[0], labels, check=True)
    assert int(loss.enqueued) == 0


def test_original_lifted_structure_of_a_batch_of_one_class(device: torch.device) -> None:
    """Its positives have no negatives among the anchors: an empty sum, not the constant that stands for one."""
    fields: Fields = {"kind": "lifted_structure", "form": "original"}
    config, rows = loops.configured(fields), oracle.unit_rows(6, _DIM, seed=2).to(device)
    own, names, known = torch.arange(3, device=device), [0, 0, 0], [0, 0, 0, 0, 1, 1]
    references = References(rows, torch.tensor(known, device=device), own)
    expected = oracle.judge(
        lambda x: loops.loop(loops.Compared(x, names, rows.cpu(), known, range(3)), config), rows[:3]
    )
    assert float(expected.value) > 0
    oracle.assert_agree(_step(_plain(fields, device), (rows[:3], names), references=references), expected, 1e-12)


_OPINIONS: tuple[tuple[Fields, nn.Module], ...] = (
    ({"kind": "contrastive", "negative_margin": 1.0}, pml.ContrastiveLoss(0.0, 1.0)),
    ({"kind": "multi_similarity", "epsilon": None}, pml.MultiSimilarityLoss()),
    ({"kind": "nt_xent"}, pml.NTXentLoss()),
)


@pytest.mark.parametrize(("fields", "loss"), _OPINIONS, ids=[str(f) for f, _ in _OPINIONS])
def test_agrees_with_the_library(fields: Fields, loss: nn.Module, device: torch.device) -> None:
    """It has the memory's part alone. Before the queue wraps: then it has its own way of finding an anchor's copy."""
    ours, plain = _with_memory(fields, device, size=64), _plain(fields, device)
    theirs = pml.CrossBatchMemory(loss, _DIM, memory_size=64)
    for rows, names in _batches(3, 16, device):
        labels = torch.tensor(names, device=device)
        expected = loops.second_opinion(lambda x, y=labels: theirs(x, y), rows)  # type: ignore[misc]
        across = _sum(_step(ours, (rows, names)), _step(plain, (rows, names)), -1.0)
        oracle.assert_agree(loops.tangential(across, rows), expected, 1e-10)


@pytest.mark.parametrize("fields", _CASES, ids=str)
def test_few_operations_and_no_look_at_the_device(fields: Fields, device: torch.device) -> None:
    """The same whatever the labels and however full the queue; on tensors without data a look would fail."""
    counted = []
    for samples_per_class in (2, 8):
        loss = _with_memory(fields, device, size=40, warmup_steps=1)
        for rows, _ in _batches(3, 16, device):
            labels = torch.arange(16, device=device) // samples_per_class
            leaf, generator, operations = rows.clone().requires_grad_(), _seeded(device), Operations()
            with operations:
                loss(leaf, labels, generator=generator).value.backward()
            assert operations.looks == []
            counted.append(operations.names)
    assert all(names == counted[0] for names in counted)
    assert len(counted[0]) <= 220
    nowhere = torch.device("meta")
    loss = _with_memory(fields, nowhere, size=40)
    embeddings = torch.empty(12, _DIM, device=nowhere, dtype=torch.float64, requires_grad=True)
    loss(embeddings, torch.empty(12, dtype=torch.int64, device=nowhere)).value.backward()

"""Losses of a library are tried before a run: what their constructors let pass fails in one line, not in a worker."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raydml.config import ConfigError, LibraryConfig, LossConfig, parse
from raydml.losses import LossOutput, build_loss
from raydml.losses.library import LibraryLoss
from raydml.objective import require_possible
from tests import loss_oracles as oracle


def config_of(name: str, **fields: object) -> LossConfig:
    return LibraryConfig.model_validate({"kind": "library", "name": name, **fields})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("NTXentLoss", {"temperature": "abc"}, "loss.name: NTXentLoss fails on a small batch: unsupported operand"),
        ("ContrastiveLoss", {"distance": "abc"}, "loss.name: ContrastiveLoss fails on a small batch: 'str' object"),
        ("BaseMetricLossFunction", {}, "loss.name: BaseMetricLossFunction fails on a small batch: NotImplementedError"),
        ("VICRegLoss", {}, "loss.name: VICRegLoss fails on a small batch"),
        ("DynamicSoftMarginLoss", {}, "loss.name: DynamicSoftMarginLoss fails on a small batch: Trying to backward"),
        ("ArcFaceLoss", {"num_classes": 5}, "loss.arguments.num_classes: comes from the data and the model"),
    ],
)
def test_what_fails_in_a_step_is_refused_before_any_image(
    name: str, arguments: dict[str, object], message: str
) -> None:
    raw = {"kind": "library", "name": name, "arguments": arguments}
    with pytest.raises(ConfigError) as caught:
        require_possible(parse({"loss": raw}))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_learners_do_not_share_weights_that_know_no_slices() -> None:
    """A learner's rows have fewer dimensions than such weights: the first step would fail in a product."""
    divide = {"num_learners": 4}
    require_possible(parse({"loss": {"kind": "library", "name": "TripletMarginLoss"}, "divide": divide}))
    config = parse({"loss": {"kind": "library", "name": "ProxyAnchorLoss"}, "divide": divide})
    with pytest.raises(ConfigError, match=r"^loss.name: ProxyAnchorLoss has weights of all 64 .*num_learners=4$"):
        require_possible(config)
    with pytest.raises(ConfigError, match="num_learners=4"):
        build_loss(config.loss, num_classes=6, embedding_dim=8, num_learners=4)


def test_a_trial_leaves_no_trace() -> None:
    loss = build_loss(config_of("ProxyAnchorLoss"), num_classes=6, embedding_dim=4)
    assert isinstance(loss, LibraryLoss)
    weights, state = next(loss.parameters()).detach().clone(), torch.get_rng_state()
    loss.require_working(embedding_dim=4)
    assert all(p.grad is None for p in loss.parameters())
    assert torch.equal(next(loss.parameters()), weights)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_is_tried_before_a_run_and_not_whenever_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial makes one, and so does everybody who reads a checkpoint."""
    steps: list[object] = []
    forward = LibraryLoss.forward

    def counted(self: LibraryLoss, *args: torch.Tensor, **options: Any) -> LossOutput:  # noqa: ANN401
        steps.append(args)
        return forward(self, *args, **options)

    monkeypatch.setattr(LibraryLoss, "forward", counted)
    build_loss(config_of("NTXentLoss"), num_classes=6, embedding_dim=4)
    assert steps == []
    require_possible(parse({"loss": {"kind": "library", "name": "NTXentLoss"}}))
    assert len(steps) == 2


def test_every_parameter_has_a_gradient_where_a_miner_leaves_nothing(device: torch.device) -> None:
    """A worker whose parameter has no gradient would let the others wait for it."""
    config = config_of(
        "MarginLoss", arguments={"learn_beta": True}, miner="TripletMarginMiner", miner_arguments={"margin": -3.0}
    )
    loss = build_loss(config, num_classes=6, embedding_dim=4).to(device)
    rows = oracle.unit_rows(4, 4, seed=0).float().to(device).requires_grad_()
    output = loss(rows, torch.tensor([0, 0, 1, 1], device=device), generator=torch.Generator(device))
    output.value.backward()
    assert float(output.value.detach()) == 0.0
    assert rows.grad is not None
    assert all(p.grad is not None for p in loss.parameters())


def test_labels_must_be_rows_of_its_weights(device: torch.device) -> None:
    rows, labels = oracle.unit_rows(4, 4, seed=0).float().to(device), torch.tensor([90, 90, 91, 91], device=device)
    loss = build_loss(config_of("ArcFaceLoss"), num_classes=6, embedding_dim=4).to(device)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 6\), but got 90 \.\.\. 91"):
        loss(rows, labels, check=True)


def test_arguments_of_a_miner_need_a_miner() -> None:
    with pytest.raises(ConfigError, match="loss: miner_arguments need a miner, but got"):
        parse({"loss": {"kind": "library", "name": "NTXentLoss", "miner_arguments": {"margin": 0.1}}})

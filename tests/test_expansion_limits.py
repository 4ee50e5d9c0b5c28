"""Spherical Embedding Expansion at its limits: degenerate batches, autocast, dead options, shapes, no looks."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from raydml.config import SeeConfig
from raydml.config.grammar import literal_values
from raydml.losses import LossOutput
from tests.expansion_cases import (
    DIM,
    NAMES,
    NUM_CLASSES,
    PAIR_CASES,
    PROXY_CASES,
    Fields,
    Step,
    batch,
    loss_of,
    run_step,
    see_config,
    see_of,
    seeded,
    words,
)
from tests.operations import Operations


@pytest.mark.parametrize("kind", ["proxy_anchor", "soft_triple", "curricularface", "discriminate", "multi_similarity"])
@pytest.mark.parametrize("gradient", ["none", "reflect"])
def test_degenerate_batches_are_finite(kind: str, gradient: str, device: torch.device) -> None:
    """I18: embeddings on their class direction and opposite of it, duplicates, one class, nobody left to count."""
    rows, labels = batch(NAMES, device)
    loss, config = loss_of({"kind": kind}, device), see_config(gradient=gradient, final_fraction=1.0)
    see = see_of({"kind": kind}, config, device)
    if see.prototypes is None:
        assert isinstance(loss.proxies, Tensor)
        centre = nn.functional.normalize(loss.proxies.detach().view(NUM_CLASSES, -1, DIM)[:, 0], dim=1)
    else:
        centre = rows
    on_it = centre[labels] if see.prototypes is None else rows[:1].expand(12, -1)
    opposite = torch.cat([-on_it[:6], on_it[6:]])
    for some, names in (
        (on_it, labels),
        (opposite, labels),
        (rows[:1].expand(12, -1), labels),
        (rows, torch.zeros_like(labels)),
        (rows[:1], labels[:1]),
    ):
        step = run_step(loss, see, some, names)
        assert bool(step.output.value.isfinite())
        assert bool(step.gradient.isfinite().all())
        assert all(bool(g.isfinite().all()) for g in step.parameter_gradients.values())
        if some is on_it and see.prototypes is None:
            assert (step.stat("selected"), step.stat("loss")) == (0, 0.0)


@pytest.mark.parametrize("kind", ["proxy_anchor", "soft_triple", "discriminate"])
@pytest.mark.parametrize("frames", ["shared", "independent"])
def test_autocast_around_it_changes_nothing(kind: str, frames: str, device: torch.device) -> None:
    """I20."""
    rows, labels = batch(NAMES, device)

    def found(within: AbstractContextManager[object] | None = None) -> Step:
        see = see_of({"kind": kind}, see_config(frames=frames), device).float()
        return run_step(loss_of({"kind": kind}, device).float(), see, rows.float(), labels, within=within)

    alone, narrow = found(), found(torch.autocast(device.type, torch.bfloat16))
    for name, number in alone.output.stats.items():
        torch.testing.assert_close(narrow.output.stats[name], number, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(narrow.output.value, alone.output.value, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(narrow.gradient, alone.gradient, rtol=1e-5, atol=1e-7)


SECOND = {
    "num_expansions": 2,
    "weight": 0.4,
    "initial_fraction": 0.4,
    "final_fraction": 0.5,
    "prototype_momentum": 0.2,
}


@pytest.mark.parametrize("field", SeeConfig.model_fields)
def test_every_field_changes_the_loss(field: str, device: torch.device) -> None:
    """An option that does nothing is a published setting that never applied. Two steps, so that prototypes move."""
    base = {"schedule": "cosine", "initial_fraction": 0.1, "final_fraction": 1.0}
    options = literal_values(SeeConfig.model_fields[field].annotation)
    values = options or (getattr(see_config(**base), field), SECOND[field])
    fingerprints = set()
    for value in values:
        config, fingerprint = see_config(**{**base, field: value}), list[float]()
        fields = {"kind": "contrastive"}
        loss, see = loss_of(fields, device), see_of(fields, config, device)
        for seed in (3, 4):
            step = run_step(loss, see, *batch(NAMES, device, seed=seed), epoch=7)
            fingerprint += [float(step.output.value), *step.gradient.flatten().tolist()]
        fingerprints.add(tuple(fingerprint))
    assert len(fingerprints) == len(values) >= 2


@pytest.mark.parametrize("kind", ["proxy_anchor", "soft_triple", "discriminate", "margin"])
@pytest.mark.parametrize("schedule", ["cosine", "threshold"])
def test_shapes_do_not_depend_on_the_epoch(schedule: str, kind: str, device: torch.device) -> None:
    """Memory is that of the last epoch from the first expansion on: what does not fit fails early."""
    config = see_config(schedule=schedule, initial_fraction=0.1, final_fraction=1.0)
    selected, seen = set(), []
    for epoch in (2, 5, 9):
        loss, see = loss_of({"kind": kind}, device), see_of({"kind": kind}, config, device)
        with Operations() as operations:
            step = run_step(loss, see, *batch(NAMES, device), epoch=epoch)
        selected.add(step.stat("selected"))
        seen.append(operations.shapes)
    assert seen[0] == seen[1] == seen[2]
    assert len(selected) > 1


OPTIONS: tuple[Fields, ...] = (
    {},
    {"frames": "independent", "gradient": "reflect"},
    {"directions": "random", "selection": "random"},
    {"schedule": "threshold", "prototypes": "auxiliary"},
)


@pytest.mark.parametrize("options", OPTIONS, ids=words)
@pytest.mark.parametrize("fields", [*PROXY_CASES, *PAIR_CASES], ids=words)
def test_the_host_never_looks_at_the_device(fields: Fields, options: Fields, device: torch.device) -> None:
    """By name, and on tensors without data: whatever depends on a value or makes a shape of one fails there."""
    loss, see = loss_of(fields, device), see_of(fields, see_config(**options), device)
    rows, labels = batch(NAMES, device)
    with Operations() as operations:
        run_step(loss, see, rows, labels)
    assert operations.looks == []
    nowhere = torch.device("meta")
    output: LossOutput = see.to(nowhere)(
        loss.to(nowhere),
        torch.empty(12, DIM, device=nowhere, dtype=torch.float64, requires_grad=True),
        torch.empty(12, dtype=torch.int64, device=nowhere),
        epoch=0,
        generator=None,
        frames=lambda: None,
    )
    output.value.backward()
    assert output.value.shape == output.stats["see/gradient"].shape == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks CUDA itself")
@pytest.mark.parametrize("options", OPTIONS, ids=words)
@pytest.mark.parametrize("kind", ["proxy_anchor", "soft_triple", "curricularface", "discriminate", "margin"])
def test_cuda_sees_no_synchronisation(kind: str, options: Fields) -> None:
    """Numbers of the host that become tensors on the device are copies that wait."""
    cuda = torch.device("cuda")
    loss, see = loss_of({"kind": kind}, cuda), see_of({"kind": kind}, see_config(**options), cuda)
    rows, labels = batch(NAMES, cuda)
    run_step(loss, see, rows, labels)  # the first call sets up libraries
    leaf, base, frames = rows.clone().requires_grad_(), seeded(cuda), seeded(cuda, 9)
    torch.cuda.set_sync_debug_mode("error")
    try:
        see(loss, leaf, labels, epoch=0, generator=base, frames=lambda: frames).value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")

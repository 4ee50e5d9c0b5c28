"""Training on 1 to 4 ranks is the training of one process (specs/losses.md, 4): gradients, statistics, parameters.

Processes are spawned, never forked: a forked child inherits the threads of torch as locks that nobody holds, and hangs.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from raydml.distributed import gather, gather_ragged, rank, world_size
from tests.data_parallel_cases import (
    CHUNKED,
    EXACT,
    EXPANDED,
    FROZEN,
    OWN_DRAWS,
    PLAIN,
    RAGGED,
    SINGLE,
    TRAJECTORIES,
    WORLDS,
    Case,
    Result,
    everything,
    first_step,
)
from tests.ranks import in_groups

Ranks = list[dict[str, Result]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Ranks]:
    """What every rank found, by size of the group."""
    return in_groups(everything, worlds=WORLDS, folder=tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> dict[str, Result]:
    """What one process without a group finds."""
    return everything()


@pytest.fixture(params=sorted(WORLDS))
def ranks(request: pytest.FixtureRequest, worlds: dict[int, Ranks]) -> Ranks:
    """What every rank of one group found."""
    return worlds[request.param]


def _vector(result: Result, prefix: str) -> Tensor:
    """All tensors whose names start so, as one vector."""
    return torch.cat([t.flatten().double() for name, t in sorted(result.items()) if name.startswith(prefix)])


def _error(found: Result, expected: Result, prefix: str) -> float:
    """Norm of the difference over the norm, of all tensors whose names start so."""
    assert found.keys() == expected.keys()
    norm = _vector(expected, prefix).norm()
    assert norm > 1e-6
    return float((_vector(found, prefix) - _vector(expected, prefix)).norm() / norm)


def _has_parameters(result: Result) -> bool:
    return any(name.startswith("gradient.loss") for name in result)


@pytest.mark.parametrize("case", [*EXACT, *FROZEN, *EXPANDED], ids=lambda case: case.name)
def test_gradients_are_those_of_one_process(case: Case, ranks: Ranks, alone: dict[str, Result]) -> None:
    expected = alone[case.name]
    for found in (r[case.name] for r in ranks):
        assert _error(found, expected, "gradient.model") < 1e-10
        if _has_parameters(expected):
            assert _error(found, expected, "gradient.loss") < 1e-10


def test_losses_with_parameters_are_among_the_cases(alone: dict[str, Result]) -> None:
    """Proxies and learned boundaries: the gradients that a loss scaled by R gets wrong."""
    assert sum(_has_parameters(alone[case.name]) for case in EXACT) == 2 + 8 + 2


@pytest.mark.parametrize("case", EXPANDED, ids=lambda case: case.name)
def test_prototypes_of_expansions_are_those_of_one_process(case: Case, ranks: Ranks, alone: dict[str, Result]) -> None:
    """Running means, or the gradient of auxiliary proxies; and every rank expands the same images in the same frame."""
    expected = alone[case.name]
    kept = {name.split("see.")[0] + "see" for name in expected if "see." in name}
    assert len(kept) == (case.loss["kind"] in ("discriminate", "margin"))
    for found in (r[case.name] for r in ranks):
        for prefix in kept:
            assert _error(found, expected, prefix) < 1e-10
    plain = first_step(replace(case, see={}))
    assert float((plain["value"] - expected["value"]).abs()) > 1e-4, "nothing was expanded"


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
def test_float32_differs_by_rounding_only(case: Case, ranks: Ranks, alone: dict[str, Result]) -> None:
    """One process in float32 is itself 2e-6 to 6e-6 of the norm away from float64, through 15 layers of BatchNorm."""
    for found in (r[case.name] for r in ranks):
        assert _error(found, alone[case.name], "gradient") < 1e-5


@pytest.mark.parametrize("case", [*EXACT, *FROZEN, *EXPANDED], ids=lambda case: case.name)
def test_running_statistics_are_those_of_one_process(case: Case, ranks: Ranks, alone: dict[str, Result]) -> None:
    for found in (r[case.name] for r in ranks):
        assert _error(found, alone[case.name], "buffer.model") < 1e-12


@pytest.mark.parametrize("case", [*EXACT, *FROZEN, *EXPANDED], ids=lambda case: case.name)
def test_every_rank_reports_the_true_loss(case: Case, ranks: Ranks, alone: dict[str, Result]) -> None:
    for found in (r[case.name] for r in ranks):
        assert _error(found, alone[case.name], "value") < 1e-12


def test_plain_batch_norm_is_another_function(worlds: dict[int, Ranks], alone: dict[str, Result]) -> None:
    """Guards the power of these tests: a batch on which the kind of BatchNorm did not matter would prove nothing."""
    for world in (2, 3, 4):
        for found in (r[PLAIN.name] for r in worlds[world]):
            assert _error(found, alone[PLAIN.name], "gradient.model") > 0.05


def test_frozen_batch_norm_keeps_its_statistics(alone: dict[str, Result]) -> None:
    for name, buffer in alone[FROZEN[0].name].items():
        if name.endswith(("running_mean", "num_batches_tracked")):
            assert bool((buffer == 0).all())


def test_ranks_with_draws_of_their_own_get_the_mean_of_their_losses(ranks: Ranks) -> None:
    """No training does this; it shows that the gather's backward needs no assumption of equal losses."""
    alone = [first_step(OWN_DRAWS, seed=place) for place in range(len(ranks))]
    mean = {name: torch.stack([a[name] for a in alone]).double().mean(0) for name in alone[0]}
    for found in (r[OWN_DRAWS.name + " own draws"] for r in ranks):
        assert _error(found, mean, "gradient") < 1e-10
    if len(alone) > 1:
        assert _error(alone[0], mean, "gradient") > 0.01, "the draws made no difference"


@pytest.mark.parametrize("case", TRAJECTORIES, ids=lambda case: case.name)
def test_some_steps_end_at_the_same_parameters(case: Case, ranks: Ranks, alone: dict[str, Result]) -> None:
    """A memory of 40 is no multiple of the batch of 16: its queue wraps within a batch."""
    expected = alone[f"trajectory {case.name}"]
    learned = [
        f"parameter.{part}" for part in ("model", "loss", "see") if any(f"parameter.{part}" in n for n in expected)
    ]
    for found in (r[f"trajectory {case.name}"] for r in ranks):
        for prefix in (*learned, "buffer", "value"):
            assert _error(found, expected, prefix) < 1e-9


@pytest.mark.parametrize("case", TRAJECTORIES, ids=lambda case: case.name)
def test_parameters_and_queues_stay_equal_on_all_ranks_to_the_bit(case: Case, ranks: Ranks) -> None:
    """Proxies outside of what is wrapped drift apart silently: R different losses."""
    first, *others = (r[f"trajectory {case.name}"] for r in ranks)
    for other in others:
        assert all(torch.equal(other[name], first[name]) for name in first if name != "value")


def test_a_batch_in_chunks_on_any_number_of_workers(ranks: Ranks, alone: dict[str, Result]) -> None:
    whole = alone[replace(CHUNKED, chunk_size=None).name]
    for found in (r[CHUNKED.name] for r in ranks):
        assert _error(found, whole, "gradient") < 1e-10
        assert _error(found, whole, "value") < 1e-12


def test_gather_keeps_rank_order_and_sums_every_ranks_gradient(ranks: Ranks) -> None:
    """Rank r weighs row i by (1 + r) (1 + i)."""
    total = sum(1.0 + place for place in range(len(ranks)))
    rows = torch.cat([place * 10.0 + torch.arange(3.0) for place in range(len(ranks))])
    for place, found in enumerate(r["collectives"] for r in ranks):
        assert torch.equal(found["gathered"], rows)
        assert torch.equal(found["gradient"], total * torch.arange(1.0 + 3 * place, 4.0 + 3 * place))


def test_gather_ragged_takes_any_number_of_rows(ranks: Ranks) -> None:
    expected = torch.cat([torch.full((RAGGED[place], 2), float(place)) for place in range(len(ranks))])
    assert all(torch.equal(r["collectives"]["ragged"], expected) for r in ranks)


def test_without_a_process_group_collectives_are_the_identity() -> None:
    x = torch.arange(3.0)
    assert gather(x) is x
    assert gather_ragged(x) is x
    assert (rank(), world_size()) == (0, 1)

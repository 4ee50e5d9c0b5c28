"""k-means of rows that lie on 1 to 4 ranks: the clusters of one process, and the same bits on every rank.

Processes are spawned, never forked: a forked child inherits the threads of torch as locks that nobody holds, and hangs.
"""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from raydml.distributed import sum_over_ranks
from tests.kmeans_ranks import DIVIDED, NUM_CLUSTERS, WORLDS, Result, everything, rows_of
from tests.ranks import in_groups

Ranks = list[dict[str, Result]]
EXACT = sorted(NUM_CLUSTERS.keys() - {"overlapping"})


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Ranks]:
    """What every rank found, by size of the group."""
    return in_groups(everything, worlds=WORLDS, folder=tmp_path_factory.mktemp("ranks"))


@pytest.fixture(params=sorted(WORLDS))
def ranks(request: pytest.FixtureRequest, worlds: dict[int, Ranks]) -> Ranks:
    """What every rank of one group found."""
    return worlds[request.param]


@pytest.fixture(scope="module")
def alone() -> dict[str, Result]:
    """What one process without a group finds."""
    return everything()


def together(ranks: Ranks, name: str) -> Tensor:
    """(N,) the labels of all ranks in the order of the rows."""
    labels = torch.full((len(rows_of(name)),), -1)
    for found in (r[name] for r in ranks):
        assert (labels[found["index"]] == -1).all()
        labels[found["index"]] = found["labels"]
    return labels


def test_shards_are_uneven_and_some_ranks_have_no_rows(worlds: dict[int, Ranks]) -> None:
    held = {world: [len(r["few"]["index"]) for r in ranks] for world, ranks in worlds.items()}
    assert held == {2: [2, 1], 3: [1, 1, 1], 4: [1, 1, 1, 0]}
    assert [len(r["on one rank"]["index"]) for r in worlds[4]] == [0, 0, 0, 601]
    assert [len(r["separated"]["index"]) for r in worlds[4]] == [151, 150, 150, 150]


@pytest.mark.parametrize("name", EXACT)
def test_clusters_are_those_of_one_process(name: str, ranks: Ranks, alone: dict[str, Result]) -> None:
    assert together(ranks, name).tolist() == alone[name]["labels"].tolist()
    for found in (r[name] for r in ranks):
        torch.testing.assert_close(found["centroids"], alone[name]["centroids"], rtol=1e-6, atol=1e-6)


def test_clusters_that_overlap_differ_by_rounding_only(ranks: Ranks, alone: dict[str, Result]) -> None:
    agree = together(ranks, "overlapping") == alone["overlapping"]["labels"]
    assert float(agree.double().mean()) >= 0.999
    assert int(alone["overlapping"]["iterations"]) > 3, "too easy to prove anything"


@pytest.mark.parametrize("name", NUM_CLUSTERS)
def test_all_ranks_have_the_same_centroids_to_the_bit(name: str, ranks: Ranks) -> None:
    first, *others = (r[name] for r in ranks)
    for other in others:
        for what in ("centroids", "inertia", "iterations"):
            assert torch.equal(other[what], first[what]), what


@pytest.mark.parametrize("name", NUM_CLUSTERS)
def test_inertia_is_that_of_all_rows(name: str, ranks: Ranks, alone: dict[str, Result]) -> None:
    for found in (r[name] for r in ranks):
        torch.testing.assert_close(found["inertia"], alone[name]["inertia"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", DIVIDED)
def test_a_division_is_in_the_order_of_the_rows_and_known_to_all(
    name: str, ranks: Ranks, alone: dict[str, Result]
) -> None:
    expected = alone[f"division of {name}"]
    for found in (r[f"division of {name}"] for r in ranks):
        assert torch.equal(found["partition"], together(ranks, name))
        assert torch.equal(found["split"] // 2, found["partition"])
        assert float((found["split"] == expected["split"]).double().mean()) >= 0.99


def test_every_rank_names_rows_that_are_not_finite_wherever_they_lie(ranks: Ranks) -> None:
    for found in (r["bad"] for r in ranks):
        message = bytes(found["message"].tolist()).decode()
        assert message == "2 of 7 rows are NaN or infinite, first 1, 6"


def test_a_sum_over_ranks_leaves_its_terms_alone(ranks: Ranks) -> None:
    total = sum(1.0 + place for place in range(len(ranks)))
    assert all(r["sum"]["sum"].tolist() == [total, 10 * total] for r in ranks)
    x = torch.ones(2)
    assert sum_over_ranks(x) is x

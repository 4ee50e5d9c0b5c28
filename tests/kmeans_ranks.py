"""What every rank of tests/test_kmeans_ranks.py computes, and the single process it is compared with.

Apart from the tests because spawned processes import it by name, and should import no more than they need.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydml.distributed import rank, sum_over_ranks, world_size
from raydml.divide import partition, split
from raydml.kmeans import NonFiniteRowsError, Shard, kmeans

WORLDS = (4, 3, 2)
NUM_CLUSTERS = {"separated": 4, "overlapping": 5, "few": 2, "on one rank": 4, "equal": 5}
DIVIDED = ("few", "on one rank")

Result = dict[str, Tensor]


def everything() -> dict[str, Result]:
    """All results of this rank, by name; without a process group, those of the single process."""
    return {
        **{name: clustered(name) for name in NUM_CLUSTERS},
        **{f"division of {name}": divided(name) for name in DIVIDED},
        "bad": refusal(),
        "sum": {"sum": summed()},
    }


def rows_of(name: str) -> Tensor:
    """(N, F); N is no multiple of any number of ranks."""
    generator = torch.Generator().manual_seed(5)
    if name == "few":
        return torch.tensor([[0.0, 0.0], [9.0, 9.0], [9.0, 8.0]])
    if name == "equal":
        return torch.eye(3).repeat(9, 1)
    spread = 0.6 if name == "overlapping" else 0.01
    centres = torch.nn.functional.normalize(torch.randn(4, 12, generator=generator), dim=1)
    return centres.repeat(151, 1)[:601] + spread * torch.randn(601, 12, generator=generator)


def shard_of(name: str) -> Shard:
    """Every R-th row, or none but on the last rank."""
    rows = rows_of(name)
    index = torch.arange(rank(), len(rows), world_size())
    if name == "on one rank":
        index = torch.arange(len(rows) if rank() == world_size() - 1 else 0)
    return Shard(rows[index], index, len(rows))


def clustered(name: str) -> Result:
    """This rank's part of the labels, and what every rank knows."""
    shard = shard_of(name)
    found = kmeans(shard, NUM_CLUSTERS[name], seed=1)
    return {
        "index": shard.index,
        "labels": found.labels,
        "centroids": found.centroids,
        "inertia": torch.tensor(found.inertia, dtype=torch.float64),
        "iterations": torch.tensor(found.num_iterations),
    }


def divided(name: str) -> Result:
    """The cluster of every row on every rank, and the half of it."""
    shard = shard_of(name)
    division = partition(shard, NUM_CLUSTERS[name], seed=1)
    return {"partition": division, "split": split(shard, division, seed=2)}


def refusal() -> Result:
    """The message about rows 1 and 6, which are not finite, as numbers."""
    rows = torch.zeros(7, 2)
    rows[6, 0], rows[1, 1] = torch.nan, torch.inf
    index = torch.arange(rank(), 7, world_size())
    try:
        kmeans(Shard(rows[index], index, 7), 2, seed=0)
    except NonFiniteRowsError as error:
        return {"message": torch.tensor(list(str(error).encode()))}
    return {}


def summed() -> Tensor:
    """A sum over ranks of what this one must keep."""
    mine = torch.tensor([1.0, 10.0]) * (1 + rank())
    total = sum_over_ranks(mine)
    assert mine.tolist() == [1.0 + rank(), 10.0 + 10 * rank()]
    return total

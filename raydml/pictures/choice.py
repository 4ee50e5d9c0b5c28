"""Which queries of an evaluation are shown: best, typical and worst ones, of different classes where possible."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from raydml.splits import Indices

Kind = Literal["best", "typical", "worst"]


def choose(values: npt.NDArray[np.float64], labels: Indices, count: int) -> dict[Kind, Indices]:
    """Places of at most `count` queries of each kind, by their values (Q,), such as average precisions.

    Best and worst are those at both ends, typical those around the median; none is two of them, so that few queries
    make short lists. A class comes a second time only where there are too few of them. Of equal values the lower place
    comes first.
    """
    count = min(count, -(-len(values) // 3))
    rising = np.argsort(values, kind="stable")
    falling = np.argsort(-values, kind="stable")
    best = _of_different_classes(falling, labels, count)
    worst = _of_different_classes(rising[~np.isin(rising, best)], labels, count)
    rest = rising[~np.isin(rising, np.concatenate([best, worst]))]
    outwards = np.argsort(np.abs(np.arange(len(rest)) - (len(rest) - 1) / 2), kind="stable")
    typical = _of_different_classes(rest[outwards], labels, count)
    return {"best": best, "typical": typical[np.argsort(-values[typical], kind="stable")], "worst": worst}


def _of_different_classes(order: Indices, labels: Indices, count: int) -> Indices:
    """The first ones of an order, each class once; where there are fewer classes, filled up with the next ones."""
    first = np.sort(np.unique(labels[order], return_index=True)[1])
    others = np.delete(np.arange(len(order)), first)
    chosen: Indices = order[np.sort(np.concatenate([first, others])[:count])]
    return chosen

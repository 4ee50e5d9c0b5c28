"""What embeddings are worth: metrics of each query by a protocol and an engine, and of the whole set."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from raydml.approximate import approximate_metrics
from raydml.config import ConfigError, EvaluateOptions, Wanted
from raydml.config.wanted import OF_CLUSTERS, OF_GEOMETRY
from raydml.data.building import Progress
from raydml.embedding_files import Rows
from raydml.metrics import cluster_metrics, geometry
from raydml.per_query import QueryMetrics
from raydml.retrieval import RetrievalProtocol, protocol_metrics
from raydml.sharded import count_sharded
from raydml.shards import Columns
from raydml.splits import Indices
from raydml.stored import Stored


class Measured(NamedTuple):
    """Metrics of the embeddings of a split."""

    queries: QueryMetrics
    whole: dict[str, float]
    """Of the whole set, where any are wanted: clusters, geometry; or of an approximate engine."""
    engine: dict[str, int | str]
    """What the metrics were computed by: `engine`, and the parameters of an index."""
    approximation: str | None = None
    """An approximate index and its recall, in a line."""

    by_class: Mapping[str, Mapping[int, float]] = MappingProxyType({})
    """What of those a class has, by name, then by label."""

    by_row: Mapping[str, Tensor] = MappingProxyType({})
    """What of those a row has, by name: (N,)."""

    def metrics(self) -> dict[str, float]:
        """Everything as metrics.json has it."""
        return {**self.queries.means(), **self.whole}


def measure(
    name: str, protocol: RetrievalProtocol, rows: Rows, labels: Indices, wanted: Wanted, options: EvaluateOptions
) -> Measured:
    """Metrics of unit embeddings (N, D) with labels (N,). Raises ConfigError that begins with the name."""
    try:
        x, y = torch.from_numpy(rows), torch.from_numpy(labels)
        if options.engine == "rank" or options.engine == "faiss":
            queries = protocol_metrics(protocol, x, y, wanted=wanted, engine=options.engine)
            measured = Measured(queries, {}, {"engine": options.engine})
        else:
            found = approximate_metrics(protocol, x, y, wanted, options)
            measured = Measured(found.queries, found.recall, found.facts, found.description)
        return _with_whole(measured, rows, labels, wanted, options)
    except ValueError as error:  # embeddings that nothing can be computed from
        raise ConfigError(f"{name}: {error}") from None


def _with_whole(measured: Measured, rows: Rows, labels: Indices, wanted: Wanted, options: EvaluateOptions) -> Measured:
    """With the metrics of all rows of the split, whatever their roles."""
    whole = dict(measured.whole)
    if of_clusters := [name for name in wanted.whole if name in OF_CLUSTERS]:
        count, iterations = options.num_clusters, options.cluster_iterations
        whole |= cluster_metrics(rows, labels, names=of_clusters, num_clusters=count, iterations=iterations)
    of_geometry = [name for name in wanted.whole if name in OF_GEOMETRY]
    if not of_geometry:
        return measured._replace(whole=whole)
    found = geometry(rows, labels, names=of_geometry)
    return measured._replace(whole={**whole, **found.metrics}, by_class=found.by_class, by_row=found.by_row)


def measure_shards(
    name: str,
    stored: Stored,
    columns: Columns,
    wanted: Wanted,
    options: EvaluateOptions,
    *,
    verbose: bool = False,
    progress: Progress | None = None,
) -> Measured:
    """As `measure`, on actors that hold the embeddings; no more than some blocks of them are in this process.

    Raises ConfigError that begins with the name, and CountingFailedError.
    """
    assert options.shards is not None
    resources = options.resources
    try:
        queries = count_sharded(stored, columns, wanted, options.shards, resources, verbose=verbose, progress=progress)
    except ConfigError:
        raise
    except ValueError as error:  # embeddings that nothing can be computed from
        raise ConfigError(f"{name}: {error}") from None
    return Measured(queries, {}, {"engine": options.engine})

"""What embeddings are worth: metrics of each query by a protocol and an engine, and of the whole set."""

from __future__ import annotations

from typing import NamedTuple

from raydml.config import ConfigError, EvaluateOptions, Wanted
from raydml.embedding_files import Rows
from raydml.per_query import QueryMetrics
from raydml.retrieval import RetrievalProtocol, protocol_metrics
from raydml.splits import Indices


class Measured(NamedTuple):
    """Metrics of the embeddings of a split."""

    queries: QueryMetrics
    whole: dict[str, float]
    """Of the whole set, where any are wanted: clusters, geometry; or of an approximate engine."""

    def metrics(self) -> dict[str, float]:
        """Everything as metrics.json has it."""
        return {**self.queries.means(), **self.whole}


def measure(
    name: str, protocol: RetrievalProtocol, rows: Rows, labels: Indices, wanted: Wanted, options: EvaluateOptions
) -> Measured:
    """Metrics of unit embeddings (N, D) with labels (N,). Raises ConfigError that begins with the name."""
    assert options.engine in ("rank", "faiss")
    try:
        queries = protocol_metrics(protocol, rows, labels, wanted=wanted, engine=options.engine)
    except ValueError as error:  # embeddings that nothing can be computed from
        raise ConfigError(f"{name}: {error}") from None
    return Measured(queries, {})

"""Options of the command line that are no part of a study."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from raydml.config.base import Model
from raydml.config.places import Place
from raydml.config.study import Resources
from raydml.config.wanted import OF_CLUSTERS, wanted_metrics

Approximate = Literal["ivf", "ivf_pq", "hnsw"]
APPROXIMATE: tuple[Approximate, ...] = get_args(Approximate)
"""Engines of an evaluation that may miss neighbours."""


class TrainOptions(Model):
    """What `python -m raydml.train` takes besides a study's own paths."""

    split: Literal["train", "trainval"] = "train"
    """`train` leaves a fold out and validates on it; `trainval` trains on all training classes."""

    fold: int | None = Field(default=None, ge=0)
    """The fold that validates; the first where None."""


class EvaluateOptions(Model):
    """What `python -m raydml.evaluate` takes."""

    split: Literal["auto", "train", "val", "test"] = "auto"
    """Classes to evaluate on; `auto` is val for a trial of a search and test for any other run."""

    fold: int | Literal["all"] | None = None
    """Which model, where a run has one for each of several folds; `all` evaluates each and their concatenation."""

    test_list: Literal["small", "medium", "large"] | None = None
    """Which test list, where the data have several (vehicleid); that of the run where None."""

    gallery: Literal["random", "leave_one_out"] | None = None
    """How its gallery is made; as the run has it where None."""

    engine: Literal["rank", "faiss", "ivf", "ivf_pq", "hnsw"] = "rank"
    """Exact ranks by counting, or from faiss's exact lists of neighbours (they agree); or approximate, from an index of
    faiss whose recall against exact is measured."""

    nprobe: int | None = Field(default=None, ge=1)
    """Cells of `ivf` and `ivf_pq` that a query looks into; chosen from their number where None."""

    ef_search: int | None = Field(default=None, ge=1)
    """Candidates that `hnsw` keeps while it searches; 64 where None."""

    recall_at: tuple[int, ...] | None = None
    """Ranks k of recall@k; those of the run where None."""

    metrics: tuple[str, ...] | None = None
    """Further ones by name: map, mrr, map@K, precision@K; nmi, ami, f1; distances, spectral_decay, silhouette. Those of
    the run where None."""

    num_clusters: int | None = Field(default=None, ge=1)
    """Clusters of k-means for nmi, ami and f1; as many as there are classes where None."""

    cluster_iterations: int = Field(default=10, ge=1)
    """Most iterations of k-means."""

    precision: Literal["trained", "float32", "bfloat16"] = "trained"
    """What backbone and head compute in; `trained` is as the run was trained. Metrics are never in half precision."""

    shards: int | None = Field(default=None, ge=1)
    """Parts that the gallery is cut into, each counted by an actor of the cluster: for galleries that are larger than
    a machine's memory. None counts in this process."""

    pictures: int = Field(default=6, ge=0)
    """Queries of each kind (best, typical, worst) that are drawn with their nearest images; 0 draws none."""

    neighbors: int = Field(default=10, ge=1)
    """Nearest images drawn for each, and found for `--query`; all where a gallery has fewer."""

    batch_size: int = Field(default=256, ge=1)
    """Images embedded at a time by one actor."""

    resources: Resources = Resources()
    """What one embedding actor occupies: cpus_per_worker and gpus_per_worker."""

    storage: Place = "runs"
    """Where the evaluation of a plain embedding file is kept."""

    @field_validator("fold")
    @classmethod
    def _fold_is_not_negative(cls, value: int | Literal["all"] | None) -> int | Literal["all"] | None:
        if isinstance(value, int) and value < 0:
            raise ValueError(f"fold must be at least 0, or all, but got {value}")
        return value

    @model_validator(mode="after")
    def _folds_have_the_test_classes_in_common(self) -> EvaluateOptions:
        if self.fold == "all" and self.split in ("train", "val"):
            raise ValueError(
                f"fold=all needs split=test: folds train and validate different classes, but got split={self.split}"
            )
        return self

    @model_validator(mode="after")
    def _ranks_are_ranks(self) -> EvaluateOptions:
        ranks = self.recall_at
        if ranks is not None and (not ranks or min(ranks) < 1 or list(ranks) != sorted(set(ranks))):
            raise ValueError(f"recall_at must be distinct positive ranks in rising order, but got {ranks}")
        return self

    @model_validator(mode="after")
    def _clusters_are_wanted(self) -> EvaluateOptions:
        given = sorted({"num_clusters", "cluster_iterations"} & self.model_fields_set)
        if given and not set(OF_CLUSTERS) & set(self.metrics or ()):
            raise ValueError(
                f"{given[0]} is one of metrics={', '.join(OF_CLUSTERS)}, but got metrics={list(self.metrics or ())}"
            )
        return self

    @model_validator(mode="after")
    def _shards_are_counted(self) -> EvaluateOptions:
        wanted = wanted_metrics(self.recall_at or (), self.metrics or ())
        if self.shards is not None and self.engine != "rank":
            raise ValueError(f"shards={self.shards} needs engine=rank, but got engine={self.engine}")
        if self.shards is not None and wanted.whole:
            raise ValueError(
                f"shards={self.shards} knows metrics of queries only, but got {wanted.whole[0]}, which needs all rows"
            )
        return self

    @model_validator(mode="after")
    def _parameters_have_their_index(self) -> EvaluateOptions:
        for name, engines in (("nprobe", ("ivf", "ivf_pq")), ("ef_search", ("hnsw",))):
            value = getattr(self, name)
            if value is not None and self.engine not in engines:
                raise ValueError(
                    f"{name} is one of engine={' and '.join(engines)}, but got {name}={value}, engine={self.engine}"
                )
        return self

    @property
    def approximate(self) -> Approximate | None:
        """The engine, where it may miss neighbours."""
        return next((engine for engine in APPROXIMATE if engine == self.engine), None)


class EmbedOptions(Model):
    """What `python -m raydml.embed` takes besides the data's own paths."""

    out: Place | None = None
    """Folder or URI of the Parquet files; `<RUN>/embeddings/<name of the images>` where None."""

    fold: int | None = Field(default=None, ge=0)
    """Which model, where a run has one for each of several folds."""

    precision: Literal["trained", "float32", "bfloat16"] = "trained"
    """What backbone and head compute in; `trained` is as the run was trained."""

    batch_size: int = Field(default=256, ge=1)
    """Images embedded at a time by one actor."""

    unreadable: Literal["error", "skip"] = "error"
    """Images that cannot be read: `error` stops at the first, with the blocks before it kept; `skip` lists them in
    unreadable.csv."""

    resources: Resources = Resources()
    """What one embedding actor occupies: cpus_per_worker and gpus_per_worker."""


class ExportOptions(Model):
    """What `python -m raydml.export` takes."""

    out: Place | None = None
    """Folder of the files; `<RUN>/export` where None."""

    fold: int | None = Field(default=None, ge=0)
    """Which model, where a run has one for each of several folds."""

    formats: tuple[Literal["onnx", "torch"], ...] = Field(default=("onnx", "torch"), min_length=1)
    """ONNX (model.onnx) and torch.export (model.pt2)."""


class ReportOptions(Model):
    """What `python -m raydml.report` takes."""

    out: Place | None = None
    """Folder of the report; where None that of the run, or `<storage>/comparison-<hash>` for several runs."""

    metric: str | None = None
    """The metric that a comparison of trainings shows first; that of the search, or MAP@R, where None."""

    storage: Place = "runs"
    """Where the comparison of several runs is kept."""


class CheckOptions(Model):
    """What `python -m raydml.data check` takes besides the data's own paths."""

    decode: bool = True
    """Read and decode every image; `false` looks at names and counts only."""

    out: Place | None = None
    """A JSON file for everything that was found, every example included."""

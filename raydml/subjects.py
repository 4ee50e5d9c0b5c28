"""What an evaluation is about: a trained model, the images it is evaluated on, and by which protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raydml import checkpoint
from raydml.baseline import raw_pixel_metrics
from raydml.config import ConfigError, DataConfig, EvaluateOptions, VehicleIdConfig, Wanted, wanted_metrics
from raydml.config.places import refused_credentials
from raydml.data.cache import ImageSet
from raydml.data.opening import open_images
from raydml.data.subsets import Split, Subset, split_subset
from raydml.retrieval import RandomGallery, RetrievalProtocol, protocol_of
from raydml.runs import TrainedModel, resolve, resolve_folds

# What one trained model may be evaluated by in more than one way, as the configuration and the options name it.
_CHOICES = ("test_list", "gallery")


@dataclass(frozen=True)
class Subject:
    """A model and the images it is evaluated on."""

    model: TrainedModel
    data: DataConfig
    """As the model was trained on, but for the test list and the gallery that are asked for."""
    split: Split
    folder: str
    """Of the evaluation: the split, and what else was asked for."""
    images: ImageSet
    subset: Subset
    protocol: RetrievalProtocol
    wanted: Wanted
    """Which metrics."""


class Opened:
    """Images and raw pixels, looked at once however many runs have the same data."""

    def __init__(self) -> None:
        self._images: dict[object, ImageSet] = {}
        self._baselines: dict[object, dict[str, float]] = {}

    def images(self, data: DataConfig, split: Split, known: str) -> ImageSet:
        """Those of the test classes only where the split is `test`.

        `known` is the fingerprint of those that a model was trained on: where this machine has them decoded, they are
        those, though the files were moved since or another decoder came. Raises ConfigError where they are others.
        """
        key = (data.model_dump_json(), split == "test", known)
        if key not in self._images:
            self._images[key] = open_images(data, with_test=split == "test", known=known)
        return self._images[key]

    def baseline(self, subject: Subject) -> dict[str, float]:
        """Metrics of raw pixels on the images of a subject."""
        fold = None if subject.split == "test" else subject.model.fold
        key = (subject.data.model_dump_json(), subject.split, fold, subject.wanted)
        if key not in self._baselines:
            self._baselines[key] = raw_pixel_metrics(
                subject.images, subject.subset, wanted=subject.wanted, protocol=subject.protocol
            )
        return self._baselines[key]


def are_embeddings(run: str | Path) -> bool:
    """Whether a path on the command line means embeddings: a file *.parquet, a folder of such files, or a URI.

    Runs at URIs are paths before anybody asks (`raydml.brought_runs`).
    """
    path = Path(run).expanduser()
    return "://" in str(run) or path.suffix == ".parquet" or any(path.glob("[!.]*.parquet"))


def subjects_of(run: str | Path, options: EvaluateOptions, opened: Opened) -> str | list[Subject]:
    """What a path on the command line means: the place of embeddings, the model of a run, or its models of all folds.

    Embeddings are what `are_embeddings` says. Raises ConfigError for what cannot be
    evaluated as the options ask.
    """
    path = Path(run).expanduser()
    if are_embeddings(run):
        place = str(run) if "://" in str(run) else str(path)
        if (refused := refused_credentials(place)) is not None:
            raise ConfigError(f"embeddings: {refused}")
        _require_none_chosen(options, f"{place} is a file of embeddings")
        return place
    if options.fold != "all":
        return [_subject(resolve(path, fold=options.fold), options, opened)]
    models = resolve_folds(path)
    if options.split == "auto" and models[0].default_split == "val":
        raise ConfigError(f"{path}: fold=all needs split=test: the folds of a trial validate different classes")
    return [_subject(model, options, opened) for model in models]


def _subject(model: TrainedModel, options: EvaluateOptions, opened: Opened) -> Subject:
    config = checkpoint.read_config(model.checkpoint)
    split = model.default_split if options.split == "auto" else options.split
    try:
        images = opened.images(config.data, split, checkpoint.read_meta(model.checkpoint)["fingerprint"])
    except ConfigError as error:
        raise ConfigError(f"{model.checkpoint}: {error}") from None
    data = _as_asked(config.data, split, options)
    subset = split_subset(images, data, split, model.fold)
    protocol = protocol_of(data, images, subset, split)
    if options.shards is not None and isinstance(protocol, RandomGallery):
        raise ConfigError(
            f"{model.checkpoint}: shards={options.shards} needs one gallery, but this protocol draws "
            f"{protocol.num_draws}: gallery=leave_one_out has one"
        )
    changed = [
        getattr(data, name) for name in _CHOICES if getattr(data, name, None) != getattr(config.data, name, None)
    ]
    evaluation = config.evaluation
    names = evaluation.metrics if options.metrics is None else options.metrics
    wanted = wanted_metrics(options.recall_at or evaluation.recall_at, names)
    # Beside the exact numbers, which are those that reports read.
    folder = "-".join(filter(None, [split, *changed, options.approximate]))
    return Subject(model, data, split, folder, images, subset, protocol, wanted)


def _as_asked(data: DataConfig, split: Split, options: EvaluateOptions) -> DataConfig:
    """The data with another test list or gallery. Raises ConfigError where they have none."""
    if split != "test":
        _require_none_chosen(options, f"split={split}")
    if not isinstance(data, VehicleIdConfig):
        _require_none_chosen(options, f"the data are {data.kind}")
        return data
    chosen = {name: getattr(options, name) for name in _CHOICES if getattr(options, name) is not None}
    return data.model_copy(update=chosen)


def _require_none_chosen(options: EvaluateOptions, found: str) -> None:
    for name in _CHOICES:
        value = getattr(options, name)
        if value is not None:
            raise ConfigError(
                f"{name}: only the test classes of vehicleid have one, but got {name}={value}, and {found}"
            )

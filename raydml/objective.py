"""The one thing data-parallel training wraps: model and loss together, so that proxies and beta are never forgotten."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raydml import seeds
from raydml.config import ConfigError, ExperimentConfig, LibraryConfig
from raydml.data.augment import centre_crop, crop
from raydml.data.batches import max_positives
from raydml.data.colour import jitter
from raydml.distributed import gather
from raydml.expansion import SphericalExpansion
from raydml.learners import Learners
from raydml.losses import ClassSubset, LossOutput, View, build_loss
from raydml.losses.library import LibraryLoss
from raydml.models import EmbeddingModel, build_model, has_batch_norm

# Classes that a loss is tried with before the data are known.
_ANY_CLASSES = 8


@dataclass(frozen=True)
class StepContext:
    """Where in a training a step is: all that a random loss may depend on, equal on every rank."""

    seed: int
    epoch: int
    step: int
    num_images: int | None = None
    """G, images of the global batch, where it may not be B times the workers."""
    learner: int | None = None
    """Whose cluster the batch is from, where images are divided."""
    subset: ClassSubset | None = None
    """The classes of that cluster."""

    def generator(self, device: torch.device, purpose: seeds.Purpose = seeds.Purpose.LOSS) -> torch.Generator:
        """Randomness of this step for a purpose, the same on every rank and in every run."""
        return torch.Generator(device).manual_seed(seeds.derive(purpose, self.seed, self.step))


@dataclass(frozen=True)
class DataShape:
    """What a model and a loss need to know of the data."""

    num_classes: int
    in_channels: int
    image_size: int
    """Height and width of the network's input."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Objective(nn.Module):
    """Images and labels of one worker to the loss of the global batch."""

    def __init__(
        self,
        model: EmbeddingModel,
        loss: nn.Module,
        *,
        image_size: int,
        chunk_size: int | None = None,
        see: SphericalExpansion | None = None,
        learners: Learners | None = None,
    ) -> None:
        """`image_size` is the network's; `chunk_size` the most images of a worker that are in its memory at a time."""
        super().__init__()
        self.model = model
        self.loss = loss
        self.see = see
        self.learners = learners
        self.image_size = image_size
        self.chunk_size = chunk_size

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        context: StepContext,
        crops: Tensor | None = None,
        colours: Tensor | None = None,
    ) -> LossOutput:
        """(B, C_in, H, W), (B,) int64, (B, 5), (B, 4) -> LossOutput of the gathered batch, the same on every rank."""
        embeddings = gather(self._embed(images, crops, colours), num_rows=context.num_images)
        gathered = gather(labels, num_rows=context.num_images)
        device, view = embeddings.device, self.view(context)
        output: LossOutput
        if self.see is None:
            options = {} if view is None else {"view": view}
            output = self.loss(embeddings, gathered, generator=context.generator(device), **options)
        else:
            output = self.see(
                self.loss,
                embeddings,
                gathered,
                epoch=context.epoch,
                generator=context.generator(device),
                frames=partial(context.generator, device, seeds.Purpose.FRAMES),
                view=view,
            )
        overlap = None if self.learners is None else self.learners.overlap(context.epoch)
        if self.learners is None or overlap is None:
            return output
        value = output.value + self.learners.config.mask_weight * overlap
        return LossOutput(value, {**output.stats, "mask_overlap": overlap.detach()})

    def view(self, context: StepContext) -> View | None:
        """What of embedding, classes and state a step trains; None where it is all, for want of learners."""
        if self.learners is None:
            return None
        return self.learners.view(context.epoch, context.learner, context.subset)

    def loss_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of loss, prototypes and masks: what is not the model's."""
        parts = [part for part in (self.loss, self.see, self.learners) if part is not None]
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def _embed(self, images: Tensor, crops: Tensor | None, colours: Tensor | None) -> Tensor:
        """(B, D). In chunks: each is embedded without graph, and again with one when its gradient is known."""
        if self.chunk_size is None or len(images) <= self.chunk_size:
            return self._embed_chunk(images, crops, colours)
        parts = (itertools.repeat(None) if x is None else x.split(self.chunk_size) for x in (crops, colours))
        embeddings = [
            checkpoint(self._embed_chunk, *chunk, use_reentrant=False)
            for chunk in zip(images.split(self.chunk_size), *parts, strict=False)
        ]
        return torch.cat(embeddings)

    def _embed_chunk(self, images: Tensor, crops: Tensor | None, colours: Tensor | None) -> Tensor:
        # Whatever a learner's view takes of an embedding it scales to unit length.
        rescaled = self.learners is not None
        inputs = network_input(images, crops, self.image_size, colours=colours)
        embeddings: Tensor = self.model(inputs, rescaled=rescaled)
        return embeddings


def build_objective(config: ExperimentConfig, shape: DataShape) -> Objective:
    """Model and loss with weights drawn from the configuration's seed; the global generators stay untouched.

    Raises ConfigError where the model or the loss cannot be had, or a batch cannot be cut into chunks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        dim, num_learners = config.model.embedding_dim, config.divide.num_learners
        # Absent where they would do nothing, so that nothing can differ; expansions too.
        learners = None
        if num_learners > 1:
            learners = Learners(config.divide, embedding_dim=dim, num_epochs=config.training.num_epochs)
        model = build_model(
            config.model,
            in_channels=shape.in_channels,
            image_size=shape.image_size,
            mean=shape.mean,
            std=shape.std,
            autocast=config.training.precision == "bfloat16",
            slices=None if learners is None else learners.slices,
        )
        loss = build_loss(
            config.loss,
            num_classes=shape.num_classes,
            embedding_dim=dim,
            max_positives=max_positives(config.data.batch_size, config.data.samples_per_class, shape.num_classes),
            num_learners=num_learners,
        )
        see = None
        if config.see.num_expansions > 0 and config.see.weight > 0.0:
            see = SphericalExpansion(
                config.see,
                config.loss,
                num_epochs=config.training.num_epochs,
                num_classes=shape.num_classes,
                embedding_dim=dim,
            )
    chunk_size = config.training.chunk_size
    _require_independent(config, normalises_batches=model.normalises_batches)
    objective = Objective(model, loss, image_size=shape.image_size, chunk_size=chunk_size, see=see, learners=learners)
    return objective.double() if config.training.precision == "float64" else objective


def require_possible(config: ExperimentConfig) -> None:
    """Raises ConfigError for what is impossible whatever the images: a loss of a library, chunks of a batch."""
    if isinstance(config.loss, LibraryConfig):
        dim, num_learners = config.model.embedding_dim, config.divide.num_learners
        loss = LibraryLoss(config.loss, num_classes=_ANY_CLASSES, embedding_dim=dim, num_learners=num_learners)
        loss.require_working(embedding_dim=dim)
    if config.training.chunk_size is not None and config.model.batch_norm != "frozen":
        _require_independent(config, normalises_batches=has_batch_norm(config.model.backbone))


def _require_independent(config: ExperimentConfig, *, normalises_batches: bool) -> None:
    """Raises ConfigError where chunks would change what is trained; whether or not a worker's share needs any."""
    chunk_size, batch_size = config.training.chunk_size, config.data.batch_size
    if chunk_size is not None and chunk_size < batch_size and normalises_batches:
        raise ConfigError(
            f"training.chunk_size: {config.model.backbone} normalises with statistics of the whole batch, which no "
            f"chunk of {chunk_size} of data.batch_size={batch_size} has, on any number of workers; set "
            "model.batch_norm=frozen or take a backbone without BatchNorm"
        )


def network_input(images: Tensor, crops: Tensor | None, image_size: int, *, colours: Tensor | None = None) -> Tensor:
    """(B, C_in, H, W) uint8 at the network's size: cropped where there are crops (B, 5), else in the centre.

    Images that are cropped already have that size and no crops. Colours (B, 4) are changed where there are any.
    """
    x = images
    if crops is not None:
        x = crop(images, crops, image_size)
    elif images.shape[2] != image_size:
        x = centre_crop(images, image_size)
    if colours is None:
        return x
    return jitter(x if x.is_floating_point() else x.float() / 255.0, colours)

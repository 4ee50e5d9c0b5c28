"""The one thing data-parallel training wraps: model and loss together, so that proxies and beta are never forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydml import seeds
from raydml.config import ExperimentConfig
from raydml.data.augment import centre_crop, crop
from raydml.data.batches import Batch
from raydml.distributed import gather
from raydml.losses import LossOutput, build_loss
from raydml.models import EmbeddingModel, build_model


@dataclass(frozen=True)
class StepContext:
    """Where in a training a step is: all that a random loss may depend on, equal on every rank."""

    seed: int
    epoch: int
    step: int

    def generator(self, device: torch.device) -> torch.Generator:
        """Randomness of this step, the same on every rank and in every run."""
        return torch.Generator(device).manual_seed(seeds.derive(seeds.Purpose.LOSS, self.seed, self.step))


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

    def __init__(self, model: EmbeddingModel, loss: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, images: Tensor, labels: Tensor, *, context: StepContext) -> LossOutput:
        """(B, C_in, H, W), (B,) int64 -> LossOutput of the gathered batch, the same on every rank."""
        embeddings = gather(self.model(images))
        output: LossOutput = self.loss(embeddings, gather(labels), generator=context.generator(embeddings.device))
        return output


def build_objective(config: ExperimentConfig, shape: DataShape) -> Objective:
    """Model and loss with weights drawn from the configuration's seed; the global generators stay untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(
            config.model,
            in_channels=shape.in_channels,
            image_size=shape.image_size,
            mean=shape.mean,
            std=shape.std,
        )
        loss = build_loss(config.loss, num_classes=shape.num_classes, embedding_dim=config.model.embedding_dim)
    objective = Objective(model, loss)
    return objective.double() if config.training.precision == "float64" else objective


def network_input(batch: Batch, image_size: int) -> Tensor:
    """(B, C_in, H, W) at the network's size: cropped at random where the batch says so, else in the centre."""
    if batch.crops is not None:
        return crop(batch.images, batch.crops, image_size)
    if batch.images.shape[2] == image_size:
        return batch.images
    return centre_crop(batch.images, image_size)

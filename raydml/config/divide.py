"""Divide and conquer the embedding space: how many learners, how images are divided among them, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from raydml.config.base import Model

# What the two publications, as released, set differently from the defaults here; the rest of their recipes (backbone,
# loss, batch, length) belongs to other sections.
PRESETS: dict[str, dict[str, object]] = {
    "none": {},
    "cvpr2019": {"recluster_epochs": 2, "round_length": "max"},
    "tpami2021": {
        "recluster_epochs": 2,
        "round_length": "max",
        "normalise": "whole",
        "hierarchical": True,
        "freeze_epochs": 1,
        "conquer_epoch": "never",
    },
}


class DivideConfig(Model):
    """Divide and Conquer the Embedding Space (Sanakoyeu et al. 2019, 2021); absent with one learner.

    Epochs count from 0. Before `full_embedding_epoch` each learner trains its slice of the embedding on its cluster of
    the images; then all dimensions train, still on one cluster a batch; from `conquer_epoch` on nothing is divided.
    """

    num_learners: int = Field(default=1, ge=1)
    """Clusters of images and slices of the embedding, one of each for a learner; 1 divides nothing."""

    preset: Literal["none", "cvpr2019", "tpami2021"] = "none"
    """Where fields that are not given take their values from: the defaults, or what a publication's release sets."""

    recluster_epochs: int = Field(default=8, ge=1)
    """Epochs from one clustering of the images to the next, which costs a third of an epoch; 2 as published."""

    full_embedding_epoch: int | Literal["auto"] = "auto"
    """First epoch that trains all dimensions together; two fifths of the training where `auto`, as 80 of 200."""

    conquer_epoch: int | Literal["auto", "never"] = "auto"
    """First epoch on all images together; the last twentieth of the training where `auto`, as 190 of 200, but one
    epoch at least."""

    cluster_on: Literal["features", "embeddings"] = "features"
    """What k-means sees: unit backbone features, as released, or embeddings, as the papers say."""

    cluster_by: Literal["image", "class"] = "image"
    """Whether images go their own ways, or each class to the cluster in which most of its images are."""

    round_length: Literal["mean", "max", "min", "proportional"] = "mean"
    """How long an epoch is, learners taking turns: as many steps as without division (`mean`), or, whatever
    `training.steps_per_epoch` says, until the largest (`max`) or the smallest cluster (`min`) was seen once;
    `proportional` is `mean` with turns in proportion to images."""

    normalise: Literal["slices", "whole"] = "slices"
    """Unit length of every slice of the embedding (2019), or of the whole (2021); also of what is evaluated."""

    inactive_slices: Literal["momentum", "frozen"] = "momentum"
    """What happens in a learner's step to the others' rows: momentum and decay move them, as released, or none."""

    hierarchical: bool = False
    """One learner at first, split in two at every clustering until there are `num_learners`, a power of two (2021);
    fewer where `full_embedding_epoch` comes before."""

    masks: Literal["fixed", "learned"] = "fixed"
    """Learners own slices of the embedding, or learn which dimensions to weigh, at `optimizer.loss_lr` (2021)."""

    mask_weight: float = Field(default=0.01, ge=0.0)
    """Weight of the mean cosine between two learned masks, beside the loss."""

    freeze_epochs: int = Field(default=0, ge=0)
    """Epochs after a clustering in which the backbone's learning rate is zero."""

    @model_validator(mode="before")
    @classmethod
    def _preset_comes_first(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        name = value.get("preset", "none")
        # What is no word is refused in pydantic's words afterwards.
        return {**(PRESETS.get(name, {}) if isinstance(name, str) else {}), **value}

    @model_validator(mode="after")
    def _learners_can_be(self) -> DivideConfig:
        count = self.num_learners
        if self.hierarchical and count & (count - 1):
            raise ValueError(f"hierarchical needs num_learners to be a power of two, but got num_learners={count}")
        if count > 1 and self.masks == "learned" and self.normalise != "whole":
            raise ValueError(f"masks=learned needs normalise=whole, but got normalise={self.normalise}")
        if count > 1 and self.masks == "learned" and self.inactive_slices == "frozen":
            raise ValueError("inactive_slices=frozen needs masks=fixed: with learned masks no dimension is inactive")
        if count > 1 and self.freeze_epochs >= self.recluster_epochs:
            raise ValueError(
                "freeze_epochs must be below recluster_epochs, or the backbone never trains, but got "
                f"freeze_epochs={self.freeze_epochs}, recluster_epochs={self.recluster_epochs}"
            )
        for name in ("full_embedding_epoch", "conquer_epoch"):
            epoch = getattr(self, name)
            if isinstance(epoch, int) and epoch < 0:
                raise ValueError(f"{name} must not be negative, but got {epoch}")
        return self

    def boundaries(self, num_epochs: int) -> tuple[int, int]:
        """First epochs of the stages `full` and `conquer`, in numbers; at or behind the end where one never begins."""
        conquer = num_epochs if self.conquer_epoch == "never" else self.conquer_epoch
        # The last epoch at least.
        first_conquer = min(round(0.95 * num_epochs), num_epochs - 1) if conquer == "auto" else conquer
        full = self.full_embedding_epoch
        first_full = min(round(0.4 * num_epochs), first_conquer) if full == "auto" else full
        return first_full, first_conquer

    def smallest_slice(self, embedding_dim: int) -> int:
        """Dimensions of the smallest learner."""
        return embedding_dim if self.masks == "learned" else embedding_dim // self.num_learners

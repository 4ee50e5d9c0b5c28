"""The learners of divide-and-conquer: which dimensions, classes and parameters a step trains.

Parameters are kept once, for all learners: proxies and the embedding head have all dimensions, of which a learner owns
a slice; what is not by dimension has a row for each learner. A stage is then a range of learners that work together:
one of them, the several that a learner is to be split into, or all. Nothing has to be handed over between stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from raydml.config import DivideConfig
from raydml.distances import inner_products, unit_slices
from raydml.divide import learners_at, stage_of, subspaces
from raydml.losses import ClassSubset, View
from raydml.losses.masking import masked_mean


@dataclass(frozen=True)
class Division:
    """Which cluster every training image is in, from one clustering to the next."""

    learners: Tensor
    """(N,) int64 on the host, nothing excluded yet."""
    num_learners: int
    epoch: int
    """The epoch, from 0, before which it was made: for people who read a checkpoint."""


def class_subsets(division: Tensor, labels: Tensor, *, num_learners: int, device: torch.device) -> list[ClassSubset]:
    """The classes of each learner's images; of a division (N,) in which what no learner uses is excluded."""
    num_classes = int(labels.max()) + 1
    subsets = []
    for learner in range(num_learners):
        classes = labels[division == learner].unique()
        place = torch.full((num_classes,), -1).index_copy(0, classes, torch.arange(len(classes)))
        subsets.append(ClassSubset(classes.to(device), place.to(device)))
    return subsets


class Learners(nn.Module):
    """What every learner owns; with masks to learn, these."""

    def __init__(self, config: DivideConfig, *, embedding_dim: int, num_epochs: int) -> None:
        super().__init__()
        self.config = config
        self.num_epochs = num_epochs
        self.subspaces = subspaces(embedding_dim, config.num_learners)
        self.masks: nn.Parameter | None = None
        if config.masks == "learned":
            self.masks = nn.Parameter(torch.ones(config.num_learners, embedding_dim))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Dimensions of every learner."""
        return tuple(subspace.stop - subspace.start for subspace in self.subspaces)

    def view(self, epoch: int, learner: int | None, subset: ClassSubset | None) -> View:
        """What a step trains: in the stage `divide` a learner (one of those of the epoch), later all learners.

        Without a learner, because there is but one yet, all of them too.
        """
        num_learners = self.config.num_learners
        first, last = 0, num_learners
        divided = stage_of(self.config, epoch, self.num_epochs) == "divide"
        if divided and learner is not None:
            # Learner k of fewer ones stands for those that it is to be split into.
            width = num_learners // learners_at(self.config, epoch)
            first, last = learner * width, (learner + 1) * width
        together = slice(first, last)
        columns = slice(self.subspaces[first].start, self.subspaces[last - 1].stop)
        if self.masks is not None and divided:
            project = partial(_masked, self._mask_of(together))
            columns = slice(0, self.subspaces[-1].stop)
        elif self.config.normalise == "slices":
            project = partial(_slices, columns, self.sizes[together])
        else:
            project = partial(_columns, columns)
        return View(project, together, columns, num_learners, subset if divided else None)

    @property
    def slices(self) -> tuple[int, ...] | None:
        """Sizes of the parts of an embedding that have one length; None where only the whole has a length."""
        return self.sizes if self.config.normalise == "slices" else None

    def _mask_of(self, together: slice) -> Tensor:
        """(D,). Learners that work together have equal masks: they began equal and got equal gradients."""
        assert self.masks is not None
        mask: Tensor = self.masks[together].relu().mean(0)
        return mask

    def overlap(self, epoch: int) -> Tensor | None:
        """() mean cosine of two learners' masks, which is to be small; None where masks are not learned."""
        if self.masks is None:
            return None
        count = learners_at(self.config, epoch)
        if stage_of(self.config, epoch, self.num_epochs) != "divide" or count == 1:
            # Every parameter must be part of every step's graph.
            return 0.0 * self.masks.sum()
        masks = self.masks.relu().unflatten(0, (count, -1)).mean(1)
        unit = nn.functional.normalize(masks, dim=1)
        different = ~torch.eye(count, dtype=torch.bool, device=unit.device)
        return masked_mean(inner_products(unit, unit), different)


def active_rows(name: str, parameter: Tensor, view: View) -> Tensor | None:
    """What of a parameter of model or loss the learners of a view own, to be broadcast; None where it is everybody's.

    `name` is its name in an `Objective`.
    """
    field = name.rpartition(".")[2]
    # One row for each learner; a library's own boundaries are everybody's.
    if field == "beta" and parameter.ndim == 2:
        return _mask(len(parameter), view.learners, parameter).view(-1, 1)
    if field == "proxies":
        return _mask(parameter.shape[-1], view.columns, parameter)
    if name.startswith("model.head."):
        return _mask(len(parameter), view.columns, parameter).view(-1, *(1,) * (parameter.ndim - 1))
    return None


def _mask(size: int, active: slice, like: Tensor) -> Tensor:
    place = torch.arange(size, device=like.device)
    inside: Tensor = (place >= active.start) & (place < active.stop)
    return inside


def _columns(columns: slice, rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows[..., columns], dim=-1)


def _slices(columns: slice, sizes: tuple[int, ...], rows: Tensor) -> Tensor:
    return unit_slices(rows[..., columns], sizes)


def _masked(mask: Tensor, rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows * mask, dim=-1)

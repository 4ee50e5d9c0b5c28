"""Spherical Embedding Expansion around any loss with proxies or on pairs: a second, weighted term on synthetic rows.

L = loss(embeddings) + weight * loss(synthetic embeddings), with the same proxies (Le & Woo, PAKDD 2024, as released).
Losses on pairs have no proxies: class prototypes take their place, the embeddings are the anchors, and the synthetic
embeddings what they are compared with; an anchor is never compared with its own. That part is this project's own.

Selection is over the gathered batch and frames come from (seed, step), so that every rank makes the same points. Shapes
depend on the configuration alone: those of the largest fraction, with a mask.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raydml.config import ConfigError, PairLoss, ProxyAnchorConfig, SeeConfig
from raydml.config.losses import LossConfig
from raydml.distances import full_precision, inner_products
from raydml.losses import LossOutput, References, View
from raydml.losses.classes import class_directions, unit_proxies
from raydml.losses.masking import masked_mean
from raydml.losses.memory import CrossBatchMemory
from raydml.losses.proxy import ProxyAnchorLoss
from raydml.losses.view import rows_of
from raydml.see import Rim, expand_rim, expanded_fraction, has_direction, num_expanded, reflected, rim_of

# Cosines that differ by less are equally near.
_STEPS_OF_COSINE = 2.0**16
# Synthetic embeddings whose collisions are counted in a step: an epoch's mean over so many is sharp, and costs nothing.
_SAMPLED = 32


class Synthetic(NamedTuple):
    """Synthetic embeddings of the selected ones; E of each."""

    rows: Tensor
    """(n, E, D)."""
    source: Tensor
    """(n,) int64, positions in the batch."""
    labels: Tensor
    """(n,) int64, places among the class directions."""
    counted: Tensor
    """(n,) bool; the others fill the shape."""
    cosine: Tensor
    """(n,) cosines to the class direction."""


class Prototypes(nn.Module):
    """Class directions for losses without proxies: running means of embeddings, or proxies that train beside them."""

    means: Tensor

    def __init__(self, config: SeeConfig, *, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.momentum = config.prototype_momentum
        self.auxiliary: ProxyAnchorLoss | None = None
        if config.prototypes == "auxiliary":
            anchor = ProxyAnchorConfig(kind="proxy_anchor")
            self.auxiliary = ProxyAnchorLoss(anchor, num_classes=num_classes, embedding_dim=embedding_dim)
        else:
            self.register_buffer("means", torch.zeros(num_classes, embedding_dim))

    def loss(self, embeddings: Tensor, labels: Tensor, view: View | None = None) -> Tensor:
        """What trains auxiliary proxies, and nothing else: () with a graph to them, or zero. Running means move."""
        if self.auxiliary is not None:
            output: LossOutput = self.auxiliary(embeddings.detach(), labels, view=view)
            return output.value
        self._move(embeddings.detach(), labels, view)
        return embeddings.new_zeros(())

    @property
    def proxies(self) -> Tensor:
        """(C, D), of any length."""
        return self.means if self.auxiliary is None else self.auxiliary.proxies

    @torch.no_grad()
    def _move(self, embeddings: Tensor, labels: Tensor, view: View | None) -> None:
        """Only dimensions of the view move: a learner's means are of the images it trains on."""
        rows = rows_of(view, embeddings).to(self.means.dtype)
        before = rows_of(view, self.means)
        sums = torch.zeros_like(before).index_add(0, labels, rows)
        counts = rows.new_zeros(len(before)).index_add(0, labels, rows.new_ones(len(rows)))[:, None]
        batch_means = sums / counts.clamp(min=1.0)
        # A class that was never seen, and has a mean of zero, starts at the direction of its first batch mean.
        moved = torch.lerp(batch_means, before, self.momentum)
        after = torch.where(counts > 0, nn.functional.normalize(moved, dim=1), before)
        columns = slice(None) if view is None else view.columns
        self.means = torch.slice_scatter(self.means, after, 1, columns.start, columns.stop)


class SphericalExpansion(nn.Module):
    """Spherical Embedding Expansion; holds nothing but the prototypes that a loss without proxies needs."""

    def __init__(
        self, config: SeeConfig, loss: LossConfig, *, num_epochs: int, num_classes: int, embedding_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        self.num_epochs = num_epochs
        self.prototypes: Prototypes | None = None
        if isinstance(loss, PairLoss):
            self.prototypes = Prototypes(config, num_classes=num_classes, embedding_dim=embedding_dim)

    def forward(
        self,
        loss: nn.Module,
        embeddings: Tensor,
        labels: Tensor,
        *,
        epoch: int,
        generator: torch.Generator,
        frames: Callable[[], torch.Generator],
        view: View | None = None,
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> both terms. `frames` makes the generator of this step's frames.

        With a view both terms are in its dimensions, with its classes (specs/see.md, 13: this project's extension).
        Where nothing is expanded in this epoch (counted from 0), embeddings and loss have the gradients of the loss
        alone, to the bit; so is the value, but for what trains auxiliary prototypes.
        """
        fraction = expanded_fraction(epoch, self.num_epochs, self.config)
        extra = None if self.prototypes is None else self.prototypes.loss(embeddings, labels, view)
        count = self._count(len(labels), fraction)
        if count == 0:
            output: LossOutput = loss(embeddings, labels, generator=generator, view=view)
            return output if extra is None else output._replace(value=output.value + extra)
        owner: Any = loss if self.prototypes is None else self.prototypes
        places = labels if view is None else view.labels(labels)
        proxies = unit_proxies(owner.proxies) if view is None else view.proxies(full_precision(owner.proxies))
        inside = None if view is None else view.inside()
        rows = rows_of(view, embeddings)
        directions = class_directions(rows.detach(), places, proxies.detach())
        base_norm, synthetic_norm = embeddings.new_zeros(()), embeddings.new_zeros(())
        if self.prototypes is None:
            watched = _watched(proxies, base_norm)
            output = loss(rows, places, proxies=watched, generator=generator, view=inside)
            found = self._expanded(rows, places, directions, count, fraction, frames())
            term = self._proxy_term(loss, found, _watched(proxies, synthetic_norm), inside)
        else:
            # A memory keeps whole embeddings, so the loss itself takes what the view wants of them.
            output = loss(_watched(embeddings, base_norm), labels, generator=generator, view=view)
            found = self._expanded(rows, places, directions, count, fraction, frames())
            anchors = rows_of(view, _watched(embeddings, synthetic_norm))
            term = self._pair_term(loss, anchors, labels, found, generator, inside)
        value = output.value + self.config.weight * term
        stats = {
            "see/loss": term.detach(),
            "see/fraction": found.counted.sum() / len(labels),
            "see/selected": found.counted.sum(),
            "see/selected_cosine": masked_mean(found.cosine, found.counted),
            "see/collisions": _collisions(found, proxies.detach()),
            "see/base_gradient": base_norm,
            "see/gradient": synthetic_norm,
        }
        return LossOutput(value if extra is None else value + extra, {**output.stats, **stats})

    def largest_count(self, num_images: int) -> int:
        """Images that are expanded in the end, whose shapes every expansion has."""
        return self._count(num_images, self.config.final_fraction)

    def _count(self, num_images: int, fraction: float) -> int:
        """Most images that may be expanded in an epoch; a threshold leaves the number to the data."""
        return num_images if self.config.schedule == "threshold" else num_expanded(num_images, fraction)

    def _expanded(
        self,
        embeddings: Tensor,
        labels: Tensor,
        directions: Tensor,
        count: int,
        fraction: float,
        generator: torch.Generator,
    ) -> Synthetic:
        rim = rim_of(embeddings, directions)
        # On a grid: two images of a class may be equally near to their mean, and rounding, which depends on the number
        # of workers, must not choose between them.
        score = (rim.cosine[:, 0] * _STEPS_OF_COSINE).round()
        if self.config.selection == "random":
            score = torch.rand(len(labels), generator=generator, dtype=score.dtype, device=score.device)
        order = score.argsort(descending=self.config.selection != "bottom", stable=True)
        most = self.largest_count(len(labels))
        source = order[:most]
        chosen = Rim(*(of_all.index_select(0, source) for of_all in rim))
        cosine = chosen.cosine[:, 0]
        if self.config.schedule == "threshold":
            counted = cosine >= fraction
        else:
            counted = torch.arange(most, device=labels.device) < count
        rows = expand_rim(
            chosen,
            self.config.num_expansions,
            generator=generator,
            frames=self.config.frames,
            directions=self.config.directions,
        )
        if self.config.gradient == "reflect":
            rows = reflected(embeddings.index_select(0, source), rows)
        return Synthetic(rows, source, labels.index_select(0, source), counted & has_direction(chosen), cosine)

    def _proxy_term(self, loss: nn.Module, found: Synthetic, proxies: Tensor, view: View | None) -> Tensor:
        """The loss on synthetic rows alone, with the same proxies."""
        labels, counted = (of_each.repeat_interleave(self.config.num_expansions) for of_each in found[2:4])
        output: LossOutput = loss(found.rows.flatten(0, 1), labels, proxies=proxies, counted=counted, view=view)
        return output.value

    def _pair_term(
        self,
        loss: nn.Module,
        embeddings: Tensor,
        labels: Tensor,
        found: Synthetic,
        generator: torch.Generator,
        view: View | None,
    ) -> Tensor:
        """The loss of the embeddings against synthetic rows, but for an anchor's own."""
        num_expansions = self.config.num_expansions
        source_labels = labels.index_select(0, found.source)
        row_labels = source_labels.masked_fill(~found.counted, -1).repeat_interleave(num_expansions)
        num_rows = len(row_labels)
        columns = torch.arange(num_rows, device=labels.device).view(-1, num_expansions)
        # One more reference, no embedding, is where the copies of anchors that were not selected lie.
        nowhere = torch.full((len(labels), num_expansions), num_rows, device=labels.device)
        references = References(
            nn.functional.pad(found.rows.flatten(0, 1), (0, 0, 0, 1)),
            nn.functional.pad(row_labels, (0, 1), value=-1),
            nowhere.index_copy(0, found.source, columns),
        )
        # Synthetic embeddings never enter a memory.
        inner = loss.loss if isinstance(loss, CrossBatchMemory) else loss
        output: LossOutput = inner(embeddings, labels, references=references, generator=generator, view=view)
        return output.value


def rehearse(see: SphericalExpansion, loss: nn.Module, embeddings: Tensor, labels: Tensor) -> None:
    """Both terms at their largest, forward and backward, on copies and any (G, D) rows.

    Expansions begin epochs into a training, and what does not fit into memory then has to fail before it. Raises
    ConfigError.
    """
    see, loss = copy.deepcopy(see), copy.deepcopy(loss)
    generator = torch.Generator(embeddings.device)
    try:
        rows = embeddings.requires_grad_()
        output = see(loss, rows, labels, epoch=see.num_epochs, generator=generator, frames=lambda: generator)
        output.value.backward()
    except torch.OutOfMemoryError as error:
        count = see.largest_count(len(labels))
        raise ConfigError(
            f"see.num_expansions: {see.config.num_expansions} expansions of {count} of {len(labels)} embeddings do not "
            f"fit into the memory of {embeddings.device}; lower see.final_fraction, see.num_expansions or "
            "data.batch_size"
        ) from error


def _watched(rows: Tensor, norm: Tensor) -> Tensor:
    """The same rows, for one term; `norm` becomes the norm of that term's gradient by them, when it is known."""

    def note(gradient: Tensor) -> None:
        norm.copy_(gradient.norm())

    view = rows.view_as(rows)
    if view.requires_grad:
        view.register_hook(note)
    return view


@torch.no_grad()
def _collisions(found: Synthetic, proxies: Tensor) -> Tensor:
    """Share of some synthetic embeddings that are nearer to another class's direction than to their own."""
    rows = found.rows[:_SAMPLED, 0]
    of_classes = inner_products(rows, proxies.view(-1, proxies.shape[-1])).view(len(rows), len(proxies), -1).amax(2)
    collides = (of_classes.argmax(1) != found.labels[:_SAMPLED]).to(rows.dtype)
    return masked_mean(collides, found.counted[:_SAMPLED])

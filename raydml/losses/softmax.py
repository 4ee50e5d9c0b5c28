"""Softmax over cosines to one weight vector for each class, with a margin on the own class: four losses.

All are the mean over images of softplus(LSE_{j != y}(g c_j) - g t(c_y)), which is the cross-entropy, with c the cosines
to the weights, g the scale and t the margin's change of the own cosine. Weights start uniform in +-1 / sqrt(D).
"""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import Tensor, nn

from raydml.config import ArcFaceConfig, CosFaceConfig, CurricularFaceConfig, NormalisedSoftmaxConfig
from raydml.losses.calling import on_proxies, on_proxies_of_learners
from raydml.losses.classes import logsumexp_of_others, mean_of_counted, own_class
from raydml.losses.masking import softplus
from raydml.losses.output import LossOutput
from raydml.losses.view import View, mean, with_state


def _uniform(num_classes: int, embedding_dim: int) -> nn.Parameter:
    bound = embedding_dim**-0.5
    return nn.Parameter(torch.empty(num_classes, embedding_dim).uniform_(-bound, bound))


def _cross_entropy(others: Tensor, own: Tensor, counted: Tensor | None) -> Tensor:
    return mean_of_counted(softplus(others - own), counted)


def angle_plus_margin(cosine: Tensor, margin_deg: float) -> Tensor:
    """cos(theta + m); beyond theta = 180 degrees - m, where it would rise again, cos(theta) - m sin(m) (ArcFace)."""
    margin = math.radians(margin_deg)
    return _falling(cosine, _turned(cosine, margin), margin)


def _falling(cosine: Tensor, turned: Tensor, margin: float) -> Tensor:
    return torch.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))


def _turned(cosine: Tensor, margin: float) -> Tensor:
    """cos(theta + m). No arc cosine: its derivative is infinite where an embedding meets its class."""
    # The derivative of the sine is infinite at cosine +-1; rounding leaves no more to gain there.
    rest = 1.0 - cosine.square()
    inside = rest > 4.0 * torch.finfo(cosine.dtype).eps
    sine = torch.where(inside, torch.where(inside, rest, 1.0).sqrt(), 0.0)
    return cosine * math.cos(margin) - sine * math.sin(margin)


class MarginSoftmaxLoss(nn.Module):
    """Normalised softmax (Wang et al. 2017), CosFace (Wang et al. 2018, eq. 4) or ArcFace (Deng et al. 2019, eq. 3)."""

    def __init__(
        self,
        config: NormalisedSoftmaxConfig | CosFaceConfig | ArcFaceConfig,
        *,
        num_classes: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.proxies = _uniform(num_classes, embedding_dim)

    @on_proxies
    def forward(self, embeddings: Tensor, labels: Tensor, proxies: Tensor, counted: Tensor | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64, (G,) bool -> LossOutput. Deterministic; stats: cosine to the own class."""
        own = own_class(embeddings, labels, proxies)
        stats = {"proxy_similarity": own.detach().mean()}
        if len(proxies) < 2:
            return LossOutput(0.0 * own.sum(), stats)
        scale, target = self._scale_and_target(own)
        others = logsumexp_of_others(embeddings, labels, proxies, scale=scale)
        return LossOutput(_cross_entropy(others, scale * target, counted), stats)

    def _scale_and_target(self, own: Tensor) -> tuple[float, Tensor]:
        match self.config:
            case NormalisedSoftmaxConfig(temperature=temperature):
                return 1.0 / temperature, own
            case CosFaceConfig(scale=scale, margin=margin):
                return scale, own - margin
            case ArcFaceConfig(scale=scale, margin_deg=margin_deg):
                return scale, angle_plus_margin(own, margin_deg)
            case _:
                assert_never(self.config)


class CurricularFaceLoss(nn.Module):
    """CurricularFace (Huang et al. 2020, eq. 6 to 8): ArcFace whose hard negatives c_j become c_j (t + c_j).

    A negative is hard where c_j > cos(theta_y + m); t is the running mean of the cosine to the own class, a buffer that
    starts at 0 and moves before it is used, as the authors' release does. It is the same on every rank, because every
    rank sees the gathered batch.
    """

    curriculum: Tensor

    def __init__(
        self, config: CurricularFaceConfig, *, num_classes: int, embedding_dim: int, num_learners: int = 1
    ) -> None:
        super().__init__()
        self.config = config
        self.proxies = _uniform(num_classes, embedding_dim)
        self.register_buffer("curriculum", torch.zeros(num_learners))

    @on_proxies_of_learners
    def forward(
        self, embeddings: Tensor, labels: Tensor, proxies: Tensor, counted: Tensor | None, view: View | None
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64, (G,) bool -> LossOutput. Deterministic; stats: own cosine, curriculum."""
        own = own_class(embeddings, labels, proxies)
        # Synthetic embeddings are no evidence of how far the training is.
        if counted is None:
            self.curriculum = self._advanced(own.detach().mean(), view)
        curriculum = mean(self.curriculum, view)
        stats = {"proxy_similarity": own.detach().mean(), "curriculum": curriculum}
        if len(proxies) < 2:
            return LossOutput(0.0 * own.sum(), stats)
        margin = math.radians(self.config.margin_deg)
        turned = _turned(own, margin)
        target = _falling(own, turned, margin)
        # Not the target, which beyond 180 degrees - m lies below every cosine.
        limit = turned.detach()[:, None]

        def harden(cosines: Tensor) -> Tensor:
            return torch.where(cosines > limit, cosines * (curriculum + cosines), cosines)

        others = logsumexp_of_others(embeddings, labels, proxies, scale=self.config.scale, change=harden)
        return LossOutput(_cross_entropy(others, self.config.scale * target, counted), stats)

    @torch.no_grad()
    def _advanced(self, mean_cosine: Tensor, view: View | None) -> Tensor:
        """(L,): the curriculum of the learners of the view one batch further."""
        moved = torch.lerp(mean_cosine.to(self.curriculum.dtype), mean(self.curriculum, view), self.config.momentum)
        return with_state(self.curriculum, view, moved)

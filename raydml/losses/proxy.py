"""Losses that compare embeddings with learned proxies: Proxy-NCA, Proxy-Anchor, SoftTriple.

Proxies are rows of any length; only their directions count.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from raydml.config import ProxyAnchorConfig, ProxyNCAConfig, SoftTripleConfig
from raydml.distances import cosine, full_precision, inner_products
from raydml.losses.calling import on_proxies
from raydml.losses.classes import (
    SomeClasses,
    counted_products,
    logsumexp_of_others,
    mean_of_counted,
    own_class,
    parts_over_classes,
)
from raydml.losses.masking import masked_mean, softplus
from raydml.losses.output import LossOutput


class ProxyNCALoss(nn.Module):
    """Proxy-NCA (Movshovitz-Attias et al. 2017, eq. 4) and Proxy-NCA++ (Teh, DeVries, Taylor 2020, eq. 6).

    With d squared distances of unit rows and g the scale, mean over images of -log(e^(-g d_y) / sum_z e^(-g d_z)): z
    runs over the other classes (original) or over all (plus_plus). d = 2 - 2 cosine. Proxies start as the authors of
    Proxy-NCA++ draw them, N(0, 1/64).
    """

    def __init__(self, config: ProxyNCAConfig, *, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.proxies = nn.Parameter(torch.randn(num_classes, embedding_dim) / 8.0)

    @on_proxies
    def forward(self, embeddings: Tensor, labels: Tensor, proxies: Tensor, counted: Tensor | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64, (G,) bool -> LossOutput. Deterministic; stats: cosine to the own proxy."""
        own = own_class(embeddings, labels, proxies)
        stats = {"proxy_similarity": own.detach().mean()}
        if len(proxies) < 2:
            return LossOutput(0.0 * own.sum(), stats)
        scale = 2.0 * self.config.scale
        gap = logsumexp_of_others(embeddings, labels, proxies, scale=scale) - scale * own
        terms = softplus(gap) if self.config.form == "plus_plus" else gap
        return LossOutput(mean_of_counted(terms, counted), stats)


class ProxyAnchorLoss(nn.Module):
    """Proxy-Anchor loss (Kim, Kim, Cho, Kwak, CVPR 2020, eq. 4), proxies drawn as the authors' release does.

    With s the cosine of embedding and proxy, alpha the scale and delta the margin:
    mean over classes present of log(1 + sum_{x of the class} exp(-alpha (s - delta)))
    + mean over all classes of log(1 + sum_{x of other classes} exp(alpha (s + delta))).
    """

    def __init__(self, config: ProxyAnchorConfig, *, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    @on_proxies
    def forward(self, embeddings: Tensor, labels: Tensor, proxies: Tensor, counted: Tensor | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64, (G,) bool -> LossOutput. Deterministic; stats: cosine to the own proxy."""
        own = own_class(embeddings, labels, proxies)
        push = torch.cat(parts_over_classes(partial(self._push, counted=counted), embeddings, labels, proxies)).mean()
        return LossOutput(self._pull(own, labels, counted) + push, {"proxy_similarity": own.detach().mean()})

    def _pull(self, own: Tensor, labels: Tensor, counted: Tensor | None) -> Tensor:
        """Mean over the classes present."""
        exponent = -self.config.scale * (own - self.config.margin)
        none = own.new_zeros(len(self.proxies))
        if counted is not None:
            exponent = exponent.masked_fill(~counted, -torch.inf)
        top = none.scatter_reduce(0, labels, exponent.detach(), "amax", include_self=False)
        if counted is not None:
            top = top.masked_fill(top == -torch.inf, 0.0)
        total = none.index_add(0, labels, (exponent - top.index_select(0, labels)).exp())
        # The largest exponent of a class that is present adds 1.
        present = total > 0
        per_class = softplus(torch.where(present, total, 1.0).log() + top)
        return masked_mean(per_class, present)

    def _push(self, embeddings: Tensor, classes: SomeClasses, *, counted: Tensor | None) -> Tensor:
        """(c,), one term for each class that comes in."""
        logits = counted_products(self.config.scale * full_precision(embeddings), classes.proxies, counted)
        per_class, has_others = classes.logsumexp_of_other_rows(logits, counted)
        return torch.where(has_others, softplus(per_class + self.config.scale * self.config.margin), 0.0)


class SoftTripleLoss(nn.Module):
    """SoftTriple loss (Qian, Shang, Sun, Hu, Li, Jin 2019, eq. 7 to 12).

    With centres w_ck, the similarity to a class is the mean of its cosines weighted by their own softmax,
    S_c = sum_k softmax_k(a x w_ck) x w_ck; mean over images of the cross-entropy of g (S_c - margin of the own class),
    plus the weight times sum_{k < l} |w_ck - w_cl| / (K (K - 1)), meaned over classes: half the mean distance of two
    centres of a class. Centres start uniform in +-1 / sqrt(C K), as in the authors' release.
    """

    def __init__(self, config: SoftTripleConfig, *, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.proxies = nn.Parameter(torch.empty(num_classes, config.centers_per_class, embedding_dim))
        bound = (num_classes * config.centers_per_class) ** -0.5
        nn.init.uniform_(self.proxies, -bound, bound)

    @on_proxies
    def forward(self, embeddings: Tensor, labels: Tensor, proxies: Tensor, counted: Tensor | None) -> LossOutput:
        """(G, D) unit rows, (G,) int64, (G,) bool -> LossOutput. Deterministic; stats: similarity to the own class."""
        parts = parts_over_classes(self._part, embeddings, labels, proxies)
        others, own = parts[0] if len(parts) == 1 else _combined(torch.stack(parts))
        # Of the centres, and so counted with the images.
        value = self._regularizer(proxies) if counted is None else own.new_zeros(())
        if len(proxies) > 1:
            gap = others - self.config.scale * (own - self.config.margin)
            value = value + mean_of_counted(softplus(gap), counted)
        else:
            value = value + 0.0 * own.sum()
        return LossOutput(value, {"class_similarity": own.detach().mean()})

    def _part(self, embeddings: Tensor, classes: SomeClasses) -> Tensor:
        """(2, G), of the classes that come in: log-sum-exp over the others, and the own similarity or 0."""
        rows = classes.proxies
        similarity = self._relaxed(cosine(embeddings, rows.flatten(0, 1)).unflatten(1, rows.shape[:2]))
        others = classes.logsumexp_of_others(self.config.scale * similarity)
        column, inside = classes.own()
        own = similarity.gather(1, column)
        return torch.stack([others, (own if inside is None else torch.where(inside, own, 0.0)).squeeze(1)])

    def _relaxed(self, cosines: Tensor) -> Tensor:
        """(..., K) -> (...): mean of the cosines to a class's centres, weighted by their softmax."""
        return ((self.config.assignment_scale * cosines).softmax(-1) * cosines).sum(-1)

    def _regularizer(self, proxies: Tensor) -> Tensor:
        if self.config.regularizer_weight == 0.0:
            return proxies.new_zeros(())
        return self.config.regularizer_weight * self._spread(proxies)

    def _spread(self, proxies: Tensor) -> Tensor:
        """Half the mean Euclidean distance of two centres of a class; zero gradient where they coincide."""
        num_centers = proxies.shape[1]
        if num_centers == 1:
            return proxies.new_zeros(())
        squared = 2.0 - 2.0 * inner_products(proxies, proxies)
        upper = torch.ones(num_centers, num_centers, dtype=torch.bool, device=proxies.device).triu(1)
        apart = upper & (squared > 8.0 * torch.finfo(squared.dtype).eps)
        distance = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
        return distance.sum() / (len(proxies) * num_centers * (num_centers - 1))


def _combined(parts: Tensor) -> Tensor:
    """(chunks, 2, G) -> (2, G): log-sum-exps over all others, and the own similarity from the chunk that has it."""
    return torch.stack([parts[:, 0].logsumexp(0), parts[:, 1].sum(0)])

"""Losses that compare embeddings with learned proxies, one for each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydml.config import ProxyAnchorConfig
from raydml.distances import cosine, full_precision
from raydml.losses.masking import masked_logsumexp, pairs_of, softplus
from raydml.losses.output import LossOutput, check_batch


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

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, generator: torch.Generator | None = None, check: bool = False
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput. Deterministic; stats: cosine to the own proxy."""
        del generator
        if check:
            check_batch(embeddings, labels, num_classes=len(self.proxies))
        proxies = nn.functional.normalize(full_precision(self.proxies), dim=1)
        similarity = cosine(embeddings, proxies)
        own = similarity.gather(1, labels[:, None])
        value = self._pull(own, labels) + self._push(similarity, labels)
        return LossOutput(value, {"proxy_similarity": own.detach().mean()})

    def _pull(self, own: Tensor, labels: Tensor) -> Tensor:
        """Mean over the classes present, each seen once: an image's share of its class is 1 / its class's images."""
        pairs = pairs_of(labels)
        same = ~pairs.negative
        exponent = (-self.config.scale * (own - self.config.margin)).T.expand(same.shape)
        per_image = softplus(exponent.masked_fill(~same, -torch.inf).logsumexp(1))
        # In the embeddings' own type: 1 / int64 would be float32.
        share = same.sum(1, dtype=own.dtype).reciprocal()
        return (per_image * share).sum() / share.sum()

    def _push(self, similarity: Tensor, labels: Tensor) -> Tensor:
        exponent = self.config.scale * (similarity + self.config.margin)
        others = torch.ones_like(exponent, dtype=torch.bool).scatter(1, labels[:, None], False)
        per_class, has_others = masked_logsumexp(exponent, others, dim=0)
        return torch.where(has_others, softplus(per_class), 0.0).mean()

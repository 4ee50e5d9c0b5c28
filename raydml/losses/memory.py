"""Cross-batch memory (Wang, Zhang, Huang, Scott, CVPR 2020): more pairs for a pair loss than a batch has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydml.config import MemoryConfig
from raydml.losses.masking import References
from raydml.losses.output import LossOutput, check_batch
from raydml.losses.view import View


class CrossBatchMemory(nn.Module):
    """A pair loss within the batch, plus the same loss of the batch against the last `size` embeddings.

    As in the paper the batch enters the memory before it is compared with it; an anchor's own copy is no pair. The
    queue, its fill and the steps seen are buffers, so that a checkpoint holds them; every rank enqueues the same
    gathered batch in rank order, so that the queues are equal. Nothing here waits for the device.
    """

    embeddings: Tensor
    labels: Tensor
    learners: Tensor
    enqueued: Tensor
    steps: Tensor

    def __init__(self, loss: nn.Module, config: MemoryConfig, *, embedding_dim: int) -> None:
        super().__init__()
        self.loss = loss
        self.config = config
        self.register_buffer("embeddings", torch.zeros(config.size, embedding_dim))
        self.register_buffer("labels", torch.full((config.size,), -1, dtype=torch.int64))
        self.register_buffer("learners", torch.zeros(config.size, dtype=torch.int64))
        self.register_buffer("enqueued", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        check: bool = False,
        view: View | None = None,
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 labels from 0 -> LossOutput; stats of the loss within the batch.

        It holds whole embeddings; a learner sees those of its own batches, all learners together see all.

        Raises ValueError where the batch is larger than the memory; a check also refuses labels below 0, which mark
        empty places here.
        """
        if len(labels) > self.config.size:
            raise ValueError(f"a memory of {self.config.size} embeddings cannot hold a batch of {len(labels)}")
        if check:
            check_batch(embeddings, labels, embedding_dim=self.embeddings.shape[1])
        if check and bool((labels < 0).any()):
            raise ValueError(f"labels must not be negative where a loss has a memory, but got {int(labels.min())}")
        within: LossOutput = self.loss(embeddings, labels, generator=generator, check=check, view=view)
        references = self._enqueue(embeddings.detach(), labels, view)
        across: LossOutput = self.loss(embeddings, labels, references=references, generator=generator, view=view)
        counts = self.steps > self.config.warmup_steps
        value = within.value + self.config.weight * torch.where(counts, across.value, 0.0)
        return LossOutput(value, {**within.stats, "memory_loss": across.value.detach()})

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor, labels: Tensor, view: View | None) -> References:
        own = (self.enqueued + torch.arange(len(labels), device=labels.device)) % self.config.size
        self.embeddings = self.embeddings.index_copy(0, own, embeddings.to(self.embeddings.dtype))
        self.labels = self.labels.index_copy(0, own, labels)
        # Of several learners together, as they are before they are split, a number of their own.
        learner = 0 if view is None else view.learners.start * (view.num_learners + 1) + view.learners.stop
        self.learners = self.learners.index_fill(0, own, learner)
        self.enqueued = self.enqueued + len(labels)
        self.steps = self.steps + 1
        if view is None or view.is_whole:
            return References(self.embeddings, self.labels, own)
        return References(self.embeddings, self.labels.masked_fill(self.learners != learner, -1), own)

"""What every rank of tests/test_distributed.py computes, and the single process it is compared with.

Apart from the tests because spawned processes import it by name, and should import no more than they need.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch import Tensor

from raydml.config import ExperimentConfig, parse
from raydml.data.batches import Batch
from raydml.distributed import barrier, gather, gather_ragged, rank, share, world_size
from raydml.epoch import TrainingState, new_state, train_epoch
from raydml.objective import DataShape, StepContext
from tests.loss_cases import CASES

WORLDS = (4, 3, 2, 1)
BATCH = 16
"""Images of the global batch: three workers have 5, 5 and 6 of them."""
RAGGED = (3, 0, 5, 1)
"""Rows that each rank brings to `gather_ragged`."""

_SHAPE = DataShape(num_classes=6, in_channels=1, image_size=16, mean=(0.5,), std=(0.25,))
_CPU = torch.device("cpu")

Result = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One training, up to the gradients of its first step."""

    loss: Mapping[str, object]
    layout: str = "split"
    """Where the images of a class lie: whole classes on a rank (contiguous), or one image on each (split)."""
    precision: str = "float64"
    batch_norm: str = "synchronised"
    """As in the configuration; or plain, torch's own, which under data parallelism is another function."""
    chunk_size: int | None = None
    backbone: str = "test_resnet"
    see: Mapping[str, object] = field(default_factory=dict)
    """Spherical Embedding Expansion; of the first epoch, which is the only one here."""
    seed_by_rank: bool = False
    """Whether ranks draw different negatives, as they never do in a training."""

    @property
    def name(self) -> str:
        more = [] if self.chunk_size is None else [f"chunks of {self.chunk_size}"]
        more += ["see", *map(str, self.see.values())] if self.see else []
        return " ".join(map(str, (*self.loss.values(), self.layout, self.precision, self.batch_norm, *more)))


MINED: Mapping[str, object] = {"kind": "library", "name": "MarginLoss", "miner": "DistanceWeightedMiner"}
LOSSES: tuple[Mapping[str, object], ...] = (*CASES, MINED)
WITH_MEMORY: tuple[Mapping[str, object], ...] = (
    {"kind": "contrastive", "memory": {"size": 40}},
    {"kind": "margin", "learn_beta": "shared", "memory": {"size": 40}},
)
SELECTED: tuple[Mapping[str, object], ...] = (
    {"kind": "discriminate"},
    {"kind": "margin", "learn_beta": "per_class"},
    {"kind": "proxy_anchor"},
)
EXACT = (*(Case(loss) for loss in LOSSES), *(Case(loss, "contiguous") for loss in SELECTED))
FROZEN = tuple(Case(loss, batch_norm="frozen") for loss in SELECTED)
_EXPANDED: Mapping[str, object] = {"num_expansions": 4, "schedule": "constant", "final_fraction": 0.6}
EXPANDED = (
    Case({"kind": "proxy_anchor"}, see=_EXPANDED),
    Case({"kind": "proxy_anchor"}, batch_norm="frozen", see={**_EXPANDED, "gradient": "reflect"}),
    Case({"kind": "soft_triple"}, "contiguous", see={**_EXPANDED, "frames": "independent", "selection": "random"}),
    Case({"kind": "discriminate"}, see=_EXPANDED),
    Case({"kind": "margin", "learn_beta": "shared"}, "contiguous", see={**_EXPANDED, "prototypes": "auxiliary"}),
)
SINGLE = tuple(Case(loss, precision="float32") for loss in SELECTED)
CHUNKED = Case(SELECTED[2], batch_norm="frozen", chunk_size=3)
PLAIN = Case(SELECTED[0], batch_norm="plain")
OWN_DRAWS = Case(SELECTED[1], seed_by_rank=True)
TRAJECTORIES = (
    *(Case(loss) for loss in (SELECTED[2], {"kind": "curricularface"}, *WITH_MEMORY)),
    Case({"kind": "discriminate"}, see=_EXPANDED),
    Case({"kind": "contrastive", "memory": {"size": 40}}, see={**_EXPANDED, "prototypes": "auxiliary"}),
)
"""Proxies, prototypes, running means and queues: what a wrong scale or order shows in only after some steps."""


def everything() -> dict[str, Result]:
    """All results of this rank, by name; without a process group, those of the single process."""
    cases = (*EXACT, *FROZEN, *EXPANDED, *SINGLE, CHUNKED, PLAIN, OWN_DRAWS)
    return {
        **{case.name + (" own draws" if case.seed_by_rank else ""): first_step(case) for case in cases},
        **{f"trajectory {case.name}": trajectory(case, num_steps=8) for case in TRAJECTORIES},
        "collectives": collectives(),
    }


def first_step(case: Case, *, seed: int | None = None) -> Result:
    """Loss, gradients and buffers after one step of this rank's share of the batch."""
    plain = mock.patch("raydml.models._synchronise") if case.batch_norm == "plain" else nullcontext()
    with plain:
        state = new_state(_config(case), _SHAPE, steps_per_epoch=1, device=_CPU)
    images, labels = _batch(case.layout, step=0)
    own = rank() if case.seed_by_rank else 0
    context = StepContext(own if seed is None else seed, epoch=0, step=0, num_images=BATCH)
    state.objective.train()
    output = state.parallel(_share(images), _share(labels), context=context)
    output.value.backward()
    # Clones, because a gradient may be a view of all that is sent at once.
    learned = {name: p.grad for name, p in state.objective.named_parameters() if p.grad is not None}
    gradients = {f"gradient.{name}": gradient.clone() for name, gradient in learned.items()}
    return {"value": output.value.detach(), **gradients, **_buffers(state)}


def trajectory(case: Case, *, num_steps: int) -> Result:
    """Parameters after some steps of SGD with momentum; Adam would hide a gradient that is R times too large."""
    state = new_state(_config(case), _SHAPE, steps_per_epoch=num_steps, device=_CPU)
    batches = [_batch(case.layout, step=step) for step in range(num_steps)]
    shares = [
        Batch(_share(images), _share(labels), _share(torch.arange(BATCH)), num_global=BATCH)
        for images, labels in batches
    ]
    metrics = train_epoch(state, shares, device=_CPU)
    parameters = {f"parameter.{name}": p.detach() for name, p in state.objective.named_parameters()}
    return {"value": torch.tensor(metrics["loss"], dtype=torch.float64), **parameters, **_buffers(state)}


def collectives() -> Result:
    """The gathers alone: order of rows, and the gradient where ranks weigh the gathered rows differently."""
    x = (rank() * 10.0 + torch.arange(3.0)).requires_grad_()
    gathered = gather(x)
    (gathered * (1.0 + rank()) * torch.arange(1.0, 1.0 + len(gathered))).sum().backward()
    assert x.grad is not None
    ragged = gather_ragged(torch.full((RAGGED[rank()], 2), float(rank())))
    barrier()
    return {"gathered": gathered.detach(), "gradient": x.grad, "ragged": ragged}


def _config(case: Case) -> ExperimentConfig:
    return parse(
        {
            "model": {
                "backbone": case.backbone,
                "embedding_dim": 8,
                "batch_norm": "synchronised" if case.batch_norm == "plain" else case.batch_norm,
            },
            "loss": case.loss,
            "see": dict(case.see),
            "optimizer": {"kind": "sgd", "lr": 0.05, "loss_lr": 0.5, "clip_norm": 1.0},
            "training": {"precision": case.precision, "num_epochs": 1, "chunk_size": case.chunk_size},
            # Labels repeat as a batch of four classes has them, which bounds the positives of an image.
            "data": {"kind": "glyphs", "batch_size": BATCH, "samples_per_class": 4},
        }
    )


def _batch(layout: str, *, step: int) -> tuple[Tensor, Tensor]:
    """The global batch: four images of each of four classes, uint8; a class is a brightness and a lot of noise."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.arange(BATCH) // 4 if layout == "contiguous" else torch.arange(BATCH) % 4
    noise = torch.randint(0, 160, (BATCH, 1, 16, 16), generator=generator)
    return (noise + 20 * labels[:, None, None, None]).to(torch.uint8), labels + step % 3


def _share(x: Tensor) -> Tensor:
    """This rank's slice of the rows."""
    return x[share(len(x), rank(), world_size())]


def _buffers(state: TrainingState) -> Result:
    return {f"buffer.{name}": b.clone() for name, b in state.objective.named_buffers()}

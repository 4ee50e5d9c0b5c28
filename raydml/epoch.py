"""One pass over any iterable of batches, on any device and any number of workers: training, or embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from raydml.config import ExperimentConfig
from raydml.data.batches import Batch, sequential_batches
from raydml.data.pixels import PixelSource
from raydml.distributed import rank, world_size
from raydml.divide import freezes_backbone
from raydml.expansion import rehearse
from raydml.learners import Division, active_rows
from raydml.losses import ClassSubset, LossOutput
from raydml.models import EmbeddingModel
from raydml.objective import DataShape, Objective, StepContext, build_objective, network_input
from raydml.optim import Moving, build_optimizer, lr_factor, masked_step, set_learning_rates
from raydml.splits import Indices
from raydml.torch_defects import require_right_bfloat16


class TrainingStoppedError(RuntimeError):
    """A training cannot go on, and would stop at the same place again."""


class NonFiniteLossError(TrainingStoppedError):
    """The loss or its gradient became NaN or infinite; the parameters are those before that step."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the loss or its gradient is not finite at epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step

    def __reduce__(self) -> tuple[type[NonFiniteLossError], tuple[int, int]]:
        return type(self), (self.epoch, self.step)


class TrainingLeftError(RuntimeError):
    """A training was asked to leave, and did between two steps; from its checkpoint it goes on as if it had not."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"the training left in epoch {epoch}, before step {step}")
        self.epoch, self.step = epoch, step

    def __reduce__(self) -> tuple[type[TrainingLeftError], tuple[int, int]]:
        return type(self), (self.epoch, self.step)


Leave = Callable[[], bool]
"""Whether to leave before the next step. Asked after every step, at the same places by every worker; equal answers."""


def stay() -> bool:
    """Never leaves."""
    return False


@dataclass(frozen=True)
class Unfinished:
    """An epoch that was left between two of its steps."""

    num_steps: int
    """Steps of it that are done."""
    sums: dict[str, float]
    """Of the loss and its statistics over these steps."""
    before: dict[str, float] = field(default_factory=dict)
    """Metrics from before its first step: those of a clustering."""
    seconds: float = 0.0
    """Time it took so far."""


@dataclass
class TrainingState:
    """Everything that changes in a training, and the configuration it follows."""

    config: ExperimentConfig
    shape: DataShape
    steps_per_epoch: int
    objective: Objective
    optimizer: Optimizer
    parallel: nn.Module
    """The objective as it is called: wrapped where there are several workers."""
    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Steps finished, over all epochs."""
    division: Division | None = None
    """The last clustering of the training images, where they are divided among learners."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every epoch finished."""
    unfinished: Unfinished | None = None
    """What there is of the next epoch, where it was left in the middle."""


def new_state(
    config: ExperimentConfig, shape: DataShape, *, steps_per_epoch: int, device: torch.device
) -> TrainingState:
    """A training before its first step. In a process group every worker must call it.

    Raises ConfigError where it cannot be had, or would be wrong on this device.
    """
    objective = build_objective(config, shape).to(device)
    if config.training.precision == "bfloat16":
        size = shape.image_size
        require_right_bfloat16(objective.model, in_channels=shape.in_channels, image_size=size, device=device)
    if objective.see is not None:
        rehearse(objective.see, objective.loss, *_any_batch(config, shape, device))
    parallel: nn.Module = objective
    if world_size() > 1:
        # Buffers need no broadcast: BatchNorm is frozen or synchronised, so they are equal.
        parallel = DistributedDataParallel(objective, forward_sync_buffers=False, gradient_as_bucket_view=True)
    return TrainingState(
        config, shape, steps_per_epoch, objective, build_optimizer(objective, config.optimizer), parallel
    )


def _any_batch(config: ExperimentConfig, shape: DataShape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Unit embeddings and labels as large as those of a global batch."""
    count, dtype = config.data.batch_size, torch.float64 if config.training.precision == "float64" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    rows = torch.randn(count, config.model.embedding_dim, generator=generator, device=device, dtype=dtype)
    labels = torch.arange(count, device=device) // config.data.samples_per_class % shape.num_classes
    return nn.functional.normalize(rows, dim=1), labels


@dataclass(frozen=True)
class Embedded:
    """Embeddings of some images."""

    embeddings: Tensor
    """(N, D) unit rows, float32 or float64."""
    labels: Tensor
    """(N,) int64."""
    index: Tensor
    """(N,) int64, positions within the subset."""


class _Means:
    """Sums of a loss and its statistics on the device, and the first step at which the loss was not finite."""

    def __init__(self, device: torch.device, begun: Unfinished | None) -> None:
        """`begun`: the steps that an earlier process added."""
        sums = {} if begun is None else begun.sums
        self._sums = {name: torch.tensor(x, dtype=torch.float64, device=device) for name, x in sums.items()}
        self.num_steps = 0 if begun is None else begun.num_steps
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    @property
    def stopped(self) -> Tensor:
        """() bool on the device: from the first bad step on, no step may change a parameter."""
        return self._first_bad >= 0

    def add(self, output: LossOutput, gradient_norm: Tensor, step: int) -> None:
        value = output.value.detach()
        # A gradient may overflow where the loss itself does not.
        finite = torch.isfinite(value) & torch.isfinite(gradient_norm)
        now_bad = ~finite & (self._first_bad < 0)
        self._first_bad = torch.where(now_bad, step, self._first_bad)
        for name, number in {"loss": value, "gradient_norm": gradient_norm, **output.stats}.items():
            self._sums[name] = self._sums.get(name, 0.0) + number.double()
        self.num_steps += 1

    def check(self, epoch: int) -> None:
        """Looks at the device once. Raises NonFiniteLossError."""
        first_bad = int(self._first_bad)
        if first_bad >= 0:
            raise NonFiniteLossError(epoch, first_bad)

    def sums(self) -> dict[str, float]:
        totals: list[float] = torch.stack(list(self._sums.values())).tolist()
        return dict(zip(self._sums, totals, strict=True))

    def means(self) -> dict[str, float]:
        return {name: total / self.num_steps for name, total in self.sums().items()}


def train_epoch(
    state: TrainingState,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    num_steps: int | None = None,
    subsets: Sequence[ClassSubset] = (),
    leave: Leave = stay,
) -> dict[str, float]:
    """Trains on the batches, counts an epoch and returns means over its steps.

    Of an epoch that is unfinished in `state` the batches are those that are left, and the means are over all of them.
    `num_steps` is their number where it is not the usual one: the schedule of the learning rate then stretches.
    `subsets` are the classes of each learner. The means are `loss`, the loss's statistics, and `gradient_norm` before
    clipping.

    The host looks at the device every `training.log_steps` steps and at the end. Raises NonFiniteLossError naming
    epoch (from 1) and step (from 0); the parameters are those before that step. Raises TrainingLeftError where it is to
    `leave`, with what there is of the epoch in `state`.
    """
    config, usual = state.config, state.steps_per_epoch
    rests = freezes_backbone(config.divide, state.epoch, config.training.num_epochs)
    parameters = [p for p in state.objective.parameters() if p.requires_grad]
    state.objective.train()
    means = _Means(device, state.unfinished)
    for place, batch in enumerate(batches, means.num_steps):
        position = state.epoch * usual + place * usual / (num_steps or usual)
        set_learning_rates(state.optimizer, _factor(state, position), backbone_rests=rests)
        subset = None if batch.learner is None else subsets[batch.learner]
        context = StepContext(config.seed, state.epoch, state.step, batch.num_global, batch.learner, subset)
        output: LossOutput = state.parallel(
            batch.images, batch.labels, context=context, crops=batch.crops, colours=batch.colours
        )
        state.optimizer.zero_grad(set_to_none=True)
        output.value.backward()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if config.optimizer.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, config.optimizer.clip_norm, norm)
        means.add(output, norm, state.step)
        masked_step(state.optimizer, means.stopped, _moving(state.objective, context))
        state.step += 1
        if state.step % config.training.log_steps == 0:
            means.check(state.epoch + 1)
        if leave():
            means.check(state.epoch + 1)
            state.unfinished = Unfinished(means.num_steps, means.sums())
            raise TrainingLeftError(state.epoch + 1, state.step)
    means.check(state.epoch + 1)
    state.epoch += 1
    state.unfinished = None
    return means.means()


def _moving(objective: Objective, context: StepContext) -> Moving | None:
    """What of the parameters a learner's step may move; None where all may."""
    if objective.learners is None or objective.learners.config.inactive_slices == "momentum":
        return None
    view = objective.view(context)
    if view is None or view.is_whole:
        return None
    rows = [(parameter, active_rows(name, parameter, view)) for name, parameter in objective.named_parameters()]
    shared = [(parameter, mask) for parameter, mask in rows if mask is not None and parameter.requires_grad]
    return Moving(shared, view.learners, view.num_learners)


def _factor(state: TrainingState, position: float) -> float:
    return lr_factor(
        state.config.schedule,
        step=position,
        steps_per_epoch=state.steps_per_epoch,
        num_epochs=state.config.training.num_epochs,
    )


@torch.no_grad()
def embed(model: EmbeddingModel, batches: Iterable[Batch], *, image_size: int, features: bool = False) -> Embedded:
    """Embeds the batches in order, in evaluation mode; on the device of the batches. The mode is restored.

    With `features` the rows are unit features of the backbone instead.
    """
    rows_of = model.unit_features if features else model
    was_training = model.training
    model.eval()
    embeddings: list[Tensor] = []
    labels: list[Tensor] = []
    index: list[Tensor] = []
    for batch in batches:
        embeddings.append(rows_of(network_input(batch.images, batch.crops, image_size)))
        labels.append(batch.labels)
        index.append(batch.index)
    model.train(was_training)
    rows = torch.cat(embeddings)
    return Embedded(rows, torch.cat(labels), torch.cat(index).to(rows.device))


def embed_share(state: TrainingState, source: PixelSource, labels: Indices, *, features: bool = False) -> Embedded:
    """This rank's part of a subset, unaugmented: images r, r + R, ..., so that none is padding and counts twice."""
    mine = np.arange(rank(), len(labels), world_size())
    size, threads = state.config.evaluation.batch_size, state.config.data.prefetch_threads
    batches = sequential_batches(source, labels, mine, batch_size=size, threads=threads)
    return embed(state.objective.model, batches, image_size=state.shape.image_size, features=features)

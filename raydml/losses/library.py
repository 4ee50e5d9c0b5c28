"""Any loss of pytorch-metric-learning by name, as a second opinion or for what raydml does not have.

Its formulas and defects are its own (specs/losses.md, 2.3); what raydml adds is that a random miner draws the same on
every rank and after a resume.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from raydml.config import ConfigError, LibraryConfig
from raydml.config.grammar import unknown_key
from raydml.distances import full_precision
from raydml.losses.output import LossOutput, check_batch
from raydml.losses.view import View, rows_of

_TRIED = 8
"""Rows of the batch that a loss is tried with."""


class LibraryLoss(nn.Module):
    """A loss of pytorch-metric-learning, with a miner where the configuration has one."""

    def __init__(self, config: LibraryConfig, *, num_classes: int, embedding_dim: int, num_learners: int = 1) -> None:
        """Raises ConfigError where the package is missing, a name does not exist or an argument does not fit, or
        learners would have to share weights that know nothing of slices.
        """
        super().__init__()
        known = {"num_classes": num_classes, "embedding_size": embedding_dim}
        losses, miners = _library()
        self.loss = _made(losses, ("loss.name", "loss.arguments"), config.name, config.arguments, known)
        if num_learners > 1 and "embedding_size" in _parameters(type(self.loss)):
            raise ConfigError(
                f"loss.name: {config.name} has weights of all {embedding_dim} dimensions, of which no learner can "
                f"take a part; it needs divide.num_learners=1, but got divide.num_learners={num_learners}"
            )
        self.miner: nn.Module | None = None
        if config.miner is not None:
            paths = ("loss.miner", "loss.miner_arguments")
            self.miner = _made(miners, paths, config.miner, config.miner_arguments, {})
        # Labels must be rows of its weights, where it has a weight for each class.
        self.num_classes = num_classes if "num_classes" in _parameters(type(self.loss)) else None

    def require_working(self, *, embedding_dim: int) -> None:
        """Raises ConfigError where the loss fails within two steps: its constructors check little."""
        trial, name = copy.deepcopy(self), type(self.loss).__name__
        labels = torch.arange(_TRIED) // 2 % (self.num_classes or _TRIED)
        rows = torch.nn.functional.normalize(torch.sin(torch.arange(1.0, _TRIED * embedding_dim + 1)).view(_TRIED, -1))
        for _ in range(2):
            try:
                value = trial(rows.clone().requires_grad_(), labels, generator=torch.Generator()).value
                value.backward()
            except Exception as error:  # whatever a loss of a library raises
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise ConfigError(f"loss.name: {name} fails on a small batch: {reason}") from error
            if value.shape != ():
                raise ConfigError(f"loss.name: {name} gives {tuple(value.shape)} numbers instead of one")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        check: bool = False,
        view: View | None = None,
    ) -> LossOutput:
        """(G, D) unit rows, (G,) int64 -> LossOutput without stats; random miners follow `generator`."""
        if check:
            check_batch(embeddings, labels, num_classes=self.num_classes)
        # The library casts its parameters to the type of the embeddings, for good: half precision never reaches it.
        rows = rows_of(view, full_precision(embeddings))
        if generator is None:
            return LossOutput(self._value(rows, labels), {})
        # It draws from the global generators, which are put back.
        with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
            # Not torch.manual_seed: it would seed every GPU there is.
            torch.default_generator.manual_seed(generator.initial_seed())
            if rows.is_cuda:
                with torch.cuda.device(rows.device):
                    torch.cuda.manual_seed(generator.initial_seed())
            return LossOutput(self._value(rows, labels), {})

    def _value(self, rows: Tensor, labels: Tensor) -> Tensor:
        value: Tensor
        if self.miner is None:
            value = self.loss(rows, labels)
        else:
            value = self.loss(rows, labels, self.miner(rows.detach(), labels))
        # Where a miner leaves nothing the library's zero has no graph, but every worker must have every gradient.
        return value + 0.0 * sum((p.sum() for p in self.parameters()), rows.sum())


def _library() -> tuple[ModuleType, ModuleType]:
    try:
        from pytorch_metric_learning import losses, miners
    except ImportError:
        raise ConfigError(
            "loss.kind: 'library' needs the package pytorch-metric-learning, which is not installed: "
            "pip install 'raydml[library]'"
        ) from None
    return losses, miners


def _made(
    module: ModuleType, paths: tuple[str, str], name: str, arguments: Mapping[str, object], known: Mapping[str, int]
) -> nn.Module:
    """An instance of a class of the library; of what we know it gets the arguments that it has.

    `paths` are those of its name and of its arguments.
    """
    path, section = paths
    classes = {key: v for key, v in vars(module).items() if inspect.isclass(v) and issubclass(v, nn.Module)}
    if name not in classes:
        nearest = difflib.get_close_matches(name, classes, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise ConfigError(f"{path}: pytorch-metric-learning has no {module.__name__.rpartition('.')[2]}.{name}{hint}")
    accepted = _parameters(classes[name])
    for key, value in arguments.items():
        if key not in accepted:
            raise ConfigError(f"{section}.{key}: {unknown_key(key, accepted)}")
        if key in known and value is not None:
            raise ConfigError(f"{section}.{key}: comes from the data and the model ({known[key]}), but got {value}")
    given: dict[str, Any] = {**{key: value for key, value in known.items() if key in accepted}, **arguments}
    try:
        made: nn.Module = classes[name](**given)
    except Exception as error:  # its own checks raise whatever they like
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: {name} refuses its arguments {dict(arguments)}: {reason}") from error
    return made


def _parameters(made: type[nn.Module]) -> set[str]:
    """What a constructor takes, and what its bases take as long as keywords are handed on to them."""
    names: set[str] = set()
    for owner in made.__mro__[: made.__mro__.index(nn.Module)]:
        if "__init__" not in vars(owner):
            continue
        parameters = inspect.signature(vars(owner)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names

"""One training state to and from one directory.

model.safetensors holds model and loss, state.pt the optimizer and the division of the images (read with
`weights_only`), meta.json everything a person may want to read: configuration, shape of the data, epoch, step, every
epoch's metrics, data fingerprint, versions.
There is no generator to keep: every random number of a training is a function of (seed, epoch, step). A training that
was asked to leave has a checkpoint between two steps of an epoch, with sums over the steps that are done.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file, save_file

import raydml
from raydml import atomic
from raydml.config import ConfigError, ExperimentConfig, dump, parse
from raydml.epoch import TrainingState, Unfinished, new_state
from raydml.learners import Division
from raydml.objective import DataShape, Objective, build_objective

_FORMAT = 3
_READ_AT_A_TIME = 16 * 2**20
_NEEDED = ("config", "shape", "steps_per_epoch", "epoch", "step", "history", "fingerprint", "fold")
_PACKAGES = ("torch", "timm", "ray", "optuna", "numpy")


def save(state: TrainingState, directory: Path, *, fingerprint: str, fold: int | None) -> None:
    """Writes or replaces a checkpoint; a crash leaves the old one or the new one.

    `fold` is the one that was left out of training; None where all training classes trained.
    """
    meta = {
        "format": _FORMAT,
        "config": dump(state.config),
        "shape": asdict(state.shape),
        "steps_per_epoch": state.steps_per_epoch,
        "epoch": state.epoch,
        "step": state.step,
        "history": state.history,
        "unfinished": None if state.unfinished is None else asdict(state.unfinished),
        "fingerprint": fingerprint,
        "fold": fold,
        "versions": versions(),
    }
    with atomic.replaced_directory(directory) as folder:
        tensors = {name: tensor.contiguous() for name, tensor in state.objective.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        division = None if state.division is None else vars(state.division)
        torch.save({"optimizer": state.optimizer.state_dict(), "division": division}, folder / "state.pt")
        atomic.write_json(folder / "meta.json", meta)


def exists(directory: Path) -> bool:
    """Whether a whole checkpoint lies here."""
    return (atomic.settled(directory) / "meta.json").exists()


def load(directory: Path, *, device: torch.device, fingerprint: str | None = None) -> TrainingState:
    """A training as it was saved, ready for its next step. In a process group every worker must call it.

    Raises ConfigError where nothing whole lies there, or the data are not those of `fingerprint`.
    """
    meta = read_meta(directory)
    if fingerprint is not None and meta["fingerprint"] != fingerprint:
        raise ConfigError(
            f"{directory}: this checkpoint was trained on other data (fingerprint {meta['fingerprint']}, "
            f"but the data are now {fingerprint})"
        )
    state = new_state(_config(meta), _shape(meta), steps_per_epoch=meta["steps_per_epoch"], device=device)
    with _readable(directory):
        state.objective.load_state_dict(load_file(directory / "model.safetensors"))
        saved = torch.load(directory / "state.pt", map_location=device, weights_only=True)
        state.optimizer.load_state_dict(saved["optimizer"])
        if saved["division"] is not None:
            state.division = Division(**{**saved["division"], "learners": saved["division"]["learners"].cpu()})
    state.config = parse(meta["config"])
    state.epoch, state.step, state.history = meta["epoch"], meta["step"], meta["history"]
    state.unfinished = None if meta["unfinished"] is None else Unfinished(**meta["unfinished"])
    return state


class Packed(NamedTuple):
    """What `load_objective` reads, for processes that do not see the folder."""

    meta: dict[str, Any]
    weights: npt.NDArray[np.uint8]
    """Bytes of model.safetensors; an array, which Ray shares among the processes of a machine."""


def packed(directory: Path) -> Packed:
    """A checkpoint to be sent. Raises ConfigError as `read_meta`."""
    return Packed(read_meta(directory), np.fromfile(directory / "model.safetensors", dtype=np.uint8))


def load_objective(found: Path | Packed) -> tuple[Objective, ExperimentConfig, DataShape]:
    """Model and loss of a checkpoint on the CPU in evaluation mode, without what only training needs."""
    meta = found.meta if isinstance(found, Packed) else read_meta(found)
    config, shape = _config(meta), _shape(meta)
    objective = build_objective(config, shape)
    place = Path("model") if isinstance(found, Packed) else found
    with _readable(place):
        weights = (
            load_bytes(found.weights.tobytes()) if isinstance(found, Packed) else load_file(found / "model.safetensors")
        )
        objective.load_state_dict(weights)
    return objective.eval(), config, shape


def read_meta(directory: Path) -> dict[str, Any]:
    """meta.json of a checkpoint. Raises ConfigError where there is none or it is of another format."""
    try:
        meta: dict[str, Any] = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{directory}: no whole checkpoint: {error}") from None
    if not isinstance(meta, dict):
        raise ConfigError(f"{directory}: no whole checkpoint: meta.json holds no names and values")
    if meta.get("format") != _FORMAT:
        raise ConfigError(f"{directory}: checkpoint format {meta.get('format')}, but this raydml reads {_FORMAT}")
    if missing := [name for name in _NEEDED if name not in meta]:
        raise ConfigError(f"{directory}: no whole checkpoint: meta.json has no {missing[0]}")
    return meta


@contextmanager
def _readable(directory: Path) -> Iterator[None]:
    """ConfigError for tensors that are damaged, of another model, or not only tensors."""
    try:
        yield
    except UnpicklingError:
        raise ConfigError(
            f"{directory}: state.pt holds more than tensors, numbers and names, or is damaged: it is not read, because "
            "reading more would run what somebody put there"
        ) from None
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{directory}: not the weights of this model, or damaged: {reason}") from None


def digest(directory: Path) -> str:
    """Names a checkpoint by its content: weights and how the model is built. Raises ConfigError as `read_meta`."""
    meta = read_meta(directory)
    head = {name: meta[name] for name in ("config", "shape")}
    found = hashlib.blake2b(json.dumps(head, sort_keys=True).encode(), digest_size=16)
    with (directory / "model.safetensors").open("rb") as file:
        while block := file.read(_READ_AT_A_TIME):
            found.update(block)
    return found.hexdigest()


def remove(run: Path) -> None:
    """Removes the checkpoints of a run: of its one model, or of each fold's."""
    for folder in (*run.glob("checkpoint"), *run.glob("fold*/checkpoint")):
        shutil.rmtree(folder, ignore_errors=True)


def read_config(directory: Path) -> ExperimentConfig:
    """The experiment of a checkpoint, as `load_objective` gives it, without its weights."""
    return _config(read_meta(directory))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = {package: version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), "raydml": raydml.__version__, **packages}


def _config(meta: dict[str, Any]) -> ExperimentConfig:
    raw = meta["config"]
    # The weights are in the checkpoint: where the first ones came from no longer matters, and may be offline.
    return parse({**raw, "model": {**raw["model"], "weights": "none"}})


def _shape(meta: dict[str, Any]) -> DataShape:
    raw = meta["shape"]
    return DataShape(**{**raw, "mean": tuple(raw["mean"]), "std": tuple(raw["std"])})

"""A trained model as ONNX and torch.export files: `python -m raydml.export RUN`.

Both take the pixels that evaluation feeds, (B, C_in, H, W) uint8 at the size of the network's input, any B, and give
unit embeddings (B, D) in float32, as the model itself does: each file is read back and run beside the model before it
takes its place. `export.json` says which pixels those are.
"""

from __future__ import annotations

if __name__ == "__main__":
    import sys

    from raydml.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import util
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from raydml import atomic, checkpoint
from raydml.brought_runs import BroughtRuns, bringing
from raydml.config import ConfigError
from raydml.export_checks import TOLERANCE, Embed, check_batches, largest_difference, preprocessing
from raydml.models import EmbeddingModel
from raydml.runs import TrainedModel, resolve

Format = Literal["onnx", "torch"]

# Everything an export may leave: what a later one does not write again is removed, for it would be another model's.
_FILES = ("model.onnx", "model.onnx.data", "model.pt2", "export.json")
_NAME_OF = {"onnx": "model.onnx", "torch": "model.pt2"}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# A protobuf holds 2 GiB; beyond, ONNX keeps the weights in a file beside it.
_LARGEST_IN_ONE_FILE = 2**31 - 2**24


class ExportFailedError(RuntimeError):
    """The model cannot be written in a format, or would be another one there; the message names the file."""


@dataclass(frozen=True)
class Exported:
    """What an export left."""

    directory: Path
    differences: dict[str, float]
    """By file: the largest difference of a number of an embedding from the model's."""
    trained_in: str
    """Precision of the training; the files compute in float32."""


def export(
    run: str | Path,
    *,
    out: str | Path | None = None,
    fold: int | None = None,
    formats: Sequence[Format] = ("onnx", "torch"),
) -> Exported:
    """Writes `model.onnx`, `model.pt2` and `export.json` into `out`, by default `<RUN>/export`.

    `run` is whatever `raydml.load` takes; with one at a URI `out` must be given: what an export is for reads files.
    Whole files take the place of earlier ones at the end; where anything fails, those stay. Raises ConfigError where
    `run` names no single model or a package is missing, and ExportFailedError.
    """
    if not formats or set(formats) - set(_NAME_OF):
        raise ConfigError(f"formats: must be some of {', '.join(_NAME_OF)}, but got {list(formats)}")
    if "onnx" in formats:
        _require_packages()
    with bringing() as brought:
        return _export(resolve(brought.model(run), fold=fold), brought, out=out, formats=formats)


def _export(
    found: TrainedModel, brought: BroughtRuns, *, out: str | Path | None, formats: Sequence[Format]
) -> Exported:
    objective, config, shape = checkpoint.load_objective(found.checkpoint)
    model = objective.model.compute_in("float32").requires_grad_(False)
    batches = check_batches(shape)
    folder = _folder(found, brought, out)
    with TemporaryDirectory(prefix=".export.", dir=folder) as beside:
        program = _traced(model, batches[-1])
        facts: dict[str, dict[str, Any]] = {}
        for kind in _NAME_OF:
            if kind in formats:
                facts[_NAME_OF[kind]] = _write(kind, program, model, batches, Path(beside) / _NAME_OF[kind])
        about = {
            "input": _input(batches[0]),
            "output": {"name": "embeddings", "dtype": "float32", "shape": ["batch", config.model.embedding_dim]},
            "preprocessing": preprocessing(config.data, shape),
            "precision": {"trained": config.training.precision, "exported": "float32"},
            "checkpoint": brought.named(found.checkpoint),
            "fold": found.fold,
            "files": facts,
            "versions": {
                **checkpoint.versions(),
                **{name: version(name) for name in _PACKAGES if util.find_spec(name)},
            },
        }
        atomic.write_json(Path(beside) / "export.json", about)
        _settle(Path(beside), folder)
    differences = {name: fact["largest_difference"] for name, fact in facts.items()}
    return Exported(folder, differences, config.training.precision)


def _folder(found: TrainedModel, brought: BroughtRuns, out: str | Path | None) -> Path:
    if out is None and brought.uri_of(found.directory) is not None:
        raise ConfigError(f"out: the export of {brought.named(found.directory)} needs out=FOLDER, on this machine")
    if out is not None and "://" in str(out):
        raise ConfigError(f"out: must be a folder of this machine, but got {out}")
    folder = found.directory / "export" if out is None else Path(out).expanduser().resolve()
    atomic.make_folder(folder)
    return folder


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"formats: onnx needs {', '.join(missing)}, which is not installed: pip install 'raydml[export]'; "
            "formats=[torch] needs nothing more"
        )


def _input(images: Tensor) -> dict[str, Any]:
    _, channels, height, width = images.shape
    colours = {1: "grey", 3: "RGB"}[channels]
    shape = ["batch", channels, height, width]
    return {"name": "images", "dtype": "uint8", "shape": shape, "range": [0, 255], "colours": colours}


def _traced(model: EmbeddingModel, images: Tensor) -> ExportedProgram:
    with _named("the model"):
        return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _write(
    kind: str, program: ExportedProgram, model: EmbeddingModel, batches: list[Tensor], path: Path
) -> dict[str, Any]:
    """Writes a file and runs what can be read back from it. What there is to say of it."""
    with _named(path.name):
        facts, other = _write_onnx(program, path) if kind == "onnx" else _write_torch(program, path)
        difference = largest_difference(model, other, batches)
    if not difference <= TOLERANCE:
        raise ExportFailedError(
            f"{path.name}: embeddings must differ from the model's by at most {TOLERANCE}, but do by {difference:.3g}"
        )
    return {"largest_difference": difference, **facts}


def _write_torch(program: ExportedProgram, path: Path) -> tuple[dict[str, Any], Embed]:
    torch.export.save(program, path)
    return {}, torch.export.load(path).module()


def _write_onnx(program: ExportedProgram, path: Path) -> tuple[dict[str, Any], Embed]:
    import onnxruntime

    written = torch.onnx.export(
        program,
        (),
        input_names=["images"],
        output_names=["embeddings"],
        dynamic_shapes=({0: "batch"},),
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    written.save(str(path), external_data=size > _LARGEST_IN_ONE_FILE)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def embed(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return {"opset": written.model.opset_imports[""]}, embed


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Without the exporters' remarks to their developers; their errors in a line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # exporters raise whatever the operation that they do not know leads them to
        reason = " ".join(str(error).split())[:300]
        raise ExportFailedError(f"{what} cannot be exported: {type(error).__name__}: {reason}") from error


def _settle(beside: Path, folder: Path) -> None:
    """Moves the files into their places; the one that describes them is away meanwhile, and comes last."""
    (folder / _FILES[-1]).unlink(missing_ok=True)
    for name in _FILES:
        if (beside / name).exists():
            (beside / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)

"""Exported models: equal to the model in the runtimes of their formats; whole or absent; refused where they are not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import raydml
from raydml import checkpoint
from raydml import export as exports
from raydml.cli import main
from raydml.config import ConfigError, ExperimentConfig
from raydml.epoch import new_state
from raydml.export import ExportFailedError, export
from raydml.export_checks import Embed, check_batches, largest_difference, preprocessing
from raydml.models import EmbeddingModel
from raydml.objective import DataShape
from tests.conftest import changed
from tests.photographs import config_of, make_photographs

SIZE, DIM = 32, 12

CASES: dict[str, tuple[int, dict[str, object]]] = {
    "resnet, grey, synchronised": (1, {"model__batch_norm": "synchronised"}),
    "vit, colour, trained in bfloat16": (3, {"model__backbone": "test_vit", "training__precision": "bfloat16"}),
    "learners, frozen, trained in float64": (
        3,
        {"divide__num_learners": 3, "model__batch_norm": "frozen", "training__precision": "float64"},
    ),
}


def run_of(folder: Path, config: ExperimentConfig, *, channels: int = 1) -> Path:
    """A run with one model as a training leaves it, its BatchNorm having seen images."""
    shape = DataShape(8, channels, SIZE, mean=(0.4,) * channels, std=(0.3,) * channels)
    state = new_state(config, shape, steps_per_epoch=1, device=torch.device("cpu"))
    model = state.objective.model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
                layer.running_mean.normal_(0, 0.2, generator=generator)
    checkpoint.save(state, folder / "checkpoint", fingerprint="x", fold=None)
    return folder


@pytest.fixture
def small(tiny: ExperimentConfig) -> ExperimentConfig:
    return changed(tiny, data__image_size=SIZE, model__embedding_dim=DIM)


@pytest.fixture(scope="module")
def pixels() -> dict[int, Tensor]:
    """Seven images that the check of the export has not seen, by channels."""
    generator = torch.Generator().manual_seed(7)
    return {c: torch.randint(256, (7, c, SIZE, SIZE), dtype=torch.uint8, generator=generator) for c in (1, 3)}


def by_onnx(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [found] = session.run(["embeddings"], {"images": images.numpy()})
    return torch.from_numpy(found)


def require_equal(found: Tensor, expected: Tensor) -> None:
    assert expected.shape[1:] == (DIM,)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_exported_models_are_the_model(
    case: str, small: ExperimentConfig, tmp_path: Path, pixels: dict[int, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    channels, values = CASES[case]
    large = case.startswith("learners")
    if large:
        monkeypatch.setattr(exports, "_LARGEST_IN_ONE_FILE", 1000)
    config = changed(small, **values)
    run = run_of(tmp_path / "run", config, channels=channels)
    done = export(run)
    assert done.directory == run / "export"
    assert done.trained_in == config.training.precision
    weights = ["model.onnx.data"] if large else []
    names = sorted(path.name for path in done.directory.iterdir())
    assert names == ["export.json", "model.onnx", *weights, "model.pt2"]
    model = raydml.load(run)
    assert isinstance(model, EmbeddingModel)
    model = model.compute_in("float32")
    program = torch.export.load(done.directory / "model.pt2").module()
    for count in (1, 2, 7):
        images = pixels[channels][:count]
        require_equal(by_onnx(done.directory / "model.onnx", images), model(images))
        require_equal(program(images), model(images))
    about = json.loads((done.directory / "export.json").read_text(encoding="utf-8"))
    assert about["input"]["shape"] == ["batch", channels, SIZE, SIZE]
    assert about["precision"] == {"trained": config.training.precision, "exported": "float32"}
    assert {name: fact["largest_difference"] for name, fact in about["files"].items()} == done.differences


IN_A_FRESH_PROCESS = """
import sys, torch
sys.path[:] = [p for p in sys.path if p != sys.argv[3]]
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('raydml', 'timm'):
            raise ImportError(name + ' is not here')
sys.meta_path.insert(0, Refuse())
found = torch.export.load(sys.argv[1]).module()(torch.load(sys.argv[2]))
torch.save(found, sys.argv[2])
assert 'raydml' not in sys.modules
"""


def test_a_program_runs_where_there_is_no_raydml(
    small: ExperimentConfig, tmp_path: Path, pixels: dict[int, Tensor]
) -> None:
    run = run_of(tmp_path, small)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("model.onnx", "model.onnx.data", "mine.txt"):
        (out / name).write_text("of another model", encoding="utf-8")
    export(run, formats=["torch"], out=out)
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "mine.txt", "model.pt2"]
    torch.save(pixels[1], tmp_path / "images.pt")
    here = str(Path(raydml.__file__).parents[1])
    words = [sys.executable, "-c", IN_A_FRESH_PROCESS, "out/model.pt2", "images.pt", here]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    require_equal(torch.load(tmp_path / "images.pt"), raydml.load(run)(pixels[1]))


def test_another_model_is_refused_and_the_earlier_files_stay(
    small: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, small)
    (run / "export").mkdir()
    (run / "export" / "model.pt2").write_text("earlier", encoding="utf-8")
    write = exports._write_torch
    for shift in (2e-5, float("nan")):

        def shifted(program: ExportedProgram, path: Path, shift: float = shift) -> tuple[dict[str, Any], Embed]:
            facts, embed = write(program, path)
            return facts, lambda images: embed(images) + shift

        monkeypatch.setattr(exports, "_write_torch", shifted)
        assert main(["export", str(run), "formats=[torch]"]) == 1
        [line] = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: model.pt2: embeddings must differ from the model's by at most 1e-05, but do by")
        [left] = (run / "export").iterdir()
        assert left.read_text(encoding="utf-8") == "earlier"


def test_a_model_that_cannot_be_traced_is_refused_in_one_line(
    small: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, small)

    def features(self: EmbeddingModel, images: Tensor) -> Tensor:
        return self.head.weight.new_zeros(len(images), 1) if bool(images.sum() > 0) else images

    monkeypatch.setattr(EmbeddingModel, "features", features)
    with pytest.raises(ExportFailedError, match="the model cannot be exported") as caught:
        export(run)
    assert "\n" not in str(caught.value)
    assert not list((run / "export").iterdir())


def test_the_command_says_what_it_wrote(
    small: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, changed(small, training__precision="bfloat16"))
    # What the other format needs is not asked for.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(run), "formats=[torch]", f"out={tmp_path / 'out'}"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("model.pt2: embeddings differ from the model's by at most 0")
    assert lines[1:] == ["computes in float32; the training computed in bfloat16", f"written: {tmp_path / 'out'}"]


REFUSED: dict[str, tuple[Sequence[str], str]] = {
    "no run": (["nowhere"], "nowhere: no such run"),
    "no such option": (["run", "format=onnx"], "command line: format: unknown"),
    "no format": (["run", "formats=[]"], "formats"),
    "an unknown format": (["run", "formats=[tensorrt]"], "formats"),
    "another fold": (["run", "fold=2"], "left no fold out, but got fold=2"),
    "a bucket": (["run", "out=s3://bucket/model"], "out: must be a folder of this machine, but got s3://bucket/model"),
    "a file": (["run", "out=run/checkpoint/meta.json"], "cannot be made"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(
    case: str,
    small: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, law = REFUSED[case]
    run_of(tmp_path / "run", small)
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert law in line
    assert not (tmp_path / "run" / "export").exists()


def test_a_missing_package_is_named_with_its_remedy(
    small: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, small)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"formats: onnx needs onnxscript, .*: pip install 'raydml\[export\]'"):
        export(run)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 500])
def test_models_are_compared_on_noise_and_on_photographs(channels: int, size: int) -> None:
    batches = check_batches(DataShape(2, channels, size, (0.0,) * channels, (1.0,) * channels))
    assert [len(images) for images in batches] == [1, 1, 2, 2, 5, 5]
    assert {(images.dtype, images.shape[1:]) for images in batches} == {(torch.uint8, (channels, size, size))}
    noise, photographs = batches[-2].float(), batches[-1].float()
    across = [float((images[..., 1:] - images[..., :-1]).abs().mean()) for images in (noise, photographs)]
    assert across[1] < 0.6 * across[0]
    assert len({tuple(image.flatten().tolist()) for image in photographs}) == 5


def test_the_largest_difference_is_that_of_any_image() -> None:
    batches = [torch.zeros(2, 1), torch.ones(3, 1)]

    def off_by(amount: float):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return lambda images: images - amount * (images > 0)

    assert largest_difference(off_by(0.0), off_by(0.25), batches) == 0.25
    assert np.isnan(largest_difference(off_by(0.0), off_by(float("nan")), batches))


def test_the_steps_before_the_model_are_those_of_evaluation(tmp_path: Path, small: ExperimentConfig) -> None:
    photos = config_of(make_photographs(tmp_path / "photos"), image_size=24, input_size=16)
    decode, resize, cut = preprocessing(photos, DataShape(2, 3, 16, (0.0,) * 3, (1.0,) * 3))
    assert "RGB" in decode
    assert "resize it to 24 x 24" in resize
    assert cut == "crop the centre of 16 x 16 pixels"
    whole = config_of(tmp_path / "photos", image_size=16, input_size=16)
    assert len(preprocessing(whole, DataShape(2, 3, 16, (0.0,) * 3, (1.0,) * 3))) == 2
    assert "glyphs" in preprocessing(small.data, DataShape(2, 1, 32, (0.0,), (1.0,)))[0]


@pytest.mark.parametrize("formats", [(), ("tensorrt",)])
def test_unknown_formats_are_refused_before_anything_is_removed(formats: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="formats: must be some of onnx, torch, but got"):
        export(tmp_path, formats=formats)  # type: ignore[arg-type]

"""Runs: curves, folds in lockstep, files that are whole, and one process at a time. Resuming: test_resumed_runs.py."""

from __future__ import annotations

import json
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from raydml import checkpoint, yamlfile
from raydml.config import ConfigError, ExperimentConfig, parse, replace_at
from raydml.data.batches import class_balanced_batches
from raydml.data.opening import open_images
from raydml.data.subsets import fold_subsets, trainval_subset
from raydml.epoch import NonFiniteLossError
from raydml.history import read_history
from raydml.metrics import retrieval_metrics
from raydml.model_training import ModelTraining, data_shape, input_size
from raydml.splits import Indices
from raydml.training import Run, RunSpec, final_metrics, require_trainable
from tests.training_cases import train

HOST = torch.device("cpu")


def run_to_the_end(spec: RunSpec, device: torch.device = HOST) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    train(spec, device=device, report=rows.append)
    return rows


def without_seconds(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_curve_has_one_row_an_epoch(tiny: ExperimentConfig, tmp_path: Path, device: torch.device) -> None:
    rows = run_to_the_end(RunSpec(tiny, tmp_path), device)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6), (3, 9)]
    of_validation = {f"val/recall@{k}" for k in (1, 2, 4, 8)} | {"val/map@r", "val/r_precision", "val/tied_queries"}
    names = of_validation | {"train/loss", "train/gradient_norm", "train/separated"}
    assert rows[0].keys() == {"epoch", "step", "seconds"} | names
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert final_metrics(rows).keys() == of_validation
    assert final_metrics([]) == {}


def test_files_say_what_was_reported(tiny: ExperimentConfig, tmp_path: Path) -> None:
    run = Run(RunSpec(tiny, tmp_path / "run"), device=HOST)
    assert read_history(tmp_path / "run") == []
    for epoch in range(1, run.num_epochs + 1):
        run.advance()
        assert read_history(tmp_path / "run") == run.history
        assert len(run.history) == epoch
    assert run.advance() is None
    run.close()
    assert parse(yamlfile.load(tmp_path / "run" / "config.yaml")) == tiny
    assert checkpoint.read_meta(tmp_path / "run" / "checkpoint")["fold"] == 0


def test_validation_metrics_equal_a_direct_computation(
    tiny: ExperimentConfig, tmp_path: Path, device: torch.device
) -> None:
    # In float64, or another size of batch may take a faster convolution on a GPU.
    tiny = replace_at(replace_at(tiny, "evaluation.batch_size", 7), "training.precision", "float64")
    rows = run_to_the_end(RunSpec(tiny, tmp_path, folds=(2,)), device)
    objective = checkpoint.load_objective(tmp_path / "checkpoint")[0].to(device)
    images = open_images(tiny.data)
    held_out = fold_subsets(images, tiny.data, 2)[1]
    pixels = torch.from_numpy(images.images[held_out.index]).permute(0, 3, 1, 2).to(device)
    with torch.no_grad():
        direct = retrieval_metrics(objective.model(pixels), held_out.labels)
    for name, value in final_metrics(rows).items():
        assert value == pytest.approx(direct[name.removeprefix("val/")], abs=1e-6), name


def test_two_identical_runs_are_bit_identical(tiny: ExperimentConfig, tmp_path: Path) -> None:
    tiny = replace_at(tiny, "data.augment", {"smallest_crop": 0.5, "flip": 0.5})
    one = run_to_the_end(RunSpec(tiny, tmp_path / "one"))
    torch.manual_seed(1)  # whatever the process did before
    two = run_to_the_end(RunSpec(tiny, tmp_path / "two"))
    assert without_seconds(one) == without_seconds(two)
    weights = [(tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_every_epoch_has_batches_and_crops_of_its_own(
    tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A model that stands still has the same loss on the same batches.
    still = replace_at(replace_at(tiny, "optimizer.lr", 1e-30), "model.batch_norm", "frozen")
    losses = [row["train/loss"] for row in run_to_the_end(RunSpec(still, tmp_path / "batches"))]
    assert len(set(losses)) == 3

    def of_the_first_epoch(labels: Indices, **arguments: Any) -> Indices:  # noqa: ANN401
        return class_balanced_batches(labels, **{**arguments, "epoch": 0})

    monkeypatch.setattr("raydml.model_training.class_balanced_batches", of_the_first_epoch)
    losses = [row["train/loss"] for row in run_to_the_end(RunSpec(still, tmp_path / "same"))]
    assert len(set(losses)) == 1
    cropped = replace_at(still, "data.augment.smallest_crop", 0.5)
    losses = [row["train/loss"] for row in run_to_the_end(RunSpec(cropped, tmp_path / "crops"))]
    assert len(set(losses)) == 3


def test_another_seed_is_another_run(tiny: ExperimentConfig, tmp_path: Path) -> None:
    one = run_to_the_end(RunSpec(tiny, tmp_path / "one"))
    two = run_to_the_end(RunSpec(replace_at(tiny, "seed", 1), tmp_path / "two"))
    assert one[0]["train/loss"] != two[0]["train/loss"]


def test_training_leaves_the_global_generator_alone(tiny: ExperimentConfig, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    run_to_the_end(RunSpec(tiny, tmp_path))
    assert torch.equal(torch.get_rng_state(), state)


def test_trainval_trains_on_all_classes_and_validates_nothing(tiny: ExperimentConfig, tmp_path: Path) -> None:
    rows = run_to_the_end(RunSpec(tiny, tmp_path, split="trainval", folds=()))
    assert rows[0].keys() == {"epoch", "step", "seconds", "train/loss", "train/gradient_norm", "train/separated"}
    meta = checkpoint.read_meta(tmp_path / "checkpoint")
    assert meta["fold"] is None
    assert meta["shape"]["num_classes"] == 12
    assert final_metrics(rows) == {}


def test_folds_advance_together_and_the_curve_is_their_mean(tiny: ExperimentConfig, tmp_path: Path) -> None:
    rows = run_to_the_end(RunSpec(tiny, tmp_path / "both", folds=(0, 3)))
    alone = [run_to_the_end(RunSpec(tiny, tmp_path / str(fold), folds=(fold,))) for fold in (0, 3)]
    for row, zero, three in zip(rows, *alone, strict=True):
        for name in ("train/loss", "val/map@r", "val/recall@1"):
            assert row[f"fold0/{name}"] == zero[name]
            assert row[f"fold3/{name}"] == three[name]
            assert row[name] == pytest.approx((zero[name] + three[name]) / 2, abs=1e-12)
    assert checkpoint.read_meta(tmp_path / "both" / "fold3" / "checkpoint")["fold"] == 3
    assert not (tmp_path / "both" / "checkpoint").exists()


def test_float64_reaches_the_metrics(tiny: ExperimentConfig, tmp_path: Path) -> None:
    narrow = run_to_the_end(RunSpec(tiny, tmp_path / "narrow"))
    wide = run_to_the_end(RunSpec(replace_at(tiny, "training.precision", "float64"), tmp_path / "wide"))
    assert wide[0]["train/loss"] != narrow[0]["train/loss"]
    assert wide[0]["train/loss"] == pytest.approx(narrow[0]["train/loss"], rel=1e-4)


def test_a_loss_that_explodes_names_epoch_and_step_and_keeps_what_was_finished(
    tiny: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(tiny, tmp_path)
    run = Run(spec, device=HOST)
    run.advance()
    for group in run._models[0]._state.optimizer.param_groups:
        group["peak_lr"] = 1e38
    with pytest.raises(NonFiniteLossError, match=r"epoch 2, step [45]"):
        run.advance()
    run.close()
    assert [row["epoch"] for row in read_history(tmp_path)] == [1]
    assert checkpoint.read_meta(tmp_path / "checkpoint")["epoch"] == 1


def test_a_folder_of_photos_is_cropped_at_random_and_validated_in_the_centre(tmp_path: Path, cache: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in range(8):
        folder = tmp_path / "photos" / str(label)
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    data = {"kind": "folder", "root": str(tmp_path / "photos"), "image_size": 24, "input_size": 16, "num_folds": 2}
    geometry = {"batch_size": 4, "samples_per_class": 2, "cache": str(cache)}
    model = {"backbone": "test_resnet", "embedding_dim": 8}
    config = parse({"data": data | geometry, "model": model, "training": {"num_epochs": 1}})
    (row,) = run_to_the_end(RunSpec(config, tmp_path / "run"))
    assert row["step"] == 2
    meta = checkpoint.read_meta(tmp_path / "run" / "checkpoint")
    assert (meta["shape"]["image_size"], meta["shape"]["in_channels"]) == (16, 3)


def losses(config: ExperimentConfig, directory: Path) -> list[float]:
    return [row["train/loss"] for row in run_to_the_end(RunSpec(config, directory))]


def test_threads_change_nothing_and_every_random_change_something(tiny: ExperimentConfig, tmp_path: Path) -> None:
    plain = losses(tiny, tmp_path / "plain")
    assert losses(replace_at(tiny, "data.prefetch_threads", 3), tmp_path / "threads") == plain
    for knob, amount in (("flip", 1.0), ("smallest_crop", 0.5), ("brightness", 0.5), ("contrast", 0.5)):
        config = replace_at(tiny, f"data.augment.{knob}", amount)
        assert losses(config, tmp_path / knob)[0] != plain[0], knob


def test_a_training_crops_to_the_size_of_its_network(tiny: ExperimentConfig, tmp_path: Path) -> None:
    """Where it left that to the network, a CPU would cut the centre out of a random crop."""
    images = open_images(tiny.data)
    pixels = np.repeat(np.repeat(images.images, 2, axis=1), 2, axis=2).repeat(3, axis=3)
    photos = {"kind": "folder", "root": "photos", "image_size": 32, "input_size": 24, "num_folds": 2}
    small = {"batch_size": 16, "samples_per_class": 4, "prefetch_threads": 0}
    config = replace_at(tiny, "data", photos | small)
    model = ModelTraining(config, replace(images, images=pixels), 0, tmp_path, HOST)
    rows, _ = model._batches()
    assert model._source.read(rows[0]).shape == (16, 24, 24, 3)
    assert model._held_out is not None
    assert model._held_out.source.read(np.arange(3)).shape == (3, 24, 24, 3)


def test_the_shape_of_the_data_is_that_of_the_training_images(tiny: ExperimentConfig) -> None:
    images = open_images(tiny.data)
    subset = trainval_subset(images, tiny.data)
    shape = data_shape(tiny, images, subset)
    pixels = images.images[subset.index].astype(np.float64) / 255
    assert (shape.num_classes, shape.in_channels, shape.image_size) == (12, 1, 16)
    assert [*shape.mean, *shape.std] == pytest.approx([pixels.mean(), pixels.std()])
    assert input_size(tiny, images) == 16


def test_mean_and_deviation_of_large_images_take_little_memory(tiny: ExperimentConfig) -> None:
    """2,048 photographs of 256 x 256 pixels as float64 were 3 GB, and three times that while they were averaged."""
    images = open_images(tiny.data)
    subset = trainval_subset(images, tiny.data)
    large = np.random.default_rng(0).integers(0, 200, (len(images.labels), 96, 96, 3), dtype=np.uint8)
    tracemalloc.start()
    shape = data_shape(tiny, replace(images, images=large), subset)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pixels = large[subset.index] / 255
    assert peak < pixels.nbytes / 3
    assert shape.mean == pytest.approx(pixels.mean((0, 1, 2)), rel=1e-12)
    assert shape.std == pytest.approx(pixels.std((0, 1, 2)), rel=1e-12)


def test_what_cannot_be_trained_is_said_before_a_run_begins(tiny: ExperimentConfig) -> None:
    assert len(require_trainable(tiny).classes) == 24
    with pytest.raises(ConfigError, match="test_convnext cannot take images of 16 x 16"):
        require_trainable(replace_at(tiny, "model.backbone", "test_convnext"))


def test_a_second_process_waits_for_the_first(tiny: ExperimentConfig, tmp_path: Path) -> None:
    first = Run(RunSpec(tiny, tmp_path), device=HOST)
    opened: list[Run] = []
    second = threading.Thread(target=lambda: opened.append(Run(RunSpec(tiny, tmp_path), device=HOST)))
    second.start()
    second.join(0.3)
    assert not opened
    first.close()
    second.join(30)
    assert len(opened) == 1
    opened[0].close()


def test_a_process_that_waited_goes_on_where_the_other_stopped(tiny: ExperimentConfig, tmp_path: Path) -> None:
    # Its checkpoint must be read behind the lock: read before, it may be old, or half of two.
    first = Run(RunSpec(tiny, tmp_path), device=HOST)
    opened: list[Run] = []
    second = threading.Thread(target=lambda: opened.append(Run(RunSpec(tiny, tmp_path), device=HOST)))
    second.start()
    second.join(0.3)
    first.advance()
    first.close()
    second.join(30)
    assert opened[0]._models[0]._state.epoch == 1
    opened[0].close()


def test_a_run_that_cannot_begin_lets_go_of_its_folder(tiny: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="test_convnext") as error:
        Run(RunSpec(replace_at(tiny, "model.backbone", "test_convnext"), tmp_path), device=HOST)
    with FileLock(tmp_path / ".lock", timeout=0):
        assert error.tb is not None  # which may keep the half-made run alive


def test_a_run_that_ends_badly_lets_go_of_its_folder(tiny: ExperimentConfig, tmp_path: Path) -> None:
    def stop(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        train(RunSpec(tiny, tmp_path), device=HOST, report=stop)
    with FileLock(tmp_path / ".lock", timeout=0):
        assert error.tb is not None  # which keeps the run alive
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]

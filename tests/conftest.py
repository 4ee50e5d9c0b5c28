"""What tests share: devices, one small cache of rendered images, and a quiet environment for Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from raydml.config import ExperimentConfig, parse, replace_at
from raydml.study_folder import StudyFolder

# Tests start many processes on few cores: one thread each, and nothing phones home.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
torch.set_num_threads(1)

_DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=_DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device this machine has."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of decoded images for the whole session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(cache: Path) -> ExperimentConfig:
    """An experiment that trains in a blink: 24 classes of 16 x 16 glyphs."""
    return tiny_experiment(cache)


def tiny_experiment(cache: Path) -> ExperimentConfig:
    """As the fixture, for fixtures of a wider scope."""
    return parse(
        {
            "data": {
                "kind": "glyphs",
                "num_classes": 24,
                "images_per_class": 8,
                "image_size": 16,
                "batch_size": 16,
                "samples_per_class": 4,
                "cache": str(cache),
            },
            "model": {"backbone": "test_resnet", "embedding_dim": 16},
            "optimizer": {"kind": "adamw", "lr": 3e-3},
            "training": {"num_epochs": 3, "steps_per_epoch": 3},
        }
    )


@pytest.fixture
def blocks_of_six(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few photographs are decoded in several blocks."""
    monkeypatch.setattr("raydml.data.building._IMAGES_PER_BLOCK", 6)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a small search of which trials are complete, pruned and failed. To be read only."""
    from tests.report_cases import run_search, search_of

    return run_search(search_of(cache), tmp_path_factory.mktemp("searched"), failures={3: "the loss is not finite"})


@pytest.fixture(scope="session")
def repeated(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder of trainings: two margins at three seeds and two folds each. To be read only."""
    from tests.report_cases import run_training

    storage = tmp_path_factory.mktemp("repeated")
    for margin in (0.1, 0.5):
        for seed in (0, 1, 2):
            config = changed(tiny_experiment(cache), loss__margin=margin, seed=seed, training__num_epochs=2)
            for fold in (0, 1):
                run_training(config, storage, fold=fold)
    return storage / "seeds"


def changed(config: ExperimentConfig, **values: object) -> ExperimentConfig:
    """A configuration with other values; `loss__kind` is the path `loss.kind`."""
    for path, value in values.items():
        config = replace_at(config, path.replace("__", "."), value)
    return config


def study_folder(path: Path) -> StudyFolder:
    """A study's folder that lies where it is named."""
    return StudyFolder(str(path.parent), path.name)

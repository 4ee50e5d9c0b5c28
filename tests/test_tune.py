"""What is done before a search's first trial: every network is built once, and machines are told ahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydml import tune
from raydml.capacity import this_machine
from raydml.config import ExperimentConfig, dump
from raydml.config.grammar import validate
from raydml.data.opening import fingerprint
from raydml.model_training import data_shape
from raydml.objective import DataShape, Objective, build_objective
from raydml.session import capacity_ahead
from raydml.space import Study


def study_of(base: ExperimentConfig, space: dict[str, object]) -> Study:
    return validate(Study, {"name": "s", "protocol": "quick", "base": dump(base), "space": space})


@pytest.mark.parametrize(
    ("space", "networks"),
    [
        ({"loss.margin": {"low": 0.0, "high": 0.5}}, ["test_resnet"]),
        ({"model.backbone": {"choices": ["test_resnet", "test_vit"]}}, ["test_resnet", "test_vit"]),
        ({"model.backbone": {"choices": ["test_vit", "test_vit2"]}}, ["test_vit", "test_vit2"]),
    ],
    ids=["the base's", "and another", "others"],
)
def test_every_network_of_a_search_is_built_once(
    space: dict[str, object],
    networks: list[str],
    tiny: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[str] = []
    shapes: list[DataShape] = []

    def building(config: ExperimentConfig, shape: DataShape) -> Objective:
        built.append(config.model.backbone)
        return build_objective(config, shape)

    def looking(*args: object) -> DataShape:
        shapes.append(data_shape(*args))  # type: ignore[arg-type]
        return shapes[-1]

    monkeypatch.setattr("raydml.training.build_objective", building)
    monkeypatch.setattr("raydml.training.data_shape", looking)
    study = study_of(tiny, space)
    assert tune._baseline(study, tmp_path, tune._trainable_images(study, fingerprint(tiny.data)))["map@r"] > 0.0
    assert built == networks
    assert len(shapes) == 1


def test_the_machines_of_a_cluster_are_not_known_before_it_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert capacity_ahead() == this_machine()
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert capacity_ahead() is None

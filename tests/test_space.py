"""Studies: what a range means, and that no point of a space breaks a law of the configuration."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from raydml import yamlfile
from raydml.config import ConfigError, CsvConfig, ExperimentConfig, LossConfig, Model
from raydml.config.grammar import literal_values, validate
from raydml.space import Study, metric_names, read

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))
BASE: dict[str, Any] = {
    "data": {"kind": "glyphs", "batch_size": 24, "samples_per_class": 4, "num_folds": 4},
    "training": {"num_epochs": 8},
}


def kind_of(config: type[Model]) -> tuple[object, ...]:
    return literal_values(config.model_fields["kind"].annotation)


def study_of(space: dict[str, Any] | None = None, base: dict[str, Any] | None = None, **sections: Any) -> Study:  # noqa: ANN401
    raw = {"name": "s", "protocol": "quick", "base": {**BASE, **(base or {})}, "space": space or {}, **sections}
    return validate(Study, raw)


def message_of(*args: Any, **sections: Any) -> str:  # noqa: ANN401
    with pytest.raises(ConfigError) as caught:
        study_of(*args, **sections)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "limits", "law"),
    [
        ("model.embedding_dim", {"low": 8.0, "high": 64}, "this field is an integer, but got low=8.0, high=64"),
        ("loss.similarity", {"low": 0, "high": 1}, "choose among cosine, euclidean, squared_euclidean"),
        ("model.backbone", {"low": 0, "high": 1}, "must be given as choices"),
        ("loss.kind", {"choices": ["triplet", "margin"]}, "a kind is not searched"),
        ("data.kind", {"choices": ["digits", "glyphs"]}, "a kind is not searched"),
        ("loss.margn", {"low": 0, "high": 1}, "unknown key 'margn'; known: kind, margin, "),
        ("los.margin", {"low": 0, "high": 1}, "did you mean 'loss'?"),
        ("search.seed", {"low": 0, "high": 1}, "unknown key 'search'"),
        ("loss", {"choices": ["triplet", "margin"]}, "loss"),
        ("evaluation.recall_at", {"choices": [1, 2]}, "recall_at"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_path(path: str, limits: dict[str, Any], law: str) -> None:
    message = message_of({path: limits})
    assert message.startswith("space")
    assert law in message
    assert "Config(" not in message, "a section's internals are no message"


def test_a_misspelt_key_of_a_range_lists_those_there_are() -> None:
    message = message_of({"loss.margin": {"lo": 0, "high": 1}})
    assert message.startswith("space.loss.margin.lo: unknown key 'lo'; known: choices, high, log, low, step")


@pytest.mark.parametrize(
    ("space", "point", "law"),
    [
        ({"loss.margin": {"low": 0, "high": 3}}, "loss.margin=3.0", "at most 2"),
        ({"optimizer.lr": {"low": 0, "high": 1}}, "optimizer.lr=0.0", "greater than 0"),
        ({"loss.similarity": {"choices": ["cosine", "cos"]}}, "loss.similarity=cos", "'euclidean'"),
        ({"model.backbone": {"choices": ["resnet18", "resnet5o"]}}, "model.backbone=resnet5o", "nearest: resnet50"),
        # Both ends are legal, the values between them are not.
        ({"data.batch_size": {"low": 24, "high": 48}}, "data.batch_size=25", "batch_size=25, samples_per_class=4"),
        ({"data.batch_size": {"low": 24, "high": 1024}}, "data.batch_size=", "divisible by samples_per_class"),
        # Each is legal with the base, two of them are not.
        (
            {"data.batch_size": {"choices": [8, 24]}, "data.samples_per_class": {"choices": [2, 6]}},
            "data.batch_size=8, data.samples_per_class=6",
            "batch_size=8, samples_per_class=6",
        ),
        # As above, and both ends of both ranges are legal together: 32 images in threes are not.
        (
            {"data.batch_size": {"low": 24, "high": 48, "step": 8}, "data.samples_per_class": {"low": 2, "high": 4}},
            "data.batch_size=32, data.samples_per_class=3",
            "divisible",
        ),
        (
            {"training.num_epochs": {"low": 4, "high": 9}, "schedule.warmup_epochs": {"low": 0, "high": 5}},
            "training.num_epochs=4, schedule.warmup_epochs=5.0",
            "must be below training.num_epochs",
        ),
    ],
)
def test_a_space_that_touches_an_illegal_point_dies_and_names_it(space: dict[str, Any], point: str, law: str) -> None:
    message = message_of(space)
    assert message.startswith(f"space: the point {point}")
    assert law in message


def test_corners_of_two_and_three_dimensions_are_checked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[dict[str, Any]] = []
    experiment = Study.experiment

    def recorded(self: Study, point: dict[str, Any]) -> ExperimentConfig:
        checked.append(point)
        return experiment(self, point)

    monkeypatch.setattr(Study, "experiment", recorded)
    ends = {"loss.margin": (0.0, 1.0), "loss.scale": (4.0, 8.0), "optimizer.lr": (0.1, 0.2)}
    study_of({path: {"low": low, "high": high} for path, (low, high) in ends.items()})
    for paths in (*itertools.combinations(ends, 2), tuple(ends)):
        for values in itertools.product(*(ends[path] for path in paths)):
            assert dict(zip(paths, values, strict=True)) in checked


def test_workers_and_folds_are_checked_at_every_point() -> None:
    batch = {"data.batch_size": {"choices": [12, 24]}}
    assert "workers_per_trial=13, data.batch_size=12" in message_of(batch, resources={"workers_per_trial": 13})
    assert study_of(batch, resources={"workers_per_trial": 5}).resources.workers_per_trial == 5
    folds = {"data.num_folds": {"low": 2, "high": 4}}
    assert "folds_run=3, data.num_folds=2" in message_of(folds, protocol={"folds_run": 3})
    assert study_of(folds, protocol={"folds_run": 2}).protocol.folds_run == 2


def test_every_worker_needs_an_image_and_folds_must_exist() -> None:
    message = message_of(resources={"workers_per_trial": 25})
    assert "must not exceed base.data.batch_size" in message
    assert "workers_per_trial=25, data.batch_size=24" in message
    message = message_of(protocol={"folds_run": 5})
    assert "folds_run=5, data.num_folds=4" in message


def test_a_start_point_takes_from_the_base_what_it_leaves_out() -> None:
    space = {"loss.margin": {"low": 0, "high": 1}, "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    study = study_of(space, search={"start": [{"loss.margin": 0.7}, {}]})
    assert study.start_points() == (
        {"loss.margin": 0.7, "optimizer.lr": 1e-3},
        {"loss.margin": 0.2, "optimizer.lr": 1e-3},
    )
    assert study.experiment(study.start_points()[0]).loss.model_dump()["margin"] == 0.7


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"loss.margin": 0.9}, "search.start.0.loss.margin: 0.9 lies outside its range"),
        ({"loss.margin": "x"}, "search.start.0.loss.margin: x lies outside its range"),
        ({"loss.margin": True}, "search.start.0.loss.margin: "),
        ({}, "search.start.0.loss.margin: 0.2 (taken from the base) lies outside its range"),
        ({"loss.margn": 0.4}, "search.start.0: unknown key 'loss.margn'; known: loss.margin; did you mean"),
    ],
)
def test_a_start_point_outside_its_range_is_refused(start: dict[str, Any], message: str) -> None:
    found = message_of({"loss.margin": {"low": 0.3, "high": 0.6}}, search={"start": [start]})
    assert found.startswith(message)
    if "lies outside" in message:
        assert "'low': 0.3, 'high': 0.6" in found


def test_a_field_without_a_value_in_the_base_must_be_in_every_start_point() -> None:
    space = {"optimizer.clip_norm": {"low": 1, "high": 2}}
    assert study_of(space, search={"start": [{"optimizer.clip_norm": 1.5}]}).start_points()
    message = message_of(space, search={"start": [{}]})
    assert message.startswith("search.start.0.optimizer.clip_norm: ")


@pytest.mark.parametrize("metric", ["map@r", "test/map@r", "train/loss", ""])
def test_a_metric_is_one_of_validation(metric: str) -> None:
    message = message_of(search={"metric": metric})
    assert "search.metric must begin with val/" in message
    assert f"'{metric}'" in message


def test_a_metric_must_be_computed() -> None:
    assert "did you mean 'val/recall@1'?" in message_of(search={"metric": "val/recal@1"})
    study = study_of(base={"evaluation": {"recall_at": [3]}}, search={"metric": "val/recall@3"})
    assert metric_names(study.base) == ("map@r", "r_precision", "recall@3")
    evaluation = {"metrics": ["mrr", "map@100"]}
    further = study_of(base={"evaluation": evaluation}, search={"metric": "val/map@100"})
    assert metric_names(further.base)[-2:] == ("mrr", "map@100")


def test_a_protocol_is_a_preset_or_spelled_out() -> None:
    assert study_of().protocol.model_dump() == {"preset": "quick", "folds_run": 1, "confirm": None, "final": None}
    assert study_of(protocol={"folds_run": 3}).protocol.preset == "custom"
    assert "unknown protocol 'honst'; known: quick" in message_of(protocol="honst")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b"])
def test_a_name_is_the_name_of_a_folder(name: str) -> None:
    assert message_of(name=name).startswith("name: ")


def test_a_resolved_study_reads_back_as_itself(tmp_path: Path) -> None:
    study = study_of({"loss.margin": {"low": 0, "high": 1, "step": 0.25}}, search={"start": [{"loss.margin": 0.5}]})
    (tmp_path / "study.yaml").write_text(yamlfile.dumps(study), encoding="utf-8")
    assert read(tmp_path / "study.yaml") == study


def test_a_file_lends_its_name(tmp_path: Path) -> None:
    path = tmp_path / "my-study.yaml"
    path.write_text(json.dumps({"protocol": "quick"}), encoding="utf-8")
    written = '{"name": "my-study", "protocol": "quick", "search": {"num_trials": 15}}'
    assert read(path) == Study.model_validate_json(written)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_is_valid_and_its_start_points_lie_in_range(path: Path) -> None:
    study = read(path)
    assert study.name == path.stem
    for point in study.start_points():
        assert all(study.distributions()[name].contains(value) for name, value in point.items())
        assert isinstance(study.experiment(point), ExperimentConfig)


def test_places_are_absolute_because_workers_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text("base: {data: {kind: csv, root: a.csv, images: ~/b, cache: s3://bucket/c}}\nprotocol: quick\n")
    data = read(path, ["data.root=sub/a.csv"]).base.data
    assert isinstance(data, CsvConfig)
    assert (data.root, data.images, data.cache) == (f"{tmp_path}/sub/a.csv", str(Path.home() / "b"), "s3://bucket/c")
    # A name of nobody is a name of a folder.
    assert read(path, ["data.root=~nobody-here/a.csv"]).base.data.root == f"{tmp_path}/~nobody-here/a.csv"  # type: ignore[union-attr]


def test_every_network_and_loss_that_a_space_can_build_is_known_before_a_search() -> None:
    space = {
        "model.batch_norm": {"choices": ["frozen", "synchronised"]},
        "training.chunk_size": {"low": 4, "high": 24},
        "loss.margin": {"low": 0.0, "high": 0.5},
    }
    built = {(c.model.batch_norm, c.training.chunk_size) for c in study_of(space).structures()}
    assert built >= {(norm, size) for norm in ("frozen", "synchronised") for size in (4, 24)}
    assert len(study_of({"loss.margin": {"low": 0.0, "high": 0.5}}).structures()) == 1


def test_an_illegal_end_of_a_range_is_told_before_a_start_point_without_a_value() -> None:
    message = message_of({"training.chunk_size": {"low": 0, "high": 32}}, search={"start": [{}]})
    assert "training.chunk_size=0" in message
    assert "at least 1" in message


def test_every_loss_has_a_shipped_study() -> None:
    kinds = {path.stem: read(path).base.loss.kind for path in SHIPPED}
    assert {*kinds.values()} == {kind for c in get_args(get_args(LossConfig)[0]) for kind in kind_of(c)}
    # Named after its loss, but for the two that the word margin stands for, and studies of a method or of data.
    of_methods = {"see", "see_ablation", "divide_and_conquer", "divide_convergence", "joint"}
    others = {"margin", "distance_weighted", "cub200", *of_methods}
    assert {name for name, kind in kinds.items() if name != kind} == others


def test_reading_a_study_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from pathlib import Path; from raydml.space import read\n"
        "for path in sys.argv[1:]: read(Path(path))\n"
        "print([name for name in ('torch', 'ray', 'optuna', 'numpy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, *map(str, SHIPPED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

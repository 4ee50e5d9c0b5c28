"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from raydml.config import Distribution, Scalar
from raydml.tensorboard import Curves, write_evaluation, write_experiment

ROOT = Path(__file__).parents[1]
POINT: dict[str, Scalar] = {
    "loss.margin": 0.25,
    "model.backbone": "resnet18",
    "data.batch_size": 64,
    "model.frozen": True,
}


def row(epoch: int, value: float) -> dict[str, float]:
    return {"epoch": epoch, "step": 10 * epoch, "train/loss": 1.5, "val/map@r": value, "fold0/val/recall@1": 0.5}


def read(directory: Path) -> EventAccumulator:
    (file,) = directory.glob("events.out.tfevents.*")
    return EventAccumulator(str(file)).Reload()


def written(directory: Path, *values: float, point: dict[str, Scalar] | None = None, failed: bool = False) -> None:
    curves = Curves(directory, point=POINT if point is None else point)
    for epoch, value in enumerate(values, start=1):
        curves.add(row(epoch, value))
    curves.close(failed=failed)


def plugin(directory: Path, tag: str) -> Any:  # noqa: ANN401
    content = read(directory).SummaryMetadata(tag).plugin_data.content
    parsers = {
        metadata.SESSION_START_INFO_TAG: metadata.parse_session_start_info_plugin_data,
        metadata.SESSION_END_INFO_TAG: metadata.parse_session_end_info_plugin_data,
        metadata.EXPERIMENT_TAG: metadata.parse_experiment_plugin_data,
    }
    return parsers[tag](content)


def test_curves_have_the_names_of_the_metrics_and_a_point_an_epoch(tmp_path: Path) -> None:
    written(tmp_path, 0.25, 0.5, 0.75)
    events = read(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["fold0/val/recall@1", "train/loss", "val/map@r"]
    assert [(e.step, e.value) for e in events.Scalars("val/map@r")] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_an_epoch_can_be_seen_before_the_run_ends(tmp_path: Path) -> None:
    curves = Curves(tmp_path, point={})
    curves.add(row(1, 0.25))
    assert [e.value for e in read(tmp_path).Scalars("val/map@r")] == [0.25]
    curves.close()


def test_the_searched_point_is_kept_by_dotted_name(tmp_path: Path) -> None:
    run = tmp_path / "0007"
    written(run, 0.25)
    start = plugin(run, metadata.SESSION_START_INFO_TAG)
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert values == POINT
    assert start.group_name == "0007", "runs with equal values stay two rows"
    assert start.start_time_secs > 0


def test_a_single_training_has_no_row_of_hyper_parameters(tmp_path: Path) -> None:
    written(tmp_path, 0.25, point={})
    assert metadata.SESSION_START_INFO_TAG not in read(tmp_path).summary_metadata


@pytest.mark.parametrize(("failed", "status"), [(False, "STATUS_SUCCESS"), (True, "STATUS_FAILURE")])
def test_the_end_says_how_it_ended(tmp_path: Path, failed: bool, status: str) -> None:
    written(tmp_path, 0.25, failed=failed)
    end = plugin(tmp_path, metadata.SESSION_END_INFO_TAG)
    assert api_pb2.Status.Name(end.status) == status
    assert end.end_time_secs > 0


def test_a_run_that_goes_on_is_one_curve_in_one_file(tmp_path: Path) -> None:
    written(tmp_path, 0.25, 0.5, failed=True)
    (tmp_path / "metrics.jsonl").touch()
    written(tmp_path, 0.25, 0.5, 0.75)
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("val/map@r")] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert (tmp_path / "metrics.jsonl").exists(), "only event files are begun anew"
    assert plugin(tmp_path, metadata.SESSION_END_INFO_TAG).status == api_pb2.Status.Value("STATUS_SUCCESS")


def test_the_experiment_lists_what_was_searched_and_its_metrics(tmp_path: Path) -> None:
    space = {
        "loss.margin": Distribution("float", 0.0, 0.5),
        "model.embedding_dim": Distribution("ordered", 0, 1, choices=(16, 32)),
        "loss.scope": Distribution("categorical", 0, 1, choices=("anchor", "batch")),
    }
    for _ in range(2):  # a search that goes on writes it again
        write_experiment(tmp_path, space=space, metrics=["val/map@r", "val/recall@1"])
    experiment = plugin(tmp_path, metadata.EXPERIMENT_TAG)
    margin, dim, scope = experiment.hparam_infos
    assert [info.name for info in experiment.hparam_infos] == list(space)
    assert (margin.domain_interval.min_value, margin.domain_interval.max_value) == (0.0, 0.5)
    assert [value.number_value for value in dim.domain_discrete.values] == [16, 32]
    assert [value.string_value for value in scope.domain_discrete.values] == ["anchor", "batch"]
    assert [info.name.tag for info in experiment.metric_infos] == ["val/map@r", "val/recall@1"]


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, raydml.tensorboard; print([m for m in ('torch', 'ray', 'tensorflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_evaluation_is_numbers_and_pictures_and_replaced_when_repeated(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 10, 10)).save(picture, "PNG")
    pictures = {"best": picture.getvalue(), "worst": picture.getvalue()}
    for value in (0.25, 0.5):
        metrics = {"recall@1": value, "map@r": 0.125}
        write_evaluation(tmp_path, split="test", metrics=metrics, pictures=pictures, epoch=7)
    events = read(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["test/map@r", "test/recall@1"]
    assert [(e.step, e.value) for e in events.Scalars("test/recall@1")] == [(7, 0.5)]
    assert sorted(events.Tags()["images"]) == ["neighbors/best", "neighbors/worst"]
    [image] = events.Images("neighbors/worst")
    assert (image.width, image.height, image.encoded_image_string) == (30, 20, picture.getvalue())

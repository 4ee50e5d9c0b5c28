"""Runs at URIs on this machine: what comes, what goes back, and by what names messages call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import raydml
from raydml.brought_runs import BroughtRuns, best_run, bringing, study_at
from raydml.config import ConfigError
from raydml.export import export
from raydml.looks import looks_of, note_look
from raydml.report import report
from raydml.runs import resolve
from raydml.storage import RemoteFolder
from raydml.study_folder import StudyFolder
from tests.conftest import tiny_experiment
from tests.remote_cases import files_in, store, write
from tests.report_cases import run_training

MODEL = ("checkpoint/meta.json", "checkpoint/model.safetensors")


def of_run(run: str, *paths: str) -> list[str]:
    return [f"{run}/{path}" for path in ("config.yaml", "metrics.jsonl", *paths)]


@pytest.fixture
def study(tmp_path: Path) -> str:
    """A search whose best trial is the second; both have kept a model."""
    folder = write(tmp_path / "small", *of_run("trials/0000", *MODEL), *of_run("trials/0001", *MODEL), "study.yaml")
    write(folder, "trials/0001/evaluation/val/metrics.json", "report/report.md")
    (folder / "best.yaml").write_text("checkpoint: trials/0001/checkpoint\n", "utf-8")
    note_look(folder, folder / "trials/0001/checkpoint", {"map@r": 0.5})
    return store(folder, (tmp_path / "storage").as_uri(), at=tmp_path / "copy")


@pytest.fixture
def brought() -> BroughtRuns:
    return BroughtRuns()


def test_of_a_study_its_own_files_come_and_the_best_model(study: str, brought: BroughtRuns) -> None:
    path = Path(brought.model(study))
    own = {"best.yaml", "study.yaml", "test_looks.jsonl"}
    assert {name for name in files_in(path) if "test_looks/" not in name} == own | {*of_run("trials/0001", *MODEL)}
    assert brought.model(f"{study}/best.yaml") == path / "best.yaml"


def test_of_a_run_that_run(study: str, brought: BroughtRuns) -> None:
    path = Path(brought.model(f"{study}/trials/0000/checkpoint"))
    assert path.parts[-4:] == ("small", "trials", "0000", "checkpoint")
    assert set(files_in(path)) == {"meta.json", "model.safetensors"}
    assert not (path.parents[2] / "trials" / "0001").exists()
    inside = Path(brought.model(f"{study}/trials/0001/evaluation/val/metrics.json"))
    assert inside.read_text("utf-8") == "trials/0001/evaluation/val/metrics.json"
    with pytest.raises(ConfigError, match="trials/0009: no such run"):
        brought.model(f"{study}/trials/0009")


def test_of_results_everything_but_models(study: str, brought: BroughtRuns) -> None:
    names = set(files_in(Path(brought.results(study))))
    assert {*of_run("trials/0000"), *of_run("trials/0001"), "report/report.md"} < names
    assert "trials/0001/evaluation/val/metrics.json" in names
    assert not [name for name in names if "checkpoint/" in name]


def test_paths_and_embeddings_stay_what_they_are(tmp_path: Path, brought: BroughtRuns) -> None:
    gallery = write(tmp_path / "gallery", "part-0.parquet").as_uri()
    for run in (tmp_path, str(tmp_path), gallery):
        assert brought.model(run) == brought.results(run) == brought.own(run) == run
    assert brought.uri_of(tmp_path) is None
    assert brought.named(tmp_path) == str(tmp_path)


def test_what_is_added_goes_back_and_takes_nothing_over(study: str, brought: BroughtRuns, tmp_path: Path) -> None:
    """A driver and a trial that live meanwhile go on: they own their snapshots."""
    driver = study_at(study)
    driver.open()
    trial = RemoteFolder(f"{study}/trials/0001", tmp_path / "trial")
    trial.pull()
    path = Path(brought.model(f"{study}/trials/0001"))
    note_look(path.parents[1], path / "checkpoint", {"map@r": 0.75})
    brought.keep(write(path / "evaluation" / "test", "metrics.json"))
    write(tmp_path / "trial", "metrics.jsonl")
    trial.push()
    write(driver.path, "study.yaml")
    note_look(driver.path, driver.path / "final/base-seed0/checkpoint", {"map@r": 0.25})
    driver.save()
    found = Path(BroughtRuns().results(study))
    assert (found / "trials/0001/evaluation/test/metrics.json").read_text("utf-8") == "metrics.json"
    assert (found / "trials/0001/metrics.jsonl").read_text("utf-8") == "metrics.jsonl"
    assert looks_of(found) == {"final/base-seed0": 1, "trials/0001": 2}, "nobody's look is lost"


def test_a_run_that_is_put_aside_keeps_what_it_showed(study: str) -> None:
    folder = study_at(study)
    folder.open()
    folder.move(folder.path / "trials/0001", folder.path / "final/earlier-x/0001")
    found = Path(BroughtRuns().results(study))
    moved = {*of_run("final/earlier-x/0001"), "final/earlier-x/0001/evaluation/val/metrics.json"}
    assert {name for name in files_in(found) if "0001" in name} == moved


def test_messages_name_the_uri(study: str, tmp_path: Path) -> None:
    place = f"file://{tmp_path}/storage/small"
    with bringing() as at:
        path = Path(at.model(f"{study}/trials/0000"))
        assert at.named(path) == at.place_of(path) == f"{place}/trials/0000"
        assert at.named(path.parents[1]) == place
    assert not path.exists(), "gone with the work"
    with pytest.raises(ConfigError, match=f"^{place}/trials/0000/checkpoint: no whole checkpoint"):
        raydml.load(f"{study}/trials/0000")


def test_a_study_without_a_best_trial_stands_for_its_only_training(tmp_path: Path, brought: BroughtRuns) -> None:
    storage = (tmp_path / "storage").as_uri()
    one = store(write(tmp_path / "one", *of_run("train/aa", *MODEL)), storage, at=tmp_path / "copy")
    assert files_in(Path(brought.model(one))).keys() == {*of_run("train/aa", *MODEL)}
    two = store(write(tmp_path / "two", *of_run("train/aa"), *of_run("train/bb")), storage, at=tmp_path / "copy")
    with pytest.raises(ConfigError, match="storage/two: holds several trainings: name one of train/aa, train/bb"):
        brought.model(two)
    new = store(write(tmp_path / "new", "study.yaml", *of_run("trials/0000")), storage, at=tmp_path / "copy")
    with pytest.raises(ConfigError, match="storage/new: neither a checkpoint, nor a run, nor a study with"):
        brought.model(new)


@pytest.mark.parametrize(
    ("kept", "run"),
    [("trials/0001/fold1/checkpoint", "trials/0001"), ("final/winner-seed0/checkpoint", "final/winner-seed0")],
)
def test_the_run_of_the_best_model(tmp_path: Path, kept: str, run: str) -> None:
    folder = StudyFolder(str(tmp_path), "study")
    assert best_run(folder) is None
    write(tmp_path, "study/best.yaml").joinpath("study/best.yaml").write_text(f"checkpoint: {kept}\n", "utf-8")
    assert best_run(folder) == run


def test_a_best_model_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = StudyFolder(str(tmp_path), "study")
    (write(tmp_path, "study/best.yaml") / "study/best.yaml").write_text("checkpoint: ../../x/checkpoint\n", "utf-8")
    with pytest.raises(ConfigError, match=r"best\.yaml: checkpoint: names what is not below its folder"):
        best_run(folder)


def test_a_driver_names_its_storage_too(study: str) -> None:
    folder = study_at(study)
    with pytest.raises(ConfigError, match=r"^file://.*/storage/small/clock\.json: is broken$"), folder.naming():
        raise ConfigError(f"{folder.path}/clock.json: is broken")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, str]:
    """A training, in its folder and at a URI."""
    folder = tmp_path_factory.mktemp("trained")
    run = run_training(tiny_experiment(cache), folder)
    study = run.parents[1]
    uri = store(study, (folder / "storage").as_uri(), at=folder / "copy")
    return run, f"{uri}/train/{run.name}"


def test_a_model_is_loaded_and_exported_from_a_uri(trained: tuple[Path, str], tmp_path: Path) -> None:
    run, uri = trained
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(raydml.load(uri)(images), raydml.load(run)(images))
    with pytest.raises(ConfigError, match=rf"out: the export of file://.*/{run.name} needs out=FOLDER"):
        export(uri, formats=("torch",))
    export(uri, formats=("torch",), out=tmp_path)
    about = json.loads((tmp_path / "export.json").read_text("utf-8"))
    assert about["checkpoint"] == f"{uri}/checkpoint"
    assert resolve(run).checkpoint.exists()


def test_a_report_is_written_where_the_run_is(trained: tuple[Path, str], tmp_path: Path) -> None:
    _, uri = trained
    done = report([uri])
    assert done.place == f"{uri}/report"
    [run] = json.loads(files_in(Path(BroughtRuns().results(uri)))["report/report.json"])["runs"]
    assert run["directory"] == uri
    assert report([uri], out=tmp_path / "here").place is None
    assert (tmp_path / "here" / "report.html").exists()
    with pytest.raises(ConfigError, match="out: must be a folder of this machine, but got s3://bucket/x"):
        report([uri], out="s3://bucket/x")

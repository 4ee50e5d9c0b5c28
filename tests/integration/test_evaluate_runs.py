"""Evaluating what a study's last phases leave: several runs at once, folds side by side, class by class, noted."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydml import evaluate as module
from raydml.data import opening, subsets
from raydml.embedding_files import Rows
from raydml.evaluate import evaluate
from raydml.history import read_history
from raydml.looks import looks_of
from raydml.metrics import retrieval_metrics
from raydml.session import joining
from raydml.splits import Indices
from raydml.training import RunSpec
from tests.conftest import changed, tiny_experiment
from tests.integration.studies import command, run_here
from tests.training_cases import train
from tests.written import read_embeddings

pytestmark = pytest.mark.usefixtures("ray_here")
NAMES = ["recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision"]


@dataclass(frozen=True)
class Study:
    """A study's folder with a run of every later phase."""

    folder: Path

    @property
    def winner(self) -> Path:
        """Two folds."""
        return self.folder / "final" / "winner-seed0"

    @property
    def base(self) -> Path:
        """One model of all training classes."""
        return self.folder / "final" / "base-seed0"

    @property
    def confirmed(self) -> Path:
        """One model that left out the first fold."""
        return self.folder / "confirm" / "0003-seed0"


@pytest.fixture
def study(tmp_path: Path, trained: Study) -> Study:
    """A copy nobody has looked at."""
    return Study(Path(shutil.copytree(trained.folder, tmp_path / "s")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Study:
    made = Study(tmp_path_factory.mktemp("phases") / "s")
    config = changed(tiny_experiment(cache), training__num_epochs=2)
    for spec in (
        RunSpec(config, made.winner, "train", (0, 1)),
        RunSpec(config, made.base, "trainval", ()),
        RunSpec(config, made.confirmed, "train", (0,)),
    ):
        train(spec, device=torch.device("cpu"), report=lambda row: None)
    return made


def metrics_of(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found


def embeddings_of(folders: list[Path]) -> tuple[list[Rows], Indices]:
    """Of each folder, in an order that is the same for all."""
    found = [read_embeddings(folder / "evaluation" / "test" / "embeddings.parquet") for folder in folders]
    return [rows for rows, _ in found], found[0][1]


def test_several_runs_are_evaluated_by_one_command(study: Study) -> None:
    process = run_here("evaluate", study.base, study.confirmed)
    assert process.returncode == 0, process.stderr
    written = [line.removeprefix("written: ") for line in process.stdout.splitlines() if line.startswith("written: ")]
    assert written == [str(study.base / "evaluation" / "test"), str(study.confirmed / "evaluation" / "val")]
    for name in ("s/final/base-seed0", "s/confirm/0003-seed0"):
        assert f"\n{name}\n" in f"\n{process.stdout}"
    assert process.stdout.count("raw pixels") == 2
    validated = read_history(study.confirmed)[-1]
    for name in NAMES:
        found = metrics_of(study.confirmed / "evaluation" / "val")[name]
        assert found == pytest.approx(validated[f"val/{name}"], abs=1e-6), "whatever was evaluated before it"


def test_what_cannot_be_evaluated_stops_everything_before_it_begins(study: Study) -> None:
    process = run_here("evaluate", study.base, study.winner)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: {study.winner}: this run has one model for each of the folds 0, 1")
    assert not (study.base / "evaluation").exists()
    assert looks_of(study.folder) == {}


def test_folds_are_evaluated_one_by_one_and_side_by_side(study: Study, cache: Path) -> None:
    returned = evaluate(study.winner, fold="all")
    folders = [study.winner / "fold0", study.winner / "fold1", study.winner]
    (*parts, whole), labels = embeddings_of(folders)
    assert [part.shape for part in (*parts, whole)] == [(96, 16), (96, 16), (96, 32)]
    assert np.abs(parts[0] - parts[1]).max() > 0.01
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert whole == pytest.approx(np.concatenate(parts, axis=1) / np.sqrt(2), abs=1e-6)
    data = tiny_experiment(cache).data
    images = opening.open_images(data, with_test=True)
    subset = subsets.test_subset(images, data)
    index = pq.read_table(study.winner / "evaluation" / "test" / "embeddings.parquet")["index"].to_numpy()
    assert np.array_equal(index, subset.index)
    assert np.array_equal(labels, images.labels[subset.index])
    for folder, rows in zip(folders, (*parts, whole), strict=True):
        assert metrics_of(folder / "evaluation" / "test") == retrieval_metrics(rows, labels)
    assert looks_of(study.folder) == {"final/winner-seed0": 3}
    assert returned == metrics_of(study.winner / "evaluation" / "test")


def test_folds_of_a_trial_have_no_validation_classes_in_common(study: Study) -> None:
    trial = study.folder / "trials" / "0000"
    trial.parent.mkdir()
    study.winner.rename(trial)
    process = run_here("evaluate", trial, "fold=all")
    assert process.returncode == 2
    assert process.stderr == (
        f"error: {trial}: fold=all needs split=test: the folds of a trial validate different classes\n"
    )


@pytest.mark.parametrize("engine", ["rank", "faiss"])
def test_classes_weighted_by_their_queries_are_the_metrics(study: Study, cache: Path, engine: str) -> None:
    assert run_here("evaluate", study.base, f"engine={engine}").returncode == 0
    folder = study.base / "evaluation" / "test"
    with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "num_queries", *NAMES]
    images = opening.open_images(tiny_experiment(cache).data, with_test=True)
    assert [row[0] for row in rows] == list(images.classes[12:])
    table = np.array([[float(cell) for cell in row[1:]] for row in rows])
    metrics = metrics_of(folder)
    assert table[:, 0].sum() == metrics["num_queries"] == 96
    weighted = (table[:, 1:] * table[:, :1]).sum(0) / 96
    assert dict(zip(NAMES, weighted, strict=True)) == pytest.approx({name: metrics[name] for name in NAMES}, abs=1e-12)


def test_classes_of_a_file_are_its_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([7, 3, 50], [6, 4, 1])
    rows = (rng.normal(size=(11, 8))).astype(np.float32)
    table = pa.table({"label": labels, "embedding": pa.array(rows.tolist(), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "theirs.parquet")
    metrics = evaluate(tmp_path / "theirs.parquet", recall_at=[4], storage=str(tmp_path))
    [written] = tmp_path.glob("evaluations/theirs-*/per_class.csv")
    with written.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["class"], row["num_queries"]) for row in found] == [("3", "4"), ("7", "6")]
    mean = sum(int(row["num_queries"]) * float(row["recall@4"]) for row in found) / 10
    assert all(float(row["recall@4"]) > 0 for row in found)
    assert mean == pytest.approx(metrics["recall@4"], abs=1e-12)


def test_every_look_is_noted_and_a_second_one_too(study: Study) -> None:
    for count in (1, 2):
        assert run_here("evaluate", study.base).returncode == 0
        lines = (study.folder / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == count
        look = json.loads(lines[-1])
        assert look["checkpoint"] == "final/base-seed0/checkpoint"
        assert look["metrics"] == metrics_of(study.base / "evaluation" / "test")
    assert run_here("evaluate", study.confirmed).returncode == 0
    assert looks_of(study.folder) == {"final/base-seed0": 1}, "validation classes may be looked at"


def written_below(run: Path) -> list[str]:
    """Files and folders of an evaluation on test classes."""
    return sorted(path.name for path in (run / "evaluation" / "test").iterdir())


def test_no_number_is_written_without_its_look(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_embeddings", killed)
    assert run_here("evaluate", study.base).returncode == 130
    assert looks_of(study.folder) == {"final/base-seed0": 1}
    assert written_below(study.base) == [".lock", "embeddings.part"]
    monkeypatch.setattr(module, "note_look", killed)
    assert run_here("evaluate", study.winner, "fold=1").returncode == 130
    assert written_below(study.winner / "fold1") == [".lock", "embeddings.part"]


def test_a_process_that_joins_this_cluster_evaluates_here(study: Study) -> None:
    joined = {**os.environ, **joining()}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("evaluate", *arguments), env=joined, capture_output=True, text=True, timeout=300, check=False
        )

    done = run(study.winner, study.base, "fold=0", "split=test")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert looks_of(study.folder) == {}
    done = run(study.base, study.base, "split=test")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written: ") == 2
    # Ray calls every restartable actor of Ray Data an error (its issue 57733).
    noise = [line for line in done.stderr.splitlines() if "constructor arguments in the object store" not in line]
    assert noise == []
    lines = (study.folder / "test_looks.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = metrics_of(study.base / "evaluation" / "test")
    assert [json.loads(line)["metrics"] for line in lines] == [metrics, metrics]


def test_a_model_that_cannot_be_loaded_is_one_line_and_exit_code_1(study: Study) -> None:
    (study.base / "checkpoint" / "model.safetensors").write_bytes(b"broken")
    done = run_here("evaluate", study.base)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the images could not be embedded: ")
    assert done.stderr.count("\n") == 1
    assert looks_of(study.folder) == {}

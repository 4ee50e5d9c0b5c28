"""A model of In-shop and one of VehicleID, trained on miniature trees and evaluated as those data sets are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raydml.config import DataConfig, ExperimentConfig, parse
from raydml.data.listing import GALLERY, QUERY
from raydml.data.opening import open_images
from raydml.evaluate import evaluate
from raydml.looks import looks_of
from raydml.retrieval import _draws
from raydml.training import RunSpec
from tests.image_trees import INSHOP_TEST, VEHICLE_LISTS, VEHICLE_TEST, make_inshop, make_vehicleid
from tests.integration.studies import run_here
from tests.retrieval_oracles import Row, by_draws, by_roles, mean_of
from tests.training_cases import train
from tests.written import read_embeddings, read_roles

# On one worker: what its tests share takes a minute to make.
pytestmark = pytest.mark.usefixtures("ray_here")
RANKS = (1, 2, 4, 8)


def experiment(kind: str, root: Path, cache: Path) -> ExperimentConfig:
    data = {"kind": kind, "root": str(root), "counts": "any", "image_size": 32, "input_size": 32, "cache": str(cache)}
    return parse(
        {
            "data": {**data, "batch_size": 8, "samples_per_class": 2, "num_folds": 2},
            "model": {"backbone": "test_resnet", "embedding_dim": 16},
            "training": {"num_epochs": 1, "steps_per_epoch": 2},
        }
    )


def make_hard(root: Path) -> None:
    """Noise in every picture: of colours alone any protocol would find all."""
    rng = np.random.default_rng(0)
    for path in sorted(root.rglob("*.jpg")):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


def trained(config: ExperimentConfig, directory: Path, folds: tuple[int, ...] = (), *, tested: bool = False) -> Path:
    """`tested` is preset legacy's: the test classes after every epoch."""
    split = "train" if folds else "trainval"
    spec = RunSpec(config, directory, split, folds, test_every_epoch=tested)  # type: ignore[arg-type]
    train(spec, device=torch.device("cpu"), report=lambda row: None)
    return directory


@pytest.fixture(scope="module")
def inshop(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> ExperimentConfig:
    root = tmp_path_factory.mktemp("inshop")
    make_inshop(root)
    make_hard(root)
    return experiment("inshop", root, cache)


@pytest.fixture(scope="module")
def vehicleid(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A study's folder with a final run that saw its test curve."""
    root = tmp_path_factory.mktemp("vehicleid")
    make_vehicleid(root)
    make_hard(root)
    folder = tmp_path_factory.mktemp("studies") / "s"
    trained(experiment("vehicleid", root, cache), folder / "final" / "base-seed0", tested=True)
    return folder


def read(folder: Path, name: str = "metrics.json") -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / name).read_text(encoding="utf-8"))
    return found


def inshop_by_the_loop(folder: Path, data: DataConfig) -> Row:
    rows, labels = read_embeddings(folder / "embeddings.parquet")
    images = open_images(data, with_test=True)
    index = pq.read_table(folder / "embeddings.parquet")["index"].to_numpy()
    assert images.roles is not None
    roles = images.roles[index]
    written = read_roles(folder / "embeddings.parquet")
    assert written is not None
    assert written.tolist() == roles.tolist()
    queries, galleries = (sum(sizes) for sizes in zip(*INSHOP_TEST.values(), strict=True))
    assert ((roles == QUERY).sum(), (roles == GALLERY).sum()) == (queries, galleries)
    found, left_out = by_roles(torch.from_numpy(rows).double(), torch.from_numpy(labels), roles, RANKS)
    return {**mean_of(list(found.values())), "num_queries": len(found), "num_queries_without_positive": left_out}


def same_metrics(folder: Path, expected: Row) -> None:
    found = read(folder)
    assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-5)


@pytest.mark.parametrize("engine", ["rank", "faiss"])
def test_queries_of_inshop_are_found_in_its_gallery(inshop: ExperimentConfig, tmp_path: Path, engine: str) -> None:
    run = trained(inshop, tmp_path / "s" / "final" / "winner-seed0", (0, 1))
    process = run_here("evaluate", run, "fold=all", f"engine={engine}")
    assert process.returncode == 0, process.stderr
    queries, galleries = (sum(sizes) for sizes in zip(*INSHOP_TEST.values(), strict=True))
    assert process.stdout.count(f"query against gallery: {queries} queries, {galleries} gallery images") == 3
    for folder in (run / "fold0", run / "fold1", run):
        same_metrics(folder / "evaluation" / "test", inshop_by_the_loop(folder / "evaluation" / "test", inshop.data))
    assert 0 < float(str(read(run / "evaluation" / "test")["recall@1"])) < 1, "not so easy that any protocol will do"
    facts = read(run / "evaluation" / "test", "protocol.json")
    assert (facts["protocol"], facts["num_gallery"]) == ("query against gallery", galleries)
    process = run_here("evaluate", run / "fold0", "split=val")
    assert "every image against all others" in process.stdout
    assert read_roles(run / "fold0" / "evaluation" / "val" / "embeddings.parquet") is None
    whole = run / "evaluation" / "test" / "embeddings.parquet"
    alone = evaluate(whole, storage=str(tmp_path))
    assert alone == pytest.approx(read(run / "evaluation" / "test"), abs=1e-6), "the file holds the roles"


def vehicles_by_the_loop(folder: Path, num_draws: int) -> Row:
    rows, labels = read_embeddings(folder / "embeddings.parquet")
    galleries = [gallery.tolist() for _, gallery in _draws(labels, num_draws)]
    x, y = torch.from_numpy(rows).double(), torch.from_numpy(labels)
    draws = [mean_of([row for row in by_draws(x, y, [gallery], RANKS) if row]) for gallery in galleries]
    num_queries = len(labels) - len(set(labels.tolist()))
    return {**mean_of(draws), "num_queries": num_queries, "num_queries_without_positive": 0}


def test_vehicles_are_found_in_drawn_galleries_of_every_list(vehicleid: Path) -> None:
    run = vehicleid / "final" / "base-seed0"
    for options in ([], ["test_list=medium"], ["test_list=large", "engine=faiss"], ["gallery=leave_one_out"]):
        process = run_here("evaluate", run, *options)
        assert process.returncode == 0, process.stderr
    for name, count in (("test", 800), ("test-medium", 1600), ("test-large", 2400)):
        folder = run / "evaluation" / name
        same_metrics(folder, vehicles_by_the_loop(folder, 10))
        vehicles = VEHICLE_LISTS[count]
        num_images = sum(VEHICLE_TEST[vehicle] for vehicle in vehicles)
        facts = read(folder, "protocol.json")
        expected = ("random gallery", len(vehicles), 10, num_images - len(vehicles))
        assert (facts["protocol"], facts["num_gallery"], facts["num_draws"], facts["num_queries"]) == expected
        with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
            assert {row["class"] for row in csv.DictReader(file)} == {str(vehicle) for vehicle in vehicles}
    assert 0 < float(str(read(run / "evaluation" / "test-large")["mrr"])) < 1, "not so easy that any protocol will do"
    folder = run / "evaluation" / "test-leave_one_out"
    rows, labels = read_embeddings(folder / "embeddings.parquet")
    either = np.zeros(len(labels), dtype=np.int8)
    found, _ = by_roles(torch.from_numpy(rows).double(), torch.from_numpy(labels), either, RANKS)
    same_metrics(folder, {**mean_of(list(found.values())), "num_queries": 7, "num_queries_without_positive": 0})
    assert looks_of(vehicleid) == {"final/base-seed0": 4}


def test_the_curve_on_test_classes_has_the_protocol_of_the_evaluation(vehicleid: Path) -> None:
    run = vehicleid / "final" / "base-seed0"
    assert run_here("evaluate", run, "test_list=small", "gallery=random").returncode == 0
    assert not (run / "evaluation" / "test-small").exists(), "the run's own"
    [line] = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    curve = {name.removeprefix("test/"): x for name, x in json.loads(line).items() if name.startswith("test/")}
    metrics = read(run / "evaluation" / "test")
    assert curve == pytest.approx({name: metrics[name] for name in metrics if not name.startswith("num_")}, abs=1e-5)
    assert "mrr" in curve


@pytest.mark.parametrize("option", ["test_list=medium", "gallery=random"])
def test_options_that_the_data_do_not_have_are_refused(inshop: ExperimentConfig, tmp_path: Path, option: str) -> None:
    run = trained(inshop, tmp_path / "s" / "train" / "abc", (0,))
    name = option.partition("=")[0]
    law = f"error: {name}: only the test classes of vehicleid have one, but got {option}, and"
    for arguments, found in (([run], "the data are inshop"), ([run, "split=val"], "split=val")):
        process = run_here("evaluate", *arguments, option)
        assert (process.returncode, process.stderr) == (2, f"{law} {found}\n")
    assert not (run / "evaluation").exists()

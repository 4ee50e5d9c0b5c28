"""What is nearest to a user's images: galleries in blocks, the same file left out, files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raydml import checkpoint
from raydml.cli import main
from raydml.config import ConfigError, EvaluateOptions, replace_at
from raydml.data.found_images import find_images
from raydml.data.listing import ANY_ROLE, GALLERY, QUERY
from raydml.query import answers_of, query
from raydml.query_answers import Answer, Match
from raydml.query_files import write_answers
from raydml.query_galleries import EmbeddedGallery, Named, SplitGallery, holds_embeddings
from raydml.retrieval import QueryGallery
from raydml.runs import TrainedModel, resolve
from raydml.subjects import Opened, Subject, subjects_of
from raydml.training import RunSpec
from tests.conftest import tiny_experiment
from tests.photographs import config_of, make_photographs
from tests.training_cases import train

DIM = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> TrainedModel:
    folder = tmp_path_factory.mktemp("model") / "run"
    train(RunSpec(tiny_experiment(cache), folder), device=torch.device("cpu"), report=lambda row: None)
    return resolve(folder)


def units(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


class Embedded:
    """A folder such as `raydml.embed` writes, of photographs in ten class folders, in parts of 7."""

    def __init__(self, folder: Path, model: TrainedModel, *, labelled: bool = True) -> None:
        self.images, self.folder = folder / "photos", folder / "embedded"
        self.paths = find_images(str(make_photographs(self.images))).places
        self.rows = units(len(self.paths), seed=1)
        self.folder.mkdir()
        for part, start in enumerate(range(0, len(self.paths), 7)):
            at = slice(start, start + 7)
            columns = {"path": list(self.paths[at]), "embedding": self.rows[at].tolist()}
            classes = {"class": [path[:7] for path in self.paths[at]]} if labelled else {}
            pq.write_table(pa.table({**columns, **classes}), self.folder / f"part-{part:06d}.parquet")
        self.describe(checkpoint.digest(model.checkpoint))

    def describe(self, digest: str, **more: object) -> None:
        about = {"checkpoint": digest, "complete": True, "count": len(self.paths), "source": [str(self.images)], **more}
        (self.folder / "embeddings.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture
def embedded(tmp_path: Path, model: TrainedModel) -> Embedded:
    return Embedded(tmp_path, model)


def own_images(folder: Path) -> Path:
    """Three images of classes that the gallery has and has not."""
    for number, name in enumerate(("class03/a.png", "class03/b.png", "elsewhere/c.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (20 * number, 90, 200)).save(folder / name)
    return folder


def test_a_gallery_is_read_in_blocks_and_named_by_place(
    embedded: Embedded, model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydml.query_galleries._ROWS", 3)
    gallery = EmbeddedGallery(str(embedded.folder), model)
    blocks = list(gallery.blocks())
    assert [len(block) for block in blocks[:4]] == [3, 3, 1, 3]
    assert np.array_equal(torch.cat(blocks).numpy(), embedded.rows)
    named = gallery.named(np.array([39, 7, 0, 7]))
    expected = {place: embedded.paths[place] for place in (0, 7, 39)}
    assert named == {i: Named(path, str(embedded.images / path), path[:7]) for i, path in expected.items()}
    assert gallery.classes() == {f"class{number:02}" for number in range(10)}
    pixels = gallery.pixels(7)
    assert pixels is not None
    assert pixels.shape == (20, 20, 3), "as large as it is"


def test_images_that_moved_away_are_found_but_not_drawn(embedded: Embedded, model: TrainedModel) -> None:
    embedded.images.rename(embedded.images.with_name("gone"))
    gallery = EmbeddedGallery(str(embedded.folder), model)
    assert gallery.named(np.array([3]))[3].path == embedded.paths[3]
    assert gallery.pixels(3) is None


def test_answers_are_those_of_a_loop(embedded: Embedded, model: TrainedModel, tmp_path: Path) -> None:
    queries, rows = find_images(str(own_images(tmp_path / "mine"))), units(3, seed=2)
    answers = answers_of(queries, torch.from_numpy(rows), EmbeddedGallery(str(embedded.folder), model), 5)
    assert [answer.path for answer in answers] == list(queries.places)
    for row, answer in zip(rows, answers, strict=True):
        order = sorted(range(40), key=lambda place: -float(embedded.rows[place] @ row))[:5]
        assert [match.place for match in answer.matches] == order
        assert [match.path for match in answer.matches] == [embedded.paths[place] for place in order]
        assert [match.class_name for match in answer.matches] == [embedded.paths[place][:7] for place in order]
        similarity = [float(embedded.rows[place] @ row) for place in order]
        assert [match.similarity for match in answer.matches] == pytest.approx(similarity, abs=1e-6)
    assert [answer.class_name for answer in answers] == ["class03", "class03", None], "a class that it knows"


def test_an_image_of_the_gallery_does_not_find_itself(embedded: Embedded, model: TrainedModel) -> None:
    queries = find_images(str(embedded.images))
    gallery = EmbeddedGallery(str(embedded.folder), model)
    answers = answers_of(queries, torch.from_numpy(embedded.rows), gallery, 3)
    for place, answer in enumerate(answers):
        others = np.delete(np.arange(40), place)
        order = others[np.argsort(-(embedded.rows[others] @ embedded.rows[place]), kind="stable")]
        assert [match.place for match in answer.matches] == order[:3].tolist()
    every = answers_of(queries, torch.from_numpy(embedded.rows), gallery, 40)
    assert {len(answer.matches) for answer in every} == {39}


def test_the_table_has_a_row_a_match(embedded: Embedded, model: TrainedModel, tmp_path: Path) -> None:
    queries = find_images(str(own_images(tmp_path / "mine")))
    gallery = EmbeddedGallery(str(embedded.folder), model)
    answers = answers_of(queries, torch.from_numpy(units(3, seed=2)), gallery, 4)
    assert write_answers(tmp_path / "out", answers, queries.encoded, gallery) == 3
    table = pq.read_table(tmp_path / "out" / "neighbors.parquet")
    assert table.column_names == ["query", "rank", "gallery", "index", "similarity", "class"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (answer.path, rank, match.path, match.place, pytest.approx(match.similarity), match.class_name)
        for answer in answers
        for rank, match in enumerate(answer.matches, start=1)
    ]
    with Image.open(tmp_path / "out" / "neighbors.png") as picture:
        assert picture.getpixel((60, 90)) == (0, 90, 200), "the first query"


class Blank:
    """A gallery and a reader whose images nobody can see."""

    count = 1

    def blocks(self) -> Iterator[torch.Tensor]:
        yield torch.ones(1, DIM)

    def named(self, index: np.ndarray) -> dict[int, Named]:
        return {0: Named("g", "g", None)}

    def classes(self) -> set[str]:
        return set()

    def pixels(self, index: int) -> None:
        return None

    def read(self, place: str) -> bytes:
        raise OSError(place)


def test_many_queries_have_a_few_pages(tmp_path: Path) -> None:
    def written(count: int) -> list[str]:
        answers = tuple(Answer(f"{n}.jpg", None, (Match(0, "g", None, 0.5),)) for n in range(count))
        assert write_answers(tmp_path, answers, Blank(), Blank()) == min(count, 100)  # type: ignore[arg-type]
        return sorted(path.name for path in tmp_path.glob("*.png"))

    assert written(130) == ["neighbors-2.png", "neighbors-3.png", "neighbors-4.png", "neighbors-5.png", "neighbors.png"]
    assert written(21) == ["neighbors-2.png", "neighbors.png"], "pages of an earlier query go"
    assert pq.read_table(tmp_path / "neighbors.parquet").num_rows == 21


def test_what_is_a_gallery_of_embeddings(embedded: Embedded, tmp_path: Path) -> None:
    assert holds_embeddings(str(embedded.folder))
    assert not holds_embeddings(str(embedded.images))
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "images.parquet")
    assert not holds_embeddings(str(tmp_path / "images.parquet"))
    with pytest.raises(ConfigError, match="does not say which model made its embeddings"):
        holds_embeddings(str(embedded.folder / "part-000000.parquet"))


def test_embeddings_of_another_model_or_half_of_them_are_refused(embedded: Embedded, model: TrainedModel) -> None:
    embedded.describe("0123")
    with pytest.raises(ConfigError, match=f"^among: {embedded.folder} holds embeddings by another model than"):
        EmbeddedGallery(str(embedded.folder), model)
    embedded.describe("0123", complete=False)
    with pytest.raises(ConfigError, match=f"^among: {embedded.folder} is not all there yet"):
        EmbeddedGallery(str(embedded.folder), model)
    (embedded.folder / "embeddings.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"embeddings\.json is no description of embeddings"):
        EmbeddedGallery(str(embedded.folder), model)


def subject_of(folder: Path) -> Subject:
    """The test images of a model that was trained on a folder of photographs."""
    data = config_of(make_photographs(folder / "images"), batch_size=8, samples_per_class=2).model_dump(mode="json")
    config = replace_at(tiny_experiment(folder / "cache"), "data", data)
    train(RunSpec(config, folder / "run"), device=torch.device("cpu"), report=lambda row: None)
    found = subjects_of(folder / "run", EvaluateOptions(split="test"), Opened())
    assert isinstance(found, list)
    return found[0]


def test_the_gallery_of_a_run_has_no_images_that_are_queries_only(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    sources = [subject.images.sources[position] for position in subject.subset.index]
    roles = np.array([QUERY, GALLERY, ANY_ROLE, QUERY] * (len(sources) // 4), dtype=np.int8)
    rows = units(len(sources), seed=3)
    queries = find_images(str(tmp_path / "images"))
    protocols = [(subject.protocol, sources), (QueryGallery(roles), np.array(sources)[roles != QUERY].tolist())]
    for protocol, expected in protocols:
        gallery = SplitGallery(replace(subject, protocol=protocol), rows)
        assert gallery.count == len(expected)
        assert np.array_equal(next(gallery.blocks()), rows[[sources.index(path) for path in expected]])
        answers = answers_of(queries, torch.from_numpy(units(len(queries.places), seed=4)), gallery, len(expected))
        for answer in answers:
            found = sorted(match.path for match in answer.matches)
            assert found == sorted(path for path in expected if path != answer.path), "nothing finds itself"
            assert all(match.class_name == match.path[:7] for match in answer.matches)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"neighbors": 41}, "neighbors: must be at most the 40 images of the gallery, but got 41"),
        ({"fold": "all"}, "fold: --query takes the embeddings of one model, but got fold=all"),
        ({"engine": "ivf"}, "engine: means nothing to this --query, which takes batch_size, fold, neighbors,"),
        ({"split": "val"}, "split: means nothing to this --query"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is_embedded(
    embedded: Embedded, model: TrainedModel, options: dict[str, object], said: str
) -> None:
    wanted: dict[str, Any] = options
    for gallery in (embedded.folder, embedded.images):
        with pytest.raises(ConfigError, match=f"^{said}"):
            query(model.directory, embedded.images, gallery, **wanted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}", "{run}", "--query", "{images}"], "--query takes one run, but got {run}, {run}"),
        (["{run}", "--among", "{images}"], "command line: --among: goes with --query, which names the images to find"),
        (["{run}", "--query", "{images}/no"], "{images}/no: no such file or folder"),
        (["{run}", "--query", "{images}", "--among", "{images}/no"], "{images}/no: no such file or folder"),
        (["{parts}", "--query", "{images}"], "{parts}: --query needs a model to embed its images, and these are"),
    ],
)
def test_bad_words_are_one_line(
    embedded: Embedded, model: TrainedModel, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    names = {"run": str(model.directory), "images": str(embedded.images), "parts": str(embedded.folder)}
    assert main(["evaluate", *(word.format(**names) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said.format(**names)}")
    assert error.count("\n") == 1

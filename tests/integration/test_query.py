"""`python -m raydml.evaluate RUN --query IMAGES` end to end: among images, among their embeddings, among a split."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydml.query import query
from tests.integration.conftest import FinishedSearch
from tests.integration.studies import run_here
from tests.photographs import make_photographs

pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of twelve, and copies of three of them elsewhere."""
    folder = tmp_path_factory.mktemp("photographs")
    gallery = make_photographs(folder / "gallery", num_classes=4, per_class=3)
    for place, name in enumerate(("class00/0.jpg", "class01/2.jpg", "class03/1.jpg")):
        (folder / "mine").mkdir(exist_ok=True)
        shutil.copy(gallery / name, folder / "mine" / f"{place}.jpg")
    return folder


def test_copies_are_found_among_images_and_then_among_their_embeddings(
    finished: FinishedSearch, photographs: Path
) -> None:
    few = query(finished.folder, photographs / "mine", photographs / "mine")
    assert [len(answer.matches) for answer in few.answers] == [2, 2, 2], "ten are not there, and nobody asked for ten"
    first = run_here("evaluate", finished.folder, "--query", photographs / "mine", "--among", photographs / "gallery")
    assert first.returncode == 0, first.stderr
    [folder] = finished.folder.glob("trials/*/queries/mine")
    table = pq.read_table(folder / "neighbors.parquet").to_pylist()
    assert len(table) == 3 * 10
    best = [row for row in table if row["rank"] == 1]
    assert [(row["query"], row["gallery"], row["class"]) for row in best] == [
        ("0.jpg", "class00/0.jpg", "class00"),
        ("1.jpg", "class01/2.jpg", "class01"),
        ("2.jpg", "class03/1.jpg", "class03"),
    ]
    assert all(row["similarity"] == pytest.approx(1, abs=1e-5) for row in best)
    with Image.open(folder / "neighbors.png") as picture:
        assert picture.width > 1000
    assert "1.000 class01/2.jpg (class01)" in first.stdout
    assert f"written: {folder}" in first.stdout
    embeddings = folder.parents[1] / "embeddings" / "gallery"
    again = run_here("evaluate", finished.folder, "--query", photographs / "mine", "--among", embeddings)
    assert again.returncode == 0, again.stderr
    assert pq.read_table(folder / "neighbors.parquet").to_pylist() == table


def test_one_image_among_those_of_the_run(finished: FinishedSearch, photographs: Path) -> None:
    found = query(finished.folder, photographs / "mine" / "0.jpg", neighbors=3)
    assert found.gallery.endswith("images of val"), "a trial must not see test classes"
    [answer] = found.answers
    assert (answer.path, answer.class_name, len(answer.matches)) == ("0.jpg", None, 3)
    assert answer.matches[0].class_name is not None
    assert not (finished.folder / "test_looks.jsonl").exists()


def test_embedded_images_are_evaluated_with_pictures(
    finished: FinishedSearch, photographs: Path, tmp_path: Path
) -> None:
    [embeddings] = finished.folder.glob("trials/*/embeddings/gallery")
    process = run_here("evaluate", embeddings, f"storage={tmp_path}", "pictures=2")
    assert process.returncode == 0, process.stderr
    [folder] = tmp_path.glob("evaluations/gallery-*")
    assert (folder / "neighbors.png").exists()
    assert '"class00"' in (folder / "neighbors.json").read_text(encoding="utf-8")
    assert any(folder.glob("events.out.tfevents.*"))

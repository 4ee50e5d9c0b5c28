"""Pictures of nearest neighbours in a report: once, in the page itself, small enough; and what spoils them."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydml.config import ConfigError, ExperimentConfig
from raydml.report import report
from raydml.report.contents import Contents
from raydml.report.neighbor_sheets import neighbor_blocks, sheets_of
from raydml.report.rendering import html
from tests.report_cases import run_training

COLOUR = (10, 120, 200)


def put(folder: Path, split: str = "test", *, size: tuple[int, int] = (40, 30)) -> None:
    """What an evaluation leaves."""
    place = folder / "evaluation" / split
    place.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOUR).save(place / "neighbors.png")


def images_in(page: Path) -> list[Image.Image]:
    """Every image of a page, decoded as a browser would."""
    found = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    return [Image.open(io.BytesIO(base64.b64decode(data, validate=True))) for data in found]


@pytest.fixture
def run(tiny: ExperimentConfig, tmp_path: Path) -> Path:
    return run_training(tiny, tmp_path)


def test_a_run_shows_each_of_its_pictures_once(run: Path) -> None:
    put(run, "test")
    put(run, "val", size=(60, 20))
    page = report([run]).directory / "report.html"
    images = images_in(page)
    assert [image.size for image in images] == [(40, 30), (60, 20)]
    assert np.abs(np.asarray(images[0].convert("RGB")).astype(int) - COLOUR).max() < 6
    text = page.read_text(encoding="utf-8")
    assert text.count("<img ") == 2
    assert text.count("test classes: queries and what is nearest to them</figcaption>") == 1
    assert "img-src data:" in text
    assert "webp" not in (page.parent / "report.json").read_text(encoding="utf-8"), "only where they lie"


def test_without_an_evaluation_there_is_none(run: Path) -> None:
    page = report([run]).directory / "report.html"
    assert not images_in(page)
    assert "Nearest neighbours" not in page.read_text(encoding="utf-8")


def test_many_trainings_show_none(run: Path, tiny: ExperimentConfig, tmp_path: Path) -> None:
    put(run)
    other = run_training(tiny.model_copy(update={"seed": 1}), tmp_path)
    assert not images_in(report([run, other], out=tmp_path / "out").directory / "report.html")


def test_a_search_shows_its_best_trial(searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(searched, folder)
    best = report([folder], out=tmp_path / "before").contents.studies[0].best
    assert best is not None
    put(folder / "trials" / f"{best.number:04d}" / "fold1", "val")
    [study] = report([folder]).contents.studies
    assert study.neighbors == (f"trials/{best.number:04d}/fold1/evaluation/val/neighbors.png",)
    assert len(images_in(folder / "report" / "report.html")) == 1


def test_the_whole_run_speaks_for_its_folds(tmp_path: Path) -> None:
    put(tmp_path / "fold0")
    put(tmp_path / "fold1")
    assert sheets_of(tmp_path) == tuple(f"fold{k}/evaluation/test/neighbors.png" for k in (0, 1))
    put(tmp_path)
    assert sheets_of(tmp_path) == ("evaluation/test/neighbors.png",)
    assert sheets_of(tmp_path, ["fold1", "gone"]) == ("fold1/evaluation/test/neighbors.png",)


def test_a_picture_that_went_away_is_left_out(run: Path) -> None:
    put(run)
    contents = Contents.model_validate_json((report([run]).directory / "report.json").read_text(encoding="utf-8"))
    (run / "evaluation" / "test" / "neighbors.png").unlink()
    assert list(neighbor_blocks(contents.runs[0].directory, contents.runs[0].neighbors)) == []


def test_a_broken_picture_is_named(run: Path) -> None:
    put(run)
    path = run / "evaluation" / "test" / "neighbors.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ConfigError, match=rf"^{path}: no readable picture: .*; evaluate again$"):
        report([run])


def test_a_large_picture_is_made_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "evaluation" / "test"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "neighbors.png")
    monkeypatch.setattr("raydml.report.neighbor_sheets._MOST_BYTES", 40_000)
    page = tmp_path / "page.html"
    page.write_text(html(list(neighbor_blocks(str(tmp_path), sheets_of(tmp_path))), title="t"), encoding="utf-8")
    [image] = images_in(page)
    assert image.size in ((300, 200), (150, 100))
    assert page.stat().st_size < 65_000


def test_a_name_that_is_markup_is_words(tmp_path: Path) -> None:
    put(tmp_path / '"><script>')
    page = html(list(neighbor_blocks(str(tmp_path), sheets_of(tmp_path, ['"><script>']))), title="t")
    assert "<script>" not in page

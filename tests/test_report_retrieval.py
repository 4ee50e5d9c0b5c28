"""What a report says of the protocol by which test classes were evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raydml.report import blocks_of, contents_of, rendering
from raydml.report.contents import Contents
from raydml.report.reading import find
from tests.protocol_cases import finished_study, honest


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the preset honest whose phases have ended. To be read only."""
    return finished_study(cache, tmp_path_factory.mktemp("finished"), honest())


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "small"))


def contents(folder: Path) -> Contents:
    return contents_of(find([str(folder)]))


@pytest.mark.parametrize("folder", ["test", "test-medium"])
def test_an_earlier_winner_met_the_test_classes_by_any_list(copied: Path, folder: str) -> None:
    earlier = copied / "final" / "earlier-1" / "winner-seed0" / "evaluation" / folder
    earlier.mkdir(parents=True)
    (earlier / "metrics.json").write_text("{}", encoding="utf-8")
    final = contents(copied).studies[0].final
    assert final is not None
    assert final.earlier_winners == 1


def test_what_was_found_among_what_is_said_where_it_is_known(finished: Path, copied: Path) -> None:
    known = "query against gallery: 14,218 queries, 12,612 gallery images"
    words = "Retrieval on the test classes"
    assert words not in rendering.markdown(blocks_of(contents(finished)))
    for run in (copied / "final").glob("*-seed*"):
        path = run / "evaluation" / "test" / "protocol.json"
        path.write_text(json.dumps({"protocol": "query against gallery", "description": known}), encoding="utf-8")
    assert f"{words}: {known}." in rendering.markdown(blocks_of(contents(copied)))

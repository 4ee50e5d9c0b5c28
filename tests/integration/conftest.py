"""One finished search that several test modules look at."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raydml.session import connected
from tests.integration.buckets import CREDENTIALS
from tests.integration.studies import run, write_study


@dataclass(frozen=True)
class FinishedSearch:
    """A study searched to its end, one trial at a time, undisturbed."""

    path: Path
    folder: Path
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> FinishedSearch:
    """The small study after `python -m raydml.tune`, with one trial at a time."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_study(folder, cache)
    process = run("tune", path, "search.max_concurrent=1")
    assert process.returncode == 0, process.stdout + process.stderr
    return FinishedSearch(path, folder / "runs" / "small", process)


@pytest.fixture(scope="package")
def ray_here() -> Iterator[None]:
    """One Ray for every test of this folder that needs no process of its own; the unit tests find none running."""
    with pytest.MonkeyPatch.context() as patch:
        # Workers take over the environment that Ray starts in: its bucket is that of the tests.
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with connected():
            yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an integration test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)

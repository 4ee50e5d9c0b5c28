"""One finished search that several test modules look at."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raydml.session import connected
from tests.integration.buckets import CREDENTIALS, Bucket, serving
from tests.integration.gates import Gate, gate_to
from tests.integration.studies import run_here, write_study


@dataclass(frozen=True)
class FinishedSearch:
    """A study searched to its end, one trial at a time, undisturbed."""

    path: Path
    folder: Path
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path, ray_here: None) -> FinishedSearch:
    """The small study after `raydml.tune`, with one trial at a time."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_study(folder, cache)
    process = run_here("tune", path, "search.max_concurrent=1")
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


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """A bucket, empty."""
    with serving() as found:
        yield found


@pytest.fixture
def gate(bucket: Bucket) -> Iterator[Gate]:
    """The only way to it that those know who are to be without it for a while."""
    with gate_to(bucket.host) as found:
        yield found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an integration test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)

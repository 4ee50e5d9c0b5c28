"""A search needs no test image: it runs where opening one raises, in the driver and in every worker of Ray."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import FinishedSearch
from tests.integration.studies import command, curves_of, environment, outcome, write_study

# Python imports it at the start of every process that has its folder on the path, Ray's workers included.
SITECUSTOMIZE = """
import os, sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder

NOTES = {notes!r}


class Trapping(Loader):
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        opened = module.open_images

        def trap(config, *, with_test=False, **more):
            with open(os.path.join(NOTES, str(os.getpid())), "w") as file:
                file.write(" ".join(sys.orig_argv))
            if with_test:
                raise RuntimeError("the trap of the test classes")
            return opened(config, **more)

        module.open_images = trap


class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "raydml.data.opening":
            return None
        spec = PathFinder.find_spec(name, path)
        spec.loader = Trapping(spec.loader)
        return spec


sys.meta_path.insert(0, Finder())
"""


NUM_TRIALS = 3


@dataclass(frozen=True)
class Trap:
    """Runs commands where opening test classes raises."""

    folder: Path
    run: Callable[..., subprocess.CompletedProcess[str]]

    def noted(self) -> list[str]:
        """The command line of every process that opened images."""
        return [path.read_text(encoding="utf-8") for path in sorted((self.folder / "notes").iterdir())]


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Trap:
    folder = tmp_path_factory.mktemp("trap")
    (folder / "notes").mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(notes=str(folder / "notes")), encoding="utf-8")
    root = Path(__file__).parents[2]

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        env = {**environment(), "PYTHONPATH": f"{folder}:{root}"}
        return subprocess.run(
            command(name, *arguments), env=env, capture_output=True, text=True, timeout=300, check=False
        )

    return Trap(folder, run)


@pytest.fixture(scope="module")
def searched(trap: Trap, cache: Path) -> Path:
    """The first trials of the study of `finished`, searched in the trap."""
    path = write_study(trap.folder, cache)
    process = trap.run("tune", path, "search.max_concurrent=1", f"search.num_trials={NUM_TRIALS}")
    assert process.returncode == 0, process.stdout + process.stderr
    return trap.folder / "runs" / "small"


def test_a_search_that_cannot_open_a_test_image_is_the_same_search(
    searched: Path, trap: Trap, finished: FinishedSearch
) -> None:
    opened = trap.noted()
    assert [line for line in opened if "raydml.tune" in line], "the driver had the trap"
    assert [line for line in opened if "raydml.tune" not in line], "and so had the workers"
    assert outcome(searched) == outcome(finished.folder)[:NUM_TRIALS]
    assert curves_of(searched) == dict(list(curves_of(finished.folder).items())[:NUM_TRIALS])
    assert (searched / "baseline.json").read_bytes() == (finished.folder / "baseline.json").read_bytes()
    assert not (searched / "test_looks.jsonl").exists()


def test_the_trap_catches_who_opens_test_images(searched: Path, trap: Trap) -> None:
    assert trap.run("evaluate", searched).returncode == 0
    process = trap.run("evaluate", searched, "split=test")
    assert process.returncode == 1
    assert "the trap of the test classes" in process.stderr
    assert not list(searched.glob("trials/*/evaluation/test"))
    assert not (searched / "test_looks.jsonl").exists()

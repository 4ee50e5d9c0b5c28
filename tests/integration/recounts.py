"""What a disturbed search is held against: every configuration trained alone, and the work that was begun twice."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import torch

from raydml import yamlfile
from raydml.config import parse
from raydml.training import RunSpec
from tests.integration.studies import without_times
from tests.training_cases import train


class _FarEnoughError(Exception):
    """The trial came no further."""


def undisturbed(study: Path, scratch: Path) -> dict[str, list[dict[str, float]]]:
    """The curve of every trial of a search, trained here from the configuration in its folder, as far as it came."""
    return {
        folder.name: _trained(folder, scratch / folder.name)
        for folder in sorted((study / "trials").iterdir())
        if (folder / "metrics.jsonl").exists()
    }


def _trained(folder: Path, scratch: Path) -> list[dict[str, float]]:
    wanted = len((folder / "metrics.jsonl").read_text("utf-8").splitlines())
    rows: list[dict[str, float]] = []

    def report(row: dict[str, float]) -> None:
        rows.append(without_times(json.loads(json.dumps(row))))
        if len(rows) == wanted:
            raise _FarEnoughError

    spec = RunSpec(parse(yamlfile.load(folder / "config.yaml")), scratch)
    with suppress(_FarEnoughError):
        train(spec, device=torch.device("cpu"), report=report)
    return rows


class Ledger:
    """Who trained what, seen from outside: every process that took up a trial, and every epoch it finished.

    A training writes config.yaml when a process opens it, and meta.json of its checkpoint with every epoch. Looked at
    every few milliseconds, from a thread.
    """

    def __init__(self, study: Path, *, length: int) -> None:
        self.length = length
        """Epochs of a trial."""
        self.processes: dict[str, int] = defaultdict(int)
        """How many processes have opened a trial."""
        self.epochs: dict[str, list[int]] = defaultdict(list)
        """Epochs in the order in which they were finished."""
        self._study, self._seen = study, dict[Path, int]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Ledger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def begun_twice(self) -> dict[str, int]:
        """Epochs of each trial that a second process began as well: one for every process but the first."""
        return {trial: number - 1 for trial, number in self.processes.items() if number > 1}

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self._look()

    def _look(self) -> None:
        for folder in (self._study / "trials").glob("*"):
            if self._is_new(folder / "config.yaml"):
                self.processes[folder.name] += 1
            meta = folder / "checkpoint" / "meta.json"
            if self._is_new(meta):
                self._finished(folder.name, meta)

    def _finished(self, trial: str, meta: Path) -> None:
        try:
            epoch = int(json.loads(meta.read_text("utf-8"))["epoch"])
        except FileNotFoundError:
            return  # between two renames, or removed
        self.epochs[trial].append(epoch)

    def _is_new(self, path: Path) -> bool:
        try:
            written = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        new = self._seen.get(path) != written
        self._seen[path] = written
        return new

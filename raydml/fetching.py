"""A study or a run from a URI into a folder that stays: for TensorBoard, optuna-dashboard, or another machine.

Fetched again, the folder becomes what the storage has by then, while the search runs too.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from raydml import atomic, checkpoint, jsonfile
from raydml.brought_runs import best_run, study_at
from raydml.config import ConfigError
from raydml.data.files import Files
from raydml.layout import RUN_FILE, RUNS, added_later
from raydml.remote_runs import Located, located
from raydml.storage import RemoteFolder, below, snapshots_below

# Hidden: no part of what is fetched.
_MARK = ".fetched.json"


def fetch(run: str, directory: Path) -> None:
    """Makes `directory` what lies at a URI: of a study all but models, with that of its best.yaml; of a run all.

    Raises ConfigError where there is no study or run, or the folder holds something else; StorageError.
    """
    if "://" not in run:
        raise ConfigError(f"{run}: is on this machine: --fetch brings what lies at a URI")
    found = located(run)
    place = Files(run).named()
    if found is None or found.path not in ("", "best.yaml", found.run):
        raise ConfigError(f"{place}: neither a study nor a run")
    whole = found.study if found.run is None else below(found.study, found.run)
    _claim(directory, Files(whole).named())
    if found.run is None:
        _fetch_study(found, directory.resolve())
    else:
        _fetch_run(whole, directory)


def _claim(directory: Path, place: str) -> None:
    """Raises ConfigError for a folder that holds what is not from there."""
    mark = directory / _MARK
    if mark.is_file() and jsonfile.load(mark) == {"uri": place}:
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"--fetch: {directory} holds something else than {place}: name a new or empty folder")
    atomic.make_folder(directory)
    atomic.write_json(mark, {"uri": place})


def _fetch_run(uri: str, directory: Path) -> None:
    for path in snapshots_below(uri):
        RemoteFolder(below(uri, path) if path else uri, directory / path, elsewhere=added_later).pull()


def _fetch_study(found: Located, directory: Path) -> None:
    folder = study_at(found.study, path=directory)
    folder.open()
    there = set(snapshots_below(found.study))
    for config in [path for name in RUNS for path in (directory / name).rglob(RUN_FILE)]:
        # A run may have been put aside since the last time.
        if config.parent.relative_to(directory).as_posix() not in there:
            shutil.rmtree(config.parent)
    best = best_run(folder)
    for run in there:
        if run != best:
            checkpoint.remove(directory / run)
    if best is not None and best in there:
        folder.take(directory / best, models=True)

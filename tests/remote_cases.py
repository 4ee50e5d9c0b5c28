"""Studies at URIs, stored as their drivers store them."""

from __future__ import annotations

import shutil
from pathlib import Path

from raydml.layout import REPORT, RUN_FILE
from raydml.storage import below
from raydml.study_folder import StudyFolder


def store(study: Path, storage: str, *, at: Path) -> str:
    """Stores a copy of a study's folder, made at `at`, below `storage`; its URI."""
    copy = at / study.name
    shutil.copytree(study, copy, dirs_exist_ok=True)
    folder = StudyFolder(storage, study.name, path=copy)
    runs = [path.parent for path in copy.rglob(RUN_FILE)] + list(copy.glob(REPORT))
    if any(path.is_file() for path in copy.iterdir()):
        folder.save()
    for run in runs:
        folder.keep(run)
    shutil.rmtree(copy)
    return below(storage, study.name)


def write(folder: Path, *paths: str) -> Path:
    """Small files, each with its own path as content."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path, encoding="utf-8")
    return folder


def files_in(folder: Path) -> dict[str, str]:
    """Content of every file that is not hidden, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8", errors="replace")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }

"""Runs at URIs brought to this machine, for commands that look at folders; what these add is taken back.

Paths on this machine and embeddings are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raydml import yamlfile
from raydml.config import ConfigError
from raydml.data.files import Files, Root
from raydml.inside import require_safe
from raydml.layout import EVALUATION, LOOKS
from raydml.remote_runs import Located, located
from raydml.storage import below, snapshots_below
from raydml.study_folder import StudyFolder, is_uri


class BroughtRuns:
    """The folders of this process in which what lies at URIs is, as far as it was asked for."""

    def __init__(self) -> None:
        self._folders: dict[str, StudyFolder] = {}

    def model(self, run: str | Path) -> str | Path:
        """A local path with the models of what a URI names: a run, or the study's best. Anything else as it is.

        Raises ConfigError where there is no such model, and StorageError.
        """
        found = None if not is_uri(str(run)) else located(str(run))
        if found is None:
            return run
        folder = self._folder(found.study)
        folder.open(lambda path: path.startswith((f"{LOOKS}/", *_evaluation_in(found.path))))
        folder.take(folder.path / (found.run or _run_of(folder, found)), models=True)
        return _existing(folder, found)

    def results(self, run: str | Path) -> str | Path:
        """As `model`, with everything but models."""
        found = None if not is_uri(str(run)) else located(str(run))
        if found is None:
            return run
        folder = self._folder(found.study)
        folder.open()
        return _existing(folder, found)

    def own(self, study: str | Path) -> str | Path:
        """As `model`, with the study's own files alone: its journal, without runs. Raises ConfigError, StorageError."""
        found = None if not is_uri(str(study)) else located(str(study))
        if found is None:
            return study
        folder = self._folder(found.study)
        folder.open(_no_run)
        return _existing(folder, found)

    def _folder(self, uri: str) -> StudyFolder:
        if uri not in self._folders:
            self._folders[uri] = study_at(uri)
        return self._folders[uri]

    def uri_of(self, path: Path) -> str | None:
        """Where a local path is kept; None where it is there to stay."""
        for folder in self._folders.values():
            if folder.uri is not None and path.is_relative_to(folder.path):
                relative = path.relative_to(folder.path).as_posix()
                return folder.uri if relative == "." else below(folder.uri, relative)
        return None

    def place_of(self, path: Path) -> str | None:
        """As `uri_of`, for a message: without options."""
        uri = self.uri_of(path)
        return None if uri is None else Files(uri).named()

    def named(self, path: Path) -> str:
        """What the user calls a local path."""
        return self.place_of(path) or str(path)

    def keep(self, directory: Path) -> None:
        """Stores an evaluation or a report: first the looks at test classes. Raises StorageError."""
        for folder in self._folders.values():
            if directory.is_relative_to(folder.path):
                folder.keep_looks()
                folder.keep(directory)

    def close(self) -> None:
        """Removes the folders."""
        for folder in self._folders.values():
            folder.close()

    def translated(self, text: str) -> str:
        """A message as the user understands it: with URIs for local paths."""
        for folder in self._folders.values():
            text = folder.translated(text)
        return text


def _no_run(path: str) -> bool:
    del path
    return False


@contextmanager
def bringing() -> Iterator[BroughtRuns]:
    """Runs at URIs for a while; a ConfigError of that while names URIs."""
    brought = BroughtRuns()
    try:
        yield brought
    except ConfigError as error:
        raise ConfigError(brought.translated(str(error))) from error
    finally:
        brought.close()


def study_at(uri: str, *, path: Path | None = None) -> StudyFolder:
    """The folder of the study at a URI, of which nothing is here yet. Raises StorageError."""
    root = Root.of(uri)
    above, _, name = root.path.rstrip("/").rpartition("/")
    return StudyFolder(str(root._replace(path=above)), name, path=path)


def best_run(folder: StudyFolder) -> str | None:
    """The run whose model the study's best.yaml names, relative to the study; None where it names none."""
    best = folder.path / "best.yaml"
    kept = yamlfile.load(best).get("checkpoint") if best.exists() else None
    if not isinstance(kept, str):
        return None
    require_safe([kept], said_by=f"{best}: checkpoint")
    parts = kept.removesuffix("/checkpoint").split("/")
    return "/".join(parts[:-1] if parts[-1].startswith("fold") else parts)


def _run_of(folder: StudyFolder, found: Located) -> str:
    """Raises ConfigError where nothing tells the model of a study that is meant."""
    if (best := best_run(folder)) is not None:
        return best
    assert folder.uri is not None
    runs = [path for path in snapshots_below(folder.uri) if path.startswith("train/") and path.count("/") == 1]
    if len(runs) == 1:
        return runs[0]
    place = Files(below(folder.uri, found.path) if found.path else folder.uri).named()
    if runs:
        raise ConfigError(f"{place}: holds several trainings: name one of {', '.join(runs)}")
    raise ConfigError(f"{place}: neither a checkpoint, nor a run, nor a study with a finished trial")


def _evaluation_in(path: str) -> tuple[str, ...]:
    """The folder of an evaluation that a path leads into."""
    parts = path.split("/")
    return ("/".join(parts[: parts.index(EVALUATION) + 2]),) if EVALUATION in parts else ()


def _existing(folder: StudyFolder, found: Located) -> Path:
    path = folder.path / found.path
    if not path.exists():
        raise ConfigError(f"{path}: no such run")
    return path

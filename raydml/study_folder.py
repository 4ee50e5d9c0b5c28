"""The folder of a study as its driver works in it: the place itself, or a copy of which snapshots go to a URI.

The study's own files are one snapshot, written by the driver; each run below it is another, written by the process that
trains it, and by the driver once that has ended. Reports, evaluations and looks at the test classes, which anybody may
add while the driver lives, are snapshots of their own.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from raydml import checkpoint
from raydml.config import ConfigError
from raydml.config.places import resolved_storage
from raydml.data.files import Files
from raydml.folder_files import Choice, none
from raydml.layout import EVALUATION, REPORT, added_later, in_checkpoint, of_others
from raydml.patience import Patience
from raydml.scratch import Scratch
from raydml.storage import RemoteFolder, below, snapshots_below
from raydml.stored_looks import gather_looks, new_piece

# The epochs of trials are stored by the trials: what the driver has of them may wait.
_RARELY_S = 10.0
_REQUESTS = 16


def is_uri(storage: str) -> bool:
    """Whether a storage is a URI, and not a folder that every machine sees."""
    return "://" in storage


def study_uri(storage: str, name: str) -> str | None:
    """`<storage>/<name>` with its options, where the storage is a URI."""
    return below(storage, name) if is_uri(storage) else None


class StudyFolder:
    """A study's folder of this process. With a storage that is a path nothing is stored elsewhere."""

    def __init__(
        self, storage: str, name: str, *, path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`path` is where to have what lies at a URI; in a folder that this process removes where None.

        Takes nothing over yet. Raises StorageError where the storage does not answer, and ConfigError.
        """
        storage = resolved_storage(storage)
        self.uri = study_uri(storage, name)
        self._clock, self._saved_at = clock, 0.0
        self._remote: RemoteFolder | None = None
        # Runs that had checkpoints when they were last looked at.
        self._with_models: set[Path] = set()
        self._scratch: Scratch | None = None
        if self.uri is None:
            self.path = Path(storage).resolve() / name
            return
        if path is None:
            self._scratch = Scratch()
            path = self._scratch.folder / name
        self.path = path
        # Who has just typed the URI wants to hear soon that it is wrong.
        self._patience = Patience(seconds=20.0)
        self._remote = RemoteFolder(self.uri, self.path, elsewhere=of_others, patience=self._patience)

    @property
    def place(self) -> str:
        """What the user calls it."""
        return str(self.path) if self.uri is None else Files(self.uri).named()

    @property
    def argument(self) -> str:
        """What the user calls it in a command line: with the options of a URI, in quotes where they are needed."""
        return str(self.path) if self.uri is None else shlex.quote(self.uri)

    def argument_of(self, path: str) -> str:
        """As `argument`, of what lies below, by relative path."""
        return str(self.path / path) if self.uri is None else shlex.quote(below(self.uri, path))

    @property
    def curves(self) -> str:
        """The command that shows the curves."""
        name = self.path.name
        if self.uri is None:
            return f"tensorboard --logdir {self.path}"
        return f"python -m raydml.report {self.argument} --fetch {name} && tensorboard --logdir {name}"

    def open(self, wanted: Choice | None = None) -> None:
        """Takes over what is stored, but for models; of runs and what others than the driver wrote what is `wanted`.

        That is asked of relative paths of folders. Raises StorageError, ConfigError where what is there is damaged.
        """
        if self._remote is None or self.uri is None:
            return
        self._remote.pull()
        self._patience.seconds = Patience.seconds
        folders = [folder for folder in snapshots_below(self.uri) if folder and (wanted is None or wanted(folder))]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(lambda folder: self.take(self.path / folder), folders))
        gather_looks(self.path)

    def translated(self, text: str) -> str:
        """A message as the user understands it: with the place instead of its copy."""
        return text.replace(str(self.path), self.place)

    @contextmanager
    def naming(self) -> Iterator[None]:
        """A ConfigError of that while names the place."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(self.translated(str(error))) from error

    def close(self) -> None:
        """Removes what this process had of what is stored."""
        if self._scratch is not None:
            self._scratch.remove()

    def uri_of(self, run: Path) -> str | None:
        """Where the folder of a run is kept."""
        return None if self.uri is None else below(self.uri, run.relative_to(self.path).as_posix())

    def save(self) -> None:
        """Stores the study's own files. Raises StorageError, and TakenOverError where another driver goes on."""
        if self._remote is not None:
            self.keep_looks()
            self._remote.push()
            self._saved_at = self._clock()

    def save_rarely(self) -> None:
        """As `save`, but for the last seconds: what a new driver would find out again from the runs."""
        if self._clock() - self._saved_at >= _RARELY_S:
            self.save()

    def take(self, run: Path, *, models: bool = False) -> None:
        """Takes over what the process that trained a run stored; its checkpoints only with `models`."""
        if (uri := self.uri_of(run)) is not None:
            remote = RemoteFolder(uri, run, elsewhere=added_later)
            remote.pull(skip=none if models else in_checkpoint)
            (self._with_models.add if remote.holds_any(in_checkpoint) else self._with_models.discard)(run)

    def keep(self, run: Path) -> None:
        """Stores what was added to a run that has ended, its evaluations too; or an evaluation or a report alone."""
        for part in _parts(run):
            if (uri := self.uri_of(part)) is not None:
                _compared(uri, part).push()

    def keep_looks(self) -> None:
        """Stores the looks at test classes that were noted here: before the numbers that were seen."""
        if self._remote is not None and (piece := new_piece(self.path)) is not None:
            self.keep(piece)

    def has_checkpoint(self, path: Path) -> bool:
        """Whether a checkpoint is there: in its place, or in the newest snapshot of its run."""
        run = next(above for above in path.parents if above.parent.parent == self.path)
        uri = self.uri_of(run)
        if uri is None:
            return checkpoint.exists(path)
        return (path / "meta.json").relative_to(run).as_posix() in RemoteFolder(uri, run).stored()

    def drop_models(self, run: Path) -> None:
        """Removes the checkpoints of a run that has ended."""
        checkpoint.remove(run)
        # Of a search that goes on all ended trials but the best have none: that takes no request.
        if run in self._with_models and (uri := self.uri_of(run)) is not None:
            RemoteFolder(uri, run).drop(in_checkpoint)
            self._with_models.discard(run)

    def move(self, run: Path, to: Path) -> None:
        """Puts a run that has ended elsewhere in the study, without its models."""
        self.take(run)
        self.drop_models(run)
        shutil.rmtree(to, ignore_errors=True)
        to.parent.mkdir(parents=True, exist_ok=True)
        run.rename(to)
        self.keep(to)
        for part in _parts(to):
            if (old := self.uri_of(run / part.relative_to(to))) is not None:
                RemoteFolder(old, run).remove()


def _parts(run: Path) -> list[Path]:
    """The folders that are stored by themselves: the run, its evaluations, its report."""
    added = (*run.rglob(f"{EVALUATION}/*"), *run.glob(REPORT))
    return [run, *sorted(path for path in added if path.is_dir())]


def _compared(uri: str, run: Path) -> RemoteFolder:
    remote = RemoteFolder(uri, run, elsewhere=added_later)
    remote.compare()
    return remote

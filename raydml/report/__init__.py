"""Tables and pictures of searches and trainings: `python -m raydml.report RUN [RUN ...] [out=FOLDER]`.

Reads folders, those of a search that still runs too, and writes nothing into them but `report/`. Needs neither Ray nor
torch: a folder can be copied and reported on anywhere. A study at a URI is copied first, but for its models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raydml import atomic
from raydml.config import ConfigError
from raydml.report import rendering
from raydml.report.blocks import Block, Heading, Paragraph
from raydml.report.comparison import comparison_of
from raydml.report.contents import Contents
from raydml.report.finals_page import winners_blocks
from raydml.report.reading import Found, find
from raydml.report.runs_page import runs_blocks
from raydml.report.study import study_contents
from raydml.report.study_page import study_blocks
from raydml.report.trainings import run_contents
from raydml.report.winners import winners_of


@dataclass(frozen=True)
class Report:
    """A report on disk."""

    directory: Path
    """Where report.html, report.md, report.tex and report.json lie."""
    contents: Contents
    place: str | None = None
    """The URI at which the directory is kept, which is gone afterwards; None where it stays."""


def report(
    runs: Sequence[str | Path], *, out: str | Path | None = None, storage: str = "runs", metric: str | None = None
) -> Report:
    """Reports on studies and trainings. One goes into its own folder, several into `<storage>/comparison-<hash>`.

    Raises ConfigError where a folder holds neither, or a file of it is missing or broken; StorageError.
    """
    for name, value in (("out", out), ("storage", storage)):
        if value is not None and "://" in str(value):
            raise ConfigError(f"{name}: must be a folder of this machine, but got {value}")
    if not any("://" in str(run) for run in runs):
        return report_here(runs, out=out, storage=storage, metric=metric)
    # Whoever reports on a folder does without what this imports.
    from raydml.brought_runs import bringing

    with bringing() as brought:
        here = [brought.results(run) for run in runs]
        done = report_here(here, out=out, storage=storage, metric=metric, named=brought.named)
        brought.keep(done.directory)
        return replace(done, place=brought.place_of(done.directory))


def report_here(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    storage: str = "runs",
    metric: str | None = None,
    named: Callable[[Path], str] = str,
) -> Report:
    """As `report`, of folders; `named` is what the user calls them. Raises ConfigError."""
    names = [str(run) for run in runs]
    found = find(names)
    contents = contents_of(found, metric=metric)
    directory = Path(out).expanduser().resolve() if out else _directory(names, found, storage, named)
    _write(directory, contents, named)
    return Report(directory, contents)


def contents_of(found: Found, *, metric: str | None = None) -> Contents:
    """Every number of a report. Raises ConfigError."""
    studies = tuple(study_contents(directory) for directory in found.studies)
    runs = tuple(run_contents(directory) for directory in found.runs)
    metrics = {study.metric for study in studies}
    preferred = metrics.pop() if len(metrics) == 1 else None
    comparison, notes = comparison_of(runs, metric=metric, preferred=preferred)
    return Contents(studies=studies, runs=runs, comparison=comparison, winners=winners_of(studies), notes=tuple(notes))


def blocks_of(contents: Contents) -> list[Block]:
    """A report as a page, in no format yet."""
    blocks: list[Block] = [Heading(title_of(contents), 1)]
    blocks += [Paragraph(f"{note}.", warning=True) for note in contents.notes]
    for study in contents.studies:
        blocks += study_blocks(study)
    if contents.winners:
        blocks += winners_blocks(contents.winners)
    if contents.runs:
        blocks += runs_blocks(contents.runs, contents.comparison)
    return blocks


def title_of(contents: Contents) -> str:
    """The name of what is reported on."""
    if contents.studies:
        return f"Report: {', '.join(study.name for study in contents.studies)}"
    runs = contents.runs
    return f"Report: {runs[0].name}" if len(runs) == 1 else f"Report: {len(runs)} trainings"


def _directory(names: Sequence[str], found: Found, storage: str, named: Callable[[Path], str]) -> Path:
    if len(names) == 1:
        folder = Path(names[0]).expanduser().resolve()
        return (folder.parent if folder.is_file() else folder) / "report"
    # The same runs have the same folder, in whatever order they are named.
    places = json.dumps(sorted(map(named, (*found.studies, *found.runs))))
    digest = hashlib.sha256(places.encode()).hexdigest()[:8]
    return Path(storage).expanduser().resolve() / f"comparison-{digest}"


def _write(directory: Path, contents: Contents, named: Callable[[Path], str]) -> None:
    blocks = blocks_of(contents)
    told = contents.model_copy(
        update={
            "studies": tuple(s.model_copy(update={"directory": named(Path(s.directory))}) for s in contents.studies),
            "runs": tuple(r.model_copy(update={"directory": named(Path(r.directory))}) for r in contents.runs),
        }
    )
    pages = {
        "json": json.dumps(told.model_dump(mode="json"), indent=1, allow_nan=False) + "\n",
        "md": rendering.markdown(blocks),
        "tex": rendering.latex(blocks),
        "html": rendering.html(blocks, title=title_of(contents)),
    }
    try:
        for ending, text in pages.items():
            atomic.write_text(directory / f"report.{ending}", text)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror}") from None

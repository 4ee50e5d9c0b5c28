"""Tables and pictures of searches and trainings: `python -m raydml.report RUN [RUN ...] [out=FOLDER]`.

Reads folders, those of a search that still runs too, and writes nothing into them but `report/`. Needs neither Ray nor
torch: a folder can be copied and reported on anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
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


def report(
    runs: Sequence[str | Path], *, out: str | Path | None = None, storage: str = "runs", metric: str | None = None
) -> Report:
    """Reports on studies and trainings. One goes into its own folder, several into `<storage>/comparison-<hash>`.

    Raises ConfigError where a folder holds neither, or a file of it is missing or broken.
    """
    names = [str(run) for run in runs]
    found = find(names)
    contents = contents_of(found, metric=metric)
    directory = Path(out).expanduser().resolve() if out else _directory(names, found, storage)
    _write(directory, contents)
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


def _directory(names: Sequence[str], found: Found, storage: str) -> Path:
    if len(names) == 1:
        folder = Path(names[0]).expanduser().resolve()
        return (folder.parent if folder.is_file() else folder) / "report"
    # The same runs have the same folder, in whatever order they are named.
    places = json.dumps(sorted(map(str, (*found.studies, *found.runs))))
    digest = hashlib.sha256(places.encode()).hexdigest()[:8]
    return Path(storage).expanduser().resolve() / f"comparison-{digest}"


def _write(directory: Path, contents: Contents) -> None:
    blocks = blocks_of(contents)
    pages = {
        "json": json.dumps(contents.model_dump(mode="json"), indent=1, allow_nan=False) + "\n",
        "md": rendering.markdown(blocks),
        "tex": rendering.latex(blocks),
        "html": rendering.html(blocks, title=title_of(contents)),
    }
    try:
        for ending, text in pages.items():
            atomic.write_text(directory / f"report.{ending}", text)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror}") from None

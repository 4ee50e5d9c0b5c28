"""Blocks on a terminal; pictures are left to the HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from raydml.report.blocks import Block, Heading, Paragraph, Photograph, Picture, Table
from raydml.report.confirmation_page import confirmation_summary
from raydml.report.contents import StudyContents
from raydml.report.finals_page import final_summary


def summary_blocks(study: StudyContents) -> Iterator[Block]:
    """What a protocol found, in a screen: verdicts and means."""
    if study.confirm is not None:
        yield from confirmation_summary(study.confirm)
    if study.final is not None:
        yield from final_summary(study.final, confirmed=study.protocol["confirm"] is not None)


def print_blocks(console: Console, blocks: Iterable[Block]) -> None:
    """Words and tables."""
    for block in blocks:
        match block:
            case Heading(text, _):
                console.print(Text(f"\n{text}", style="bold"))
            case Paragraph(text, warning):
                console.print(Text(text, style="yellow" if warning else ""), soft_wrap=True)
            case Table():
                console.print(_table(block))
            case Picture() | Photograph():
                pass


def _table(block: Table) -> RichTable:
    found = RichTable(title=Text(block.caption), title_justify="left", show_header=any(block.header))
    for place, heading in enumerate(block.header):
        found.add_column(Text(heading), justify="left" if place in block.words else "right", overflow="fold")
    for row in block.rows:
        found.add_row(*map(Text, row))
    return found

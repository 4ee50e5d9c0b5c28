"""The part of a search's page that is about its protocol: the plan, then what each phase found."""

from __future__ import annotations

from collections.abc import Iterator

from raydml.report.blocks import Block
from raydml.report.confirmation_page import confirmation_blocks
from raydml.report.contents import StudyContents
from raydml.report.finals_page import final_blocks, looks_blocks
from raydml.report.plan_page import plan_blocks


def phases_blocks(study: StudyContents) -> Iterator[Block]:
    """Protocol, confirming runs, test classes."""
    yield from plan_blocks(study)
    if study.confirm is not None:
        yield from confirmation_blocks(study.confirm)
    if study.final is not None:
        yield from final_blocks(study.final, confirmed=study.protocol["confirm"] is not None)
    yield from looks_blocks(study)
